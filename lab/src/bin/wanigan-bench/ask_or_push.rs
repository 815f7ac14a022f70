//! Whether to name a block or to send it, where what the core remembers of the edge is right and where it is not: the core was
//! started again and remembers nothing, the edge lost its store and says so or cannot, or its store holds less than one file.
//!
//! Everything is read directly first, then through Wanigan in these states, one after the other in the same lab, over the
//! same link; the edge that holds too little has a lab of its own, in which its cold reads stand beside its later ones. Of the
//! payload the edge says where it took it from: *had* is what its store had, *fetched* what it was named and did not have, so
//! that it asked the core for it, and *pushed* what came in blocks of itself. The rest is pieces that are no block.
//!
//! Of one large file, by SMB, of which a flow carries it all; and of small ones by HTTP, of which each has a flow of its own
//! that ends before it would ask. A node that was restarted has a new link, and QUIC begins on it by sending faster
//! than the line, until that drops some: up to 900 KB more cross once, whatever is read.

use anyhow::{Result, ensure};
use wanigan_lab::content::Digest;
use wanigan_lab::node::{Loss, Memory, Mode, Setup};
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{self, Cost, Files, ROUNDS, in_a_lab, median_of, middle};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// What the edge is when it is read through, or that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Direct,
    Cold,
    Warm,
    CoreRestarted,
    StoreEmptied,
    StoreLost,
    StoreTooSmall,
    /// A second read.
    Again,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// One file, by `smbclient`.
    Large,
    /// Many, by `curl`, over a connection each.
    Small,
}

/// What was read in one state, and its medians.
#[derive(Debug)]
struct Reads {
    state: State,
    costs: Vec<Cost>,
    /// Percent of the payload that the edge had, fetched and was pushed.
    sources: [Vec<f64>; 3],
}

/// Measures the scenario.
pub(crate) fn measure(_: usize) -> Result<Report> {
    let about = format!(
        "What the core believes of the edge, and what is true: a file of {} MiB by smbclient, and {FILES} of {} KiB by curl, \
         with a new connection each.",
        LARGE >> 20,
        SMALL >> 10
    );
    let heads = &["read", "time, link bytes", "to cold: time, bytes", "had", "fetched", "pushed"];
    let mut report = Report::new(about, heads);
    let large = in_a_lab(1, |lab| rounds(lab, edge(lab), Content::Large, &LARGE_STATES))?;
    add(&mut report, "", Content::Large, large)?;
    let too_small = in_a_lab(1, |lab| rounds(lab, small_edge(lab), Content::Large, &TOO_SMALL_STATES))?;
    add(&mut report, "store of a quarter of it, ", Content::Large, too_small)?;
    let small = in_a_lab(1, |lab| rounds(lab, edge(lab), Content::Small, &SMALL_STATES))?;
    add(&mut report, "small files, ", Content::Small, small)?;
    Ok(report)
}

/// Reads new content in each round, in one state after the other.
fn rounds(lab: &Lab, edge: Setup<'_>, content: Content, states: &[State]) -> Result<Vec<Reads>> {
    let mut scene = Scene::start_with(lab, Encryption::Off, edge)?;
    let mut all: Vec<Reads> = states.iter().copied().map(Reads::new).collect();
    for round in 0..ROUNDS {
        let files = content.publish(&scene, round)?;
        for reads in &mut all {
            eprintln!("  {}:", reads.state.name());
            reads.state.bring_about(&mut scene, round)?;
            reads.measure(&scene, content, &files)?;
        }
    }
    scene.expect_nothing_went_direct()?;
    Ok(all)
}

fn edge(lab: &Lab) -> Setup<'_> {
    Setup::edge(lab, Mode::Tproxy)
}

/// Returns an edge whose store is smaller than the file.
fn small_edge(lab: &Lab) -> Setup<'_> {
    edge(lab).store_size(STORE_MIB).memory(Memory { store: 1, ..Memory::PLENTY })
}

/// Adds rows for reads of one lab, and holds them against the targets.
fn add(report: &mut Report, prefix: &str, content: Content, all: Vec<Reads>) -> Result<()> {
    let medians: Vec<(State, Cost)> =
        all.iter().map(|reads| Ok((reads.state, median_of(reads.costs.clone())?))).collect::<Result<_>>()?;
    let cold = medians.iter().find(|(state, _)| *state == State::Cold).map(|(_, cost)| *cost);
    for (reads, (state, cost)) in all.into_iter().zip(medians) {
        let Some((time, bytes)) = cold.map(|cold| cost.to(cold)) else { continue };
        let name = format!("{prefix}{}", state.name());
        let [had, fetched, pushed] = reads.sources.map(middle);
        let shares = [had?, fetched?, pushed?].map(|share| format!("{share:.2} %"));
        let cells = [name.clone(), cost.cell(content.bytes()), format!("{time:.3}, {bytes:.4}")];
        report.row(cells.into_iter().chain(shares));
        let percent = cost.percent(content.bytes());
        match (state, content) {
            (State::CoreRestarted, _) => {
                report.at_most(
                    content.restart_percent_max(),
                    percent,
                    &format!("{name}, link bytes in percent of the payload"),
                );
            }
            (State::StoreEmptied | State::StoreLost | State::StoreTooSmall, _) => {
                report.at_most(1.05, bytes, &format!("{name}, bytes to cold"));
                report.at_most(1.1, time, &format!("{name}, time to cold"));
            }
            (State::Again, Content::Large) => {
                report.at_most(1.0, percent, &format!("{name}, link bytes in percent of the payload"));
            }
            _ => {}
        }
    }
    Ok(())
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "directly",
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::CoreRestarted => "the core restarted",
            Self::StoreEmptied => "the store emptied, the core told",
            Self::StoreLost => "the store lost, the core not told",
            Self::StoreTooSmall => "a second time",
            Self::Again => "once more",
        }
    }

    fn bring_about(self, scene: &mut Scene<'_>, round: usize) -> Result<()> {
        match self {
            Self::CoreRestarted => scene.pair.restart_core(),
            Self::StoreEmptied => scene.pair.restart_edge(Loss::Everything),
            Self::StoreLost => {
                // What is read after a restart lies in a segment of its own.
                scene.pair.restart_edge(Loss::Nothing)?;
                let digest = scene.publish_seeded(Protocol::Smb, "kept", 850 + round as u64, KEPT)?;
                scene.read(Protocol::Smb, Path::Wanigan, "kept", digest)?;
                scene.pair.restart_edge(Loss::AllButTheNewestSegment)
            }
            Self::Direct | Self::Cold | Self::Warm | Self::StoreTooSmall | Self::Again => Ok(()),
        }
    }
}

impl Content {
    fn bytes(self) -> usize {
        match self {
            Self::Large => LARGE,
            Self::Small => FILES * SMALL,
        }
    }

    /// Returns how much may cross after a restart of the core, in percent of the payload: eight blocks that go before the
    /// first question, what follows them until it is answered, and the headers of each small file.
    fn restart_percent_max(self) -> f64 {
        match self {
            Self::Large => 5.0,
            Self::Small => 15.0,
        }
    }

    /// Puts it on its server, other bytes in each round, and returns the names and digests.
    fn publish(self, scene: &Scene<'_>, round: usize) -> Result<Vec<(String, Digest)>> {
        let (protocol, count, bytes) = match self {
            Self::Large => (Protocol::Smb, 1, LARGE),
            Self::Small => (Protocol::Http, FILES, SMALL),
        };
        let one = |number| {
            let name = format!("file{round}-{number}");
            let digest =
                scene.publish_seeded(protocol, &name, (80_000 + 1000 * round + number) as u64, bytes)?;
            Ok((name, digest))
        };
        (0..count).map(one).collect()
    }

    fn get(self, scene: &Scene<'_>, path: Path, files: &[(String, Digest)]) -> Result<Files> {
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let received = match self {
            Self::Large => vec![scene.smbclient(path).get(&names[0], LIMIT)?],
            Self::Small => scene.curl(path).get_each(&names, LIMIT)?,
        };
        Ok(received.into_iter().zip(files.iter().map(|(_, digest)| *digest)).collect())
    }
}

impl Reads {
    fn new(state: State) -> Self {
        Self { state, costs: Vec::new(), sources: Default::default() }
    }

    fn measure(&mut self, scene: &Scene<'_>, content: Content, files: &[(String, Digest)]) -> Result<()> {
        let path = if self.state == State::Direct { Path::Direct } else { Path::Wanigan };
        let before = sources(scene)?;
        let cost = measure::files(scene.lab, || content.get(scene, path, files))?;
        self.costs.push(cost);
        let after = sources(scene)?;
        let shares = [0, 1, 2].map(|at| (after[at] - before[at]) as f64 / content.bytes() as f64 * 100.0);
        for (all, share) in self.sources.iter_mut().zip(shares) {
            all.push(share);
        }
        // What is said of a state is worth something only in that state.
        let [had, ..] = shares;
        match self.state {
            State::Direct => {}
            State::Cold | State::StoreEmptied | State::StoreLost => {
                ensure!(had < 1.0, "the edge had {had:.2} %: {}?", self.state.name());
            }
            State::Warm | State::Again => ensure!(had > 95.0, "the edge had {had:.2} % alone"),
            State::CoreRestarted | State::StoreTooSmall => {}
        }
        Ok(())
    }
}

/// Returns the bytes that the edge had, fetched and was pushed since it started.
fn sources(scene: &Scene<'_>) -> Result<[u64; 3]> {
    let edge = &scene.pair.edge;
    let from = |source: &str| edge.metric("wanigan_block_bytes_total", &format!("source=\"{source}\""));
    Ok([edge.hit_bytes()?, from("fetch")?, from("core")?])
}

const LARGE_STATES: [State; 7] = [
    State::Direct,
    State::Cold,
    State::Warm,
    State::CoreRestarted,
    State::StoreEmptied,
    State::StoreLost,
    State::Again,
];
const TOO_SMALL_STATES: [State; 2] = [State::Cold, State::StoreTooSmall];
const SMALL_STATES: [State; 5] =
    [State::Direct, State::Cold, State::Warm, State::CoreRestarted, State::Again];

const LARGE: usize = 32 << 20;
const FILES: usize = 100;
const SMALL: usize = 64 << 10;
/// A quarter of the file, and the least that is accepted.
const STORE_MIB: u64 = 9;
const KEPT: usize = 1 << 20;
