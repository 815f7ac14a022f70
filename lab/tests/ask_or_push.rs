//! What crosses the WAN where the core's record of the edge is wrong: it forgot all, or the edge did.

use std::time::Duration;

use anyhow::{Result, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Loss, Memory, Mode, Pair, Setup};
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(100);
const WAN: Shape = Shape::new(100, Duration::from_millis(10));
const LENGTH: usize = 24 << 20;
const FILES: usize = 192;

#[test]
fn a_core_that_was_restarted_asks_and_learns_that_the_edge_has_what_is_read() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 1, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&smbd.share().join("file"), 90, LENGTH)?;
        let client = SmbClient::new(lab.client(0), lab.directory());
        let read = || percent(lab, || client.get("file", LIMIT)?.expect(digest));
        let cold = read()?;
        ensure!(cold >= 100.0, "a cold read crossed with {cold:.2} %: it was not cold");
        pair.restart_core()?;
        let (first, second) = (read()?, read()?);
        println!("{first:.2} % after the restart, {second:.2} % after that");
        ensure!(first <= 8.0, "{first:.2} % crossed after the core's restart");
        ensure!(second <= 1.0, "{second:.2} % crossed when the core knew better");
        nothing_went_direct(&pair)
    });
}

#[test]
fn a_core_that_was_restarted_asks_for_small_files_of_a_connection_each_as_for_one_large_file() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let names: Vec<String> = (0..FILES).map(|number| format!("file{number}")).collect();
        let write = |(number, name): (usize, &String)| {
            content::write(&nginx.files().join(name), 9300 + number as u64, LENGTH / FILES)
        };
        let digests = names.iter().enumerate().map(write).collect::<Result<Vec<_>>>()?;
        let curl = Curl::new(lab.client(0), lab.directory());
        let read = || {
            percent(lab, || {
                let received = curl.get_each(&names, LIMIT)?;
                received.iter().zip(&digests).try_for_each(|(received, digest)| received.expect(*digest))
            })
        };
        let cold = read()?;
        ensure!(cold >= 100.0, "a cold read crossed with {cold:.2} %: it was not cold");
        pair.restart_core()?;
        let (first, second) = (read()?, read()?);
        println!("{first:.2} % after the restart, {second:.2} % after that");
        ensure!(first <= 10.0, "{first:.2} % crossed after the core's restart");
        ensure!(second <= 5.0, "{second:.2} % crossed when the core knew better");
        nothing_went_direct(&pair)
    });
}

#[test]
fn an_edge_whose_store_was_emptied_reads_as_if_cold_and_then_warm() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| reads_after(lab, Loss::Everything));
}

#[test]
fn an_edge_that_lost_its_store_unnoticed_has_every_block_once_and_is_then_warm() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        reads_after(lab, Loss::AllButTheNewestSegment)
    });
}

#[test]
fn an_edge_whose_store_is_smaller_than_the_file_is_sent_every_block_once_a_read() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let edge =
            Setup::edge(lab, Mode::Tproxy).store_size(STORE_MIB).memory(Memory { store: 1, limits: 256 });
        let pair = Pair::start_with(lab, &Setup::core(lab), edge)?;
        let digest = content::write(&nginx.files().join("file"), 92, LENGTH)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        for round in 0..3 {
            let crossed = percent(lab, || curl.get("file", LIMIT)?.expect(digest))?;
            println!("read {round}: {crossed:.2} %");
            ensure!(crossed <= ONCE, "read {round} crossed with {crossed:.2} %");
        }
        let evicted = pair.edge.metric("wanigan_store_evicted_bytes_total", "")?;
        ensure!(evicted > LENGTH as u64, "the store evicted {evicted} bytes: it was large enough");
        nothing_went_direct(&pair)
    });
}

fn reads_after(lab: &Lab, loss: Loss) -> Result<()> {
    let nginx = Nginx::start(lab)?;
    let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
    let file = content::write(&nginx.files().join("file"), 90, LENGTH)?;
    let kept = content::write(&nginx.files().join("kept"), 91, 1 << 20)?;
    let curl = Curl::new(lab.client(0), lab.directory());
    let read = |name: &str, digest: Digest| percent(lab, || curl.get(name, LIMIT)?.expect(digest));
    read("file", file)?;
    // What is read after a restart lies in a segment of its own: the newest.
    pair.restart_edge(Loss::Nothing)?;
    read("kept", kept)?;
    pair.restart_edge(loss)?;
    let (first, second) = (read("file", file)?, read("file", file)?);
    println!("{loss:?}: {first:.2} %, then {second:.2} %");
    let fetched = pair.edge.metric("wanigan_block_bytes_total", "source=\"fetch\"")?;
    println!("{fetched} bytes fetched");
    ensure!((100.0..=ONCE).contains(&first), "{first:.2} % crossed for what the edge had lost");
    ensure!(second <= 1.0, "{second:.2} % crossed when the edge had all again");
    nothing_went_direct(&pair)
}

/// Returns what crossed the WAN, both ways, as percent of the file.
fn percent(lab: &Lab, read: impl FnOnce() -> Result<()>) -> Result<f64> {
    Ok(lab.wan().crossed(QUIET, read)? as f64 / LENGTH as f64 * 100.0)
}

/// A right digest says little if the edge let the connection pass.
fn nothing_went_direct(pair: &Pair<'_>) -> Result<()> {
    let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
    ensure!(direct == 0, "{direct} connections went direct");
    Ok(())
}

/// Percent of a file that crosses where each block does so once: what packets and acknowledgements take comes on top.
const ONCE: f64 = 110.0;
/// The least that is accepted.
const STORE_MIB: u64 = 9;
