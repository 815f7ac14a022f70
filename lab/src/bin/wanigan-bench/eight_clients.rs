//! Eight SMB clients, and one by HTTP, read one file one after the other: how much of it the branch had already for each.
//!
//! They cut the file into reads of other sizes, so what one brings is not in pieces that the next one asks for. The share of
//! hits is payload written from the edge's own store or from a peer, of all payload; a fetch from the core is a miss.

use anyhow::Result;
use wanigan_lab::clients::Received;
use wanigan_lab::clients::programs::Program;
use wanigan_lab::content::Digest;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, ROUNDS, files, in_a_lab, median_of, middle};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// What a client's reads took, one of another file in each round.
#[derive(Debug, Default)]
struct Reads {
    costs: Vec<Cost>,
    /// Percent of the payload that the branch had.
    hits: Vec<f64>,
    /// Percent of the payload that came encrypted; the rest of a message counts too.
    encrypted: Vec<f64>,
}

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let about = format!(
        "Eight SMB clients and curl read one file of {} MiB, one after the other; signing required, median of {ROUNDS} files. \
         Then the clients as they are of themselves, at a server that offers encryption, once: what is encrypted is not saved.",
        BYTES >> 20
    );
    let mut report = Report::new(about, &["client", "hits", "WAN bytes", "time", "encrypted"]);
    let plain = in_a_lab(1, |lab| rounds(lab, Encryption::Off, ROUNDS))?;
    for (number, (name, reads)) in plain.into_iter().enumerate() {
        let hits = middle(reads.hits.clone())?;
        reads.row(&mut report, if number == 0 { format!("{name}, the first") } else { name.to_owned() })?;
        if number > 0 && name != HTTP {
            report.target(
                hits >= 95.0,
                format!("{name} finds {hits:.2} % of its payload in the branch, at least 95 %"),
            );
        }
    }
    for (name, reads) in in_a_lab(1, |lab| rounds(lab, Encryption::Offered, 1))? {
        reads.row(&mut report, format!("{name}, encryption offered"))?;
    }
    Ok(report)
}

fn rounds(lab: &Lab, encryption: Encryption, rounds: usize) -> Result<Vec<(&'static str, Reads)>> {
    let scene = Scene::start(lab, encryption)?;
    let names = Program::ALL.into_iter().map(Program::name).chain([HTTP]);
    let mut all: Vec<(&'static str, Reads)> = names.map(|name| (name, Reads::default())).collect();
    for round in 0..rounds {
        let (file, seed) = (format!("file{round}"), 200 + round as u64);
        let digest = scene.publish_seeded(Protocol::Smb, &file, seed, BYTES)?;
        scene.publish_seeded(Protocol::Http, &file, seed, BYTES)?;
        for (number, (_, reads)) in all.iter_mut().enumerate() {
            reads.add(&scene, digest, || match Program::ALL.get(number) {
                Some(program) => program.get(lab.client(0), lab.directory(), &file, LIMIT),
                None => scene.get(Protocol::Http, Path::Wanigan, &file),
            })?;
        }
    }
    scene.expect_nothing_went_direct()?;
    Ok(all)
}

impl Reads {
    fn add(
        &mut self,
        scene: &Scene<'_>,
        digest: Digest,
        get: impl FnOnce() -> Result<Received>,
    ) -> Result<()> {
        let encrypted = || scene.pair.core.metric("wanigan_opaque_bytes_total", "reason=\"smb_encrypted\"");
        let before = (scene.pair.edge.hit_bytes()?, encrypted()?);
        self.costs.push(files(scene.lab, || Ok(vec![(get()?, digest)]))?);
        let percent = |bytes: u64| bytes as f64 / BYTES as f64 * 100.0;
        self.hits.push(percent(scene.pair.edge.hit_bytes()? - before.0));
        self.encrypted.push(percent(encrypted()? - before.1));
        Ok(())
    }

    fn row(self, report: &mut Report, name: String) -> Result<()> {
        let cost = median_of(self.costs)?;
        let (hits, encrypted) = (middle(self.hits)?, middle(self.encrypted)?);
        let encrypted = if encrypted < 1.0 { String::new() } else { format!("{encrypted:.0} %") };
        let wan = format!("{:.2} %", cost.percent(BYTES));
        report.row([name, format!("{hits:.2} %"), wan, format!("{:.2} s", cost.seconds), encrypted]);
        Ok(())
    }
}

const HTTP: &str = "curl, by HTTP";
const BYTES: usize = 32 << 20;
