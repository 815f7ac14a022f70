//! Content that the branch has, under another name, on another share, by another protocol: as when the same client reads it
//! again under its own name, but for a reference for each block.

use anyhow::{Context, Result};
use wanigan_lab::content;
use wanigan_lab::servers::smbd::{ARCHIVE, Encryption};
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, ROUNDS, files, in_a_lab, median, median_of};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// What was measured for content that one protocol brought.
struct Found {
    /// A read of the same by the same protocol.
    warm: Cost,
    elsewhere: Vec<Elsewhere>,
}

/// A read of it elsewhere.
struct Elsewhere {
    name: &'static str,
    reader: Protocol,
    cost: Cost,
}

/// Measures the scenario.
pub(crate) fn measure(bytes: usize) -> Result<Report> {
    let about = format!(
        "The same {} MiB read again: under their own name, and where they were never read. A block is 64 KiB, and a reference \
         counts for {REFERENCE_BYTES} bytes.",
        bytes >> 20
    );
    let mut report =
        Report::new(about, &["read", "time, link bytes", "bytes more than its client's warm read, a block"]);
    let smb = in_a_lab(1, |lab| by_smb(lab, bytes))?;
    let http = in_a_lab(1, |lab| by_http(lab, bytes))?;
    for (protocol, found) in Protocol::BOTH.into_iter().zip([&smb, &http]) {
        report.row([format!("{}, its own name", protocol.client()), found.warm.cell(bytes)]);
        for Elsewhere { name, reader, cost } in &found.elsewhere {
            let warm = if *reader == Protocol::Smb { smb.warm } else { http.warm };
            let more = (cost.wan_bytes as f64 - warm.wan_bytes as f64) / bytes.div_ceil(BLOCK) as f64;
            report.row([(*name).to_owned(), cost.cell(bytes), format!("{more:.1}")]);
            let what = format!("{name}, link bytes a block beyond those of a warm read");
            report.at_most(REFERENCE_BYTES, more, &what);
        }
    }
    Ok(report)
}

fn by_smb(lab: &Lab, bytes: usize) -> Result<Found> {
    let (scene, warm, content) = brought(lab, Protocol::Smb, bytes)?;
    let (mut names, mut shares, mut https) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("copy{round}");
        let digest = scene.publish(Protocol::Smb, &name, &content)?;
        names.push(scene.read(Protocol::Smb, Path::Wanigan, &name, digest)?);
        let name = format!("archived{round}");
        std::fs::write(scene.smbd.archive().join(&name), &content).context("fill the archive")?;
        let archive = scene.smbclient(Path::Wanigan).share(ARCHIVE);
        shares.push(files(lab, || Ok(vec![(archive.get(&name, LIMIT)?, digest)]))?);
        let name = format!("web{round}");
        scene.publish(Protocol::Http, &name, &content)?;
        https.push(scene.read(Protocol::Http, Path::Wanigan, &name, digest)?);
    }
    scene.expect_nothing_went_direct()?;
    let elsewhere = vec![
        Elsewhere::new("smbclient, another name", Protocol::Smb, names)?,
        Elsewhere::new("smbclient, another share", Protocol::Smb, shares)?,
        Elsewhere::new("curl, what smbclient brought", Protocol::Http, https)?,
    ];
    Ok(Found { warm, elsewhere })
}

fn by_http(lab: &Lab, bytes: usize) -> Result<Found> {
    let (scene, warm, content) = brought(lab, Protocol::Http, bytes)?;
    let (mut names, mut smbs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("copy{round}");
        let digest = scene.publish(Protocol::Http, &name, &content)?;
        names.push(scene.read(Protocol::Http, Path::Wanigan, &name, digest)?);
        scene.publish(Protocol::Smb, &name, &content)?;
        smbs.push(scene.read(Protocol::Smb, Path::Wanigan, &name, digest)?);
    }
    scene.expect_nothing_went_direct()?;
    let elsewhere = vec![
        Elsewhere::new("curl, another name", Protocol::Http, names)?,
        Elsewhere::new("smbclient, what curl brought", Protocol::Smb, smbs)?,
    ];
    Ok(Found { warm, elsewhere })
}

impl Elsewhere {
    fn new(name: &'static str, reader: Protocol, costs: Vec<Cost>) -> Result<Self> {
        Ok(Self { name, reader, cost: median_of(costs)? })
    }
}

/// Has content read cold, and then warm.
fn brought(lab: &Lab, protocol: Protocol, bytes: usize) -> Result<(Scene<'_>, Cost, Vec<u8>)> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let content = content::bytes(500, bytes);
    let digest = scene.publish(protocol, "file", &content)?;
    scene.read_cold(protocol, "file", digest, bytes)?;
    let warm = median(|| scene.read(protocol, Path::Wanigan, "file", digest))?;
    Ok((scene, warm, content))
}

const BLOCK: usize = 64 << 10;
/// Kind, digest, length, number, slice, and the frame's and the packet's part.
const REFERENCE_BYTES: f64 = 64.0;
