//! Incompressible content that nobody has: what Wanigan costs where it cannot help.
//!
//! Each file is read directly and through Wanigan in turn, over the same link in the same lab.

use anyhow::Result;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::measure::{Cost, ROUNDS, in_a_lab, median_of};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let about = format!(
        "Cold reads of {} MiB of incompressible data, directly and through Wanigan in turn.",
        BYTES >> 20
    );
    let mut report = Report::new(about, &["client", "direct", "Wanigan", "Wanigan to direct: time, bytes"]);
    let found = in_a_lab(1, all)?;
    for (protocol, direct, wanigan) in found {
        let (time, bytes) = wanigan.to(direct);
        let client = protocol.client();
        report.row([
            client.to_owned(),
            direct.cell(BYTES),
            wanigan.cell(BYTES),
            format!("{time:.3}, {bytes:.4}"),
        ]);
        report.at_most(1.02, time, &format!("cold by {client}, time to direct"));
        report.at_most(1.02, bytes, &format!("cold by {client}, bytes to direct"));
    }
    Ok(report)
}

fn all(lab: &Lab) -> Result<Vec<(Protocol, Cost, Cost)>> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let mut found = Vec::new();
    for (number, protocol) in Protocol::BOTH.into_iter().enumerate() {
        let (mut direct, mut wanigan) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (name, seed) = (format!("file{round}"), (600 + 10 * number + round) as u64);
            let digest = scene.publish_seeded(protocol, &name, seed, BYTES)?;
            direct.push(scene.read(protocol, Path::Direct, &name, digest)?);
            wanigan.push(scene.read_cold(protocol, &name, digest, BYTES)?);
        }
        found.push((protocol, median_of(direct)?, median_of(wanigan)?));
    }
    scene.expect_nothing_went_direct()?;
    Ok(found)
}

const BYTES: usize = 32 << 20;
