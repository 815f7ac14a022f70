//! Text that nobody has: what crosses beside a direct download of the same text compressed as a whole, by `zstd -3`.
//!
//! Each read has a lab of its own: there is only so much text on a machine, and after the first read the branch has it.

use std::process::Command;

use anyhow::{Context, Result};
use wanigan_lab::content::{self, Digest};
use wanigan_lab::process::run;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, ROUNDS, in_a_lab, median_of};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let about = format!(
        "Cold reads of {} MiB of text (files of Debian's packages, one after the other), beside a direct curl of the same \
         text compressed by `zstd -3`. Bytes as a share of the text.",
        BYTES >> 20
    );
    let heads = &["client", "curl of the zstd -3 file", "Wanigan", "Wanigan to zstd -3: bytes"];
    let mut report = Report::new(about, heads);
    for protocol in Protocol::BOTH {
        let (mut packed, mut wanigan) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (one, other) = in_a_lab(1, |lab| once(lab, protocol, round as u64))?;
            packed.push(one);
            wanigan.push(other);
        }
        let (packed, wanigan) = (median_of(packed)?, median_of(wanigan)?);
        let (ratio, client) = (wanigan.to(packed).1, protocol.client());
        report.row([client.to_owned(), packed.cell(BYTES), wanigan.cell(BYTES), format!("{ratio:.3}")]);
        report.at_most(1.02, ratio, &format!("text by {client}, bytes to those of zstd -3"));
    }
    Ok(report)
}

/// Returns the costs of the compressed file and of a read through Wanigan.
fn once(lab: &Lab, protocol: Protocol, seed: u64) -> Result<(Cost, Cost)> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let text = content::text(seed, BYTES)?;
    let digest = scene.publish(protocol, "text", &text)?;
    let (from, to) = (lab.path("text"), scene.nginx.files().join("text.zst"));
    std::fs::write(&from, &text).context("write the text")?;
    let mut zstd = Command::new("zstd");
    run(zstd.args(["-3", "-q"]).arg(&from).arg("-o").arg(&to), LIMIT)?.ok().context("zstd -3")?;
    let packed = scene.read(Protocol::Http, Path::Direct, "text.zst", Digest::of_file(&to)?)?;
    let wanigan = scene.read(protocol, Path::Wanigan, "text", digest)?;
    scene.expect_nothing_went_direct()?;
    Ok((packed, wanigan))
}

const BYTES: usize = 32 << 20;
