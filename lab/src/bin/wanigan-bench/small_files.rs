//! Many small files: round trips, of which a proxy that asks the server each time must not add any.
//!
//! By SMB one session of `smbclient` gets them all; by HTTP `curl` opens a connection for each.

use anyhow::{Context, Result};
use wanigan_lab::content::{self, Digest};
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, Files, ROUNDS, files, in_a_lab, median_of};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// A directory of small files, the same for both protocols' way to name them.
struct Directory {
    name: String,
    files: Vec<(String, Digest)>,
}

/// Costs of one protocol.
struct Found {
    direct: Cost,
    cold: Cost,
    warm: Cost,
}

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let about = format!(
        "{FILES} files of {} KiB: by SMB in one session, by HTTP with a new connection each.",
        BYTES >> 10
    );
    let heads = &["files", "direct", "cold", "warm", "cold and warm to direct: time"];
    let mut report = Report::new(about, heads);
    for protocol in Protocol::BOTH {
        let found = in_a_lab(1, |lab| one(lab, protocol))?;
        let [cold, warm] = [found.cold, found.warm].map(|cost| cost.to(found.direct).0);
        let cells = [found.direct, found.cold, found.warm].map(|cost| cost.cell(FILES * BYTES));
        report.row(
            [protocol.name().to_owned()].into_iter().chain(cells).chain([format!("{cold:.3}, {warm:.3}")]),
        );
        let limit = match protocol {
            Protocol::Smb => 1.03,
            Protocol::Http => 1.0,
        };
        report.at_most(limit, cold, &format!("small files cold by {}, time to direct", protocol.name()));
        report.at_most(limit, warm, &format!("small files warm by {}, time to direct", protocol.name()));
    }
    Ok(report)
}

fn one(lab: &Lab, protocol: Protocol) -> Result<Found> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let (mut direct, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let directory = Directory::publish(&scene, protocol, round)?;
        direct.push(directory.read(&scene, protocol, Path::Direct)?);
        cold.push(directory.read(&scene, protocol, Path::Wanigan)?);
        warm.push(directory.read(&scene, protocol, Path::Wanigan)?);
    }
    scene.expect_nothing_went_direct()?;
    Ok(Found { direct: median_of(direct)?, cold: median_of(cold)?, warm: median_of(warm)? })
}

impl Directory {
    fn publish(scene: &Scene<'_>, protocol: Protocol, round: usize) -> Result<Self> {
        let name = format!("small{round}");
        let root = match protocol {
            Protocol::Smb => scene.smbd.share(),
            Protocol::Http => scene.nginx.files(),
        };
        std::fs::create_dir(root.join(&name)).context("make a directory")?;
        let one = |number: usize| {
            let file = format!("file{number}");
            let path = root.join(&name).join(&file);
            Ok((file, content::write(&path, (700 + round * 1000 + number) as u64, BYTES)?))
        };
        let files = (0..FILES).map(one).collect::<Result<_>>()?;
        Ok(Self { name, files })
    }

    fn read(&self, scene: &Scene<'_>, protocol: Protocol, path: Path) -> Result<Cost> {
        files(scene.lab, || self.get(scene, protocol, path))
    }

    fn get(&self, scene: &Scene<'_>, protocol: Protocol, path: Path) -> Result<Files> {
        let names: Vec<String> = self.files.iter().map(|(name, _)| name.clone()).collect();
        let received = match protocol {
            Protocol::Smb => scene.smbclient(path).get_all(&self.name, &names, LIMIT)?,
            Protocol::Http => {
                let paths: Vec<String> = names.iter().map(|name| format!("{}/{name}", self.name)).collect();
                scene.curl(path).get_each(&paths, LIMIT)?
            }
        };
        Ok(received.into_iter().zip(self.files.iter().map(|(_, digest)| *digest)).collect())
    }
}

const FILES: usize = 100;
const BYTES: usize = 8 << 10;
