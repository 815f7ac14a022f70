//! A file into which a few bytes were inserted here and there: what reading it, or writing it back, moves over the WAN, and
//! what rsync moves to bring the same edit where the old copy lies.
//!
//! The edits build on each other, as in an office. The edge saw each former version pass, and rsync has it in place. By SMB
//! the file is first read, edited at the server and read again; then the client edits it and puts it back. HTTP has a file of
//! its own, or it would find in the branch what SMB brought.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use wanigan_lab::clients::rsync;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::servers::rsyncd::Rsyncd;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, ROUNDS, in_a_lab, median_of, timed};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// A file at its last edit.
struct Edited {
    bytes: Vec<u8>,
    seed: u64,
}

/// What an edit cost, this way and by rsync.
#[derive(Debug, Default)]
struct Edits {
    wanigan: Vec<Cost>,
    rsync: Vec<Cost>,
}

/// Measures the scenario.
pub(crate) fn measure(bytes: usize) -> Result<Report> {
    let about = format!(
        "A file of {} MiB after {INSERTS} inserts of 1 to 2,000 bytes, the former version seen before: bytes on the WAN as a \
         share of the file. rsync: daemon, no compression, the former version in place.",
        bytes >> 20
    );
    let mut report = Report::new(about, &["edit", "Wanigan", "rsync", "Wanigan to rsync: bytes"]);
    for (name, edits) in in_a_lab(1, |lab| all(lab, bytes))? {
        let (wanigan, rsync) = (median_of(edits.wanigan)?, median_of(edits.rsync)?);
        let ratio = wanigan.to(rsync).1;
        let cells =
            [wanigan, rsync].map(|cost| format!("{:.2} s, {:.3} %", cost.seconds, cost.percent(bytes)));
        report.row([name.to_owned()].into_iter().chain(cells).chain([format!("{ratio:.3}")]));
        report.at_most(1.3, ratio, &format!("{name}, bytes to those of rsync"));
    }
    Ok(report)
}

fn all(lab: &Lab, bytes: usize) -> Result<Vec<(&'static str, Edits)>> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let rsyncd = Rsyncd::start(lab)?;
    let mut at_smb = Edited::new(300, bytes);
    let read_smb = read(&scene, &rsyncd, Protocol::Smb, &mut at_smb)?;
    let put_smb = put(&scene, &rsyncd, &mut at_smb)?;
    let read_http = read(&scene, &rsyncd, Protocol::Http, &mut Edited::new(301, bytes))?;
    scene.expect_nothing_went_direct()?;
    Ok(vec![("read by smbclient", read_smb), ("read by curl", read_http), ("put by smbclient", put_smb)])
}

/// Somebody edits the file at the server.
fn read(scene: &Scene<'_>, rsyncd: &Rsyncd, protocol: Protocol, file: &mut Edited) -> Result<Edits> {
    let digest = scene.publish(protocol, NAME, &file.bytes)?;
    scene.read_cold(protocol, NAME, digest, file.bytes.len())?;
    let mut edits = Edits::default();
    for _ in 0..ROUNDS {
        let local = scene.lab.path("rsync-local");
        std::fs::write(&local, &file.bytes).context("put an old copy to the client")?;
        let digest = file.edit();
        std::fs::write(rsyncd.files().join(NAME), &file.bytes).context("edit rsync's file")?;
        edits.rsync.push(timed(scene.lab, || rsync::get(scene.lab.client(0), NAME, &local, LIMIT))?);
        ensure!(Digest::of_file(&local)? == digest, "rsync brought something else");
        scene.publish(protocol, NAME, &file.bytes)?;
        edits.wanigan.push(scene.read(protocol, Path::Wanigan, NAME, digest)?);
    }
    Ok(edits)
}

/// The client edits the file that it read.
fn put(scene: &Scene<'_>, rsyncd: &Rsyncd, file: &mut Edited) -> Result<Edits> {
    let mut edits = Edits::default();
    for _ in 0..ROUNDS {
        let at_rsync: PathBuf = rsyncd.files().join(NAME);
        std::fs::write(&at_rsync, &file.bytes).context("put an old copy to the server")?;
        let digest = file.edit();
        let local = scene.lab.path("put-local");
        std::fs::write(&local, &file.bytes).context("edit the client's file")?;
        edits.rsync.push(timed(scene.lab, || rsync::put(scene.lab.client(0), &local, NAME, LIMIT))?);
        ensure!(Digest::of_file(&at_rsync)? == digest, "rsync brought something else");
        let smbclient = scene.smbclient(Path::Wanigan);
        edits.wanigan.push(timed(scene.lab, || Ok(smbclient.put(&local, NAME, LIMIT)?.took))?);
        let arrived = Digest::of_file(&scene.smbd.share().join(NAME))?;
        ensure!(arrived == digest, "the server got something else");
    }
    Ok(edits)
}

impl Edited {
    fn new(seed: u64, length: usize) -> Self {
        Self { bytes: content::bytes(seed, length), seed: seed * 100 }
    }

    fn edit(&mut self) -> Digest {
        self.seed += 1;
        self.bytes = content::with_inserts(&self.bytes, self.seed, INSERTS);
        Digest::of(&self.bytes)
    }
}

const INSERTS: usize = 24;
const NAME: &str = "document";
