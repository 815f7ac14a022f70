//! Eight SMB clients, and one by HTTP, read one file one after the other: how much of it the branch had already for each.
//!
//! They cut the file into reads of other sizes, so what one brings is not in pieces that the next one asks for. Who begins
//! matters for the same reason: another client does in each round, and what is shown of the others is their worst. The share
//! of hits is payload written from the edge's own store or from a peer, of all payload; a fetch from the core is a miss.

use anyhow::Result;
use wanigan_lab::clients::Received;
use wanigan_lab::clients::programs::Program;
use wanigan_lab::content::Digest;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{Cost, files, in_a_lab, middle};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// What one client's reads took, one of another file in each round; those apart that found nothing to find.
#[derive(Debug)]
struct Reads {
    client: Client,
    first: Vec<Read>,
    later: Vec<Read>,
}

/// One read.
#[derive(Debug, Clone, Copy)]
struct Read {
    cost: Cost,
    /// Percent of the payload that the branch had.
    hits: f64,
    /// Percent of the payload that came encrypted; the rest of an encrypted message counts too.
    encrypted: f64,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Smb(Program),
    Curl,
}

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let beginners = FIRST.map(Program::name).join(", ");
    let about = format!(
        "Eight SMB clients and curl read one file of {} MiB, one after the other; signing required, {} files. With each another \
         client begins ({beginners}); of the others the fewest hits and the most bytes are shown. Then the clients as they are of \
         themselves at a server that offers encryption, once: what is encrypted is not saved.",
        BYTES >> 20,
        FIRST.len()
    );
    let mut report = Report::new(about, &["client", "hits", "WAN bytes", "time", "encrypted"]);
    let all = clients().chain([Client::Curl]).collect();
    let plain = in_a_lab(1, |lab| rounds(lab, Encryption::Off, all, &FIRST))?;
    for reads in plain {
        let name = reads.client.name();
        row(&mut report, &format!("{name}, the first"), &reads.first)?;
        let Some(hits) = row(&mut report, name, &reads.later)? else { continue };
        if let Client::Smb(_) = reads.client {
            report.target(
                hits >= 95.0,
                format!("{name} finds {hits:.2} % of its payload in the branch, at least 95 %"),
            );
        }
    }
    let offered = |lab: &Lab| rounds(lab, Encryption::Offered, clients().collect(), &FIRST[..1]);
    for reads in in_a_lab(1, offered)? {
        let name = format!("{}, encryption offered", reads.client.name());
        row(&mut report, &format!("{name}, the first"), &reads.first)?;
        row(&mut report, &name, &reads.later)?;
    }
    Ok(report)
}

fn clients() -> impl Iterator<Item = Client> {
    Program::ALL.into_iter().map(Client::Smb)
}

/// Has clients read a file after the other; who follows whom is always the same, and only who begins differs.
fn rounds(lab: &Lab, encryption: Encryption, clients: Vec<Client>, first: &[Program]) -> Result<Vec<Reads>> {
    let scene = Scene::start(lab, encryption)?;
    let empty = |client| Reads { client, first: Vec::new(), later: Vec::new() };
    let mut all: Vec<Reads> = clients.into_iter().map(empty).collect();
    for (round, first) in first.iter().enumerate() {
        let (file, seed) = (format!("file{round}"), 200 + round as u64);
        let digest = scene.publish_seeded(Protocol::Smb, &file, seed, BYTES)?;
        scene.publish_seeded(Protocol::Http, &file, seed, BYTES)?;
        let begins = all.iter().position(|reads| reads.client == Client::Smb(*first)).unwrap_or_default();
        for turn in 0..all.len() {
            let number = (begins + turn) % all.len();
            let reads = &mut all[number];
            eprintln!("  {}:", reads.client.name());
            let read = Read::measure(&scene, digest, || reads.client.get(&scene, &file))?;
            if turn == 0 { &mut reads.first } else { &mut reads.later }.push(read);
        }
    }
    scene.expect_nothing_went_direct()?;
    Ok(all)
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Smb(program) => program.name(),
            Self::Curl => "curl, by HTTP",
        }
    }

    fn get(self, scene: &Scene<'_>, file: &str) -> Result<Received> {
        match self {
            Self::Smb(program) => program.get(scene.lab.client(0), scene.lab.directory(), file, LIMIT),
            Self::Curl => scene.get(Protocol::Http, Path::Wanigan, file),
        }
    }
}

impl Read {
    fn measure(scene: &Scene<'_>, digest: Digest, get: impl FnOnce() -> Result<Received>) -> Result<Self> {
        let encrypted = || scene.pair.core.metric("wanigan_opaque_bytes_total", "reason=\"smb_encrypted\"");
        let before = (scene.pair.edge.hit_bytes()?, encrypted()?);
        let cost = files(scene.lab, || Ok(vec![(get()?, digest)]))?;
        let percent = |bytes: u64| bytes as f64 / BYTES as f64 * 100.0;
        // A client may read twice, as rclone does after an interim response of smbd, which is not signed.
        let hits = percent(scene.pair.edge.hit_bytes()? - before.0).min(100.0);
        Ok(Self { cost, hits, encrypted: percent(encrypted()? - before.1) })
    }
}

/// Adds a row for reads, if there are any: their fewest hits, which it returns, most bytes, and median of time.
fn row(report: &mut Report, name: &str, reads: &[Read]) -> Result<Option<f64>> {
    if reads.is_empty() {
        return Ok(None);
    }
    let hits = reads.iter().map(|read| read.hits).fold(f64::INFINITY, f64::min);
    let most = reads.iter().map(|read| read.cost.percent(BYTES)).fold(0.0, f64::max);
    let seconds = middle(reads.iter().map(|read| read.cost.seconds).collect())?;
    let encrypted = middle(reads.iter().map(|read| read.encrypted).collect())?;
    let encrypted = if encrypted < 1.0 { String::new() } else { format!("{encrypted:.0} %") };
    let cells = [format!("{hits:.2} %"), format!("{most:.2} %"), format!("{seconds:.2} s"), encrypted];
    report.row([name.to_owned()].into_iter().chain(cells));
    Ok(Some(hits))
}

/// Who begins, in turn: reads of 8 MiB, reads aligned to nothing, and reads that grow.
const FIRST: [Program; 3] = [Program::SmbClient, Program::SmbGet, Program::Rclone];
const BYTES: usize = 32 << 20;
