//! Content that the branch has, under another name, on another share, by another protocol: as warm, but for a reference for
//! each block.

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
    warm: Cost,
    others: Vec<(&'static str, Cost)>,
}

/// Measures the scenario.
pub(crate) fn measure(bytes: usize) -> Result<Report> {
    let about = format!(
        "The same {} MiB read again: under their own name, and where they were never read. A block is 64 KiB, and a reference \
         counts for {REFERENCE_BYTES} bytes.",
        bytes >> 20
    );
    let mut report = Report::new(about, &["read", "time, link bytes", "bytes more than warm, a block"]);
    for brought_by in Protocol::BOTH {
        let found = in_a_lab(1, |lab| match brought_by {
            Protocol::Smb => by_smb(lab, bytes),
            Protocol::Http => by_http(lab, bytes),
        })?;
        report.row([format!("{}, its own name", brought_by.client()), found.warm.cell(bytes)]);
        for (name, cost) in found.others {
            let more = (cost.wan_bytes as f64 - found.warm.wan_bytes as f64) / (bytes as f64 / BLOCK as f64);
            report.row([name.to_owned(), cost.cell(bytes), format!("{more:.1}")]);
            report.at_most(
                REFERENCE_BYTES,
                more,
                &format!("{name}, link bytes a block beyond those of a warm read"),
            );
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
    let others = vec![
        ("smbclient, another name", median_of(names)?),
        ("smbclient, another share", median_of(shares)?),
        ("curl, what smbclient brought", median_of(https)?),
    ];
    Ok(Found { warm, others })
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
    let others =
        vec![("curl, another name", median_of(names)?), ("smbclient, what curl brought", median_of(smbs)?)];
    Ok(Found { warm, others })
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
