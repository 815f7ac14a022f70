//! The part of the benchmark with several edges on one LAN, each on a workstation: what a second edge's first read costs,
//! what eight that open one new file cost together, and what discovery costs where nobody is there to be discovered.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::namespace::Namespace;
use wanigan_lab::node::Setup;
use wanigan_lab::office::{Office, WebFile};
use wanigan_lab::topology::{Family, Lab};

use super::LIMIT;
use super::measure::{Cost, in_a_lab, middle};

/// What was measured with several edges.
#[derive(Debug)]
pub(crate) struct Peers {
    /// The first read of a file by an edge whose peer read it before.
    pub(crate) second: Cost,
    /// Eight edges that open one new file at once, until the last one has it.
    pub(crate) eight: Cost,
    /// Cold reads on an empty LAN.
    pub(crate) alone: Alone,
}

/// Cold reads on an empty LAN, with discovery and without, in turn.
#[derive(Debug)]
pub(crate) struct Alone {
    /// The median of the seconds with discovery.
    pub(crate) with: f64,
    /// The same without.
    pub(crate) without: f64,
    /// Blocks that the edge with discovery asked for.
    pub(crate) asked: u64,
}

/// Builds labs of its own, one after the other.
pub(crate) fn measure(bytes: usize) -> Result<Peers> {
    let (second, eight) = in_a_lab(EDGES, |lab| together(lab, bytes))?;
    let alone = in_a_lab(2, alone)?;
    Ok(Peers { second, eight, alone })
}

fn together(lab: &Lab, bytes: usize) -> Result<(Cost, Cost)> {
    let office = Office::open(lab, Family::V4, EDGES)?;
    let file = office.publish(10, bytes)?;
    let first = read(lab, &[lab.client(0)], &file)?;
    ensure!(first.wan_bytes >= file.bytes(), "the first edge's read was not cold");
    let second = read(lab, &[lab.client(1)], &file)?;
    let hosts: Vec<&Namespace> = (0..EDGES).map(|number| lab.client(number)).collect();
    let eight = read(lab, &hosts, &office.publish(11, bytes)?)?;
    office.expect_nothing_went_direct()?;
    Ok((second, eight))
}

/// Two edges, of which one does without peers: so each is alone. Every read is of another file.
fn alone(lab: &Lab) -> Result<Alone> {
    let edges = vec![Setup::workstation(lab, 0), Setup::workstation(lab, 1).peers_line("enabled = false")];
    let office = Office::open(lab, Family::V4, edges)?;
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // Who begins takes turns too.
        for edge in [round % 2, (round + 1) % 2] {
            let file = office.publish(100 + (2 * round + edge) as u64, ALONE_BYTES)?;
            let cost = read(lab, &[lab.client(edge)], &file)?;
            ensure!(cost.wan_bytes >= file.bytes(), "a read on an empty LAN was not cold");
            seconds[edge].push(cost.seconds);
        }
    }
    office.expect_nothing_went_direct()?;
    let asked = office.edge(0).metric("wanigan_discovery_asked_blocks_total", "")?;
    let [with, without] = seconds.map(middle);
    Ok(Alone { with: with?, without: without?, asked })
}

/// Reads a file on all hosts at once; counts until the link is quiet again and the slowest has it.
fn read(lab: &Lab, hosts: &[&Namespace], file: &WebFile) -> Result<Cost> {
    let mut slowest = Duration::ZERO;
    let wan_bytes = lab.wan().crossed(QUIET, || {
        let curl = |host| Curl::new(host, lab.directory()).get(&file.name, LIMIT);
        let received: Vec<_> = thread::scope(|scope| {
            let reads: Vec<_> = hosts.iter().map(|host| scope.spawn(move || curl(*host))).collect();
            let joined =
                reads.into_iter().map(|read| read.join().map_err(|_| anyhow!("a reader panicked"))?);
            joined.collect::<Result<_>>()
        })?;
        slowest = received.iter().map(|received| received.took).max().context("somebody read")?;
        for received in received {
            received.expect(file.digest)?;
            std::fs::remove_file(&received.path).context("make room")?;
        }
        Ok(())
    })?;
    eprintln!("  {} edges: {:.2} s, {wan_bytes} bytes", hosts.len(), slowest.as_secs_f64());
    Ok(Cost { seconds: slowest.as_secs_f64(), wan_bytes })
}

const EDGES: usize = 8;
const ROUNDS: usize = 10;
const ALONE_BYTES: usize = 16 << 20;
/// Links are kept alive: with two there is seldom a longer silence.
const QUIET: Duration = Duration::from_millis(100);
