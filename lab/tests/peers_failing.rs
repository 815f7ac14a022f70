//! A peer fails while it gives: whoever reads has the right bytes, and waits a second at most.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use wanigan_lab::clients::reader::Reading;
use wanigan_lab::node::{Node, Setup};
use wanigan_lab::office::Office;
use wanigan_lab::scenario;
use wanigan_lab::topology::{Family, Hosts, Lab};
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const WAN: Shape = Shape::new(100, Duration::from_millis(20));
/// What a workstation sends, in kbit/s: more than the WAN brings, and little enough that a transfer has a middle.
const LINE: u64 = 200_000;
const LENGTH: usize = 32 << 20;
/// Promised is a second; the WAN's round trip and the clocks of a busy machine come on top.
const STALL: Duration = Duration::from_millis(1100);

/// What happens to the peer.
type Strike = fn(&Lab, &mut Node<'_>) -> Result<()>;

#[test]
fn a_peer_that_is_killed_in_mid_transfer_stalls_a_read_for_at_most_a_second() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        struck_in_mid_transfer(lab, Family::V4, |_, peer| peer.kill())
    });
}

#[test]
fn a_peer_that_hangs_in_mid_transfer_stalls_a_read_for_at_most_a_second() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        struck_in_mid_transfer(lab, Family::V6, |_, peer| peer.signal(Signal::SIGSTOP))
    });
}

#[test]
fn a_peer_that_is_cut_off_in_mid_transfer_stalls_a_read_for_at_most_a_second() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        struck_in_mid_transfer(lab, Family::V4, |lab, peer| lab.unplug(peer.namespace()))
    });
}

#[test]
fn a_peer_that_is_throttled_in_mid_transfer_stalls_a_read_for_at_most_a_second() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        struck_in_mid_transfer(lab, Family::V6, |lab, peer| lab.throttle(peer.namespace(), 256))
    });
}

#[test]
fn a_peer_that_fails_among_several_costs_the_wan_little() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 3, WAN, |lab| {
        let mut office = Office::open(lab, Family::V4, 3)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.read_from("peer", 1, &file)?;
        (0..2).try_for_each(|number| lab.throttle(lab.client(number), LINE))?;
        let before = lab.wan().settled(Duration::from_millis(100)).entered_bytes();
        let reading = Reading::start(lab.client(2), Family::V4, &file.name, LIMIT)?;
        reading.wait_for(file.bytes() / 4)?;
        office.branch.edges[0].kill()?;
        let arrived = reading.finish()?;
        let crossed = lab.wan().settled(Duration::from_millis(100)).entered_bytes() - before;
        eprintln!("one of two peers killed: {arrived:?}, {crossed} bytes over the WAN");
        ensure!(arrived.digest == file.digest, "the read brought something else");
        ensure!(arrived.longest_gap <= STALL, "the read stalled for {:?}", arrived.longest_gap);
        ensure!(crossed * 4 <= file.bytes(), "{crossed} bytes crossed the WAN though a peer was left");
        Ok(())
    });
}

#[test]
fn a_referred_edge_out_of_reach_stalls_a_read_for_at_most_a_second() {
    let hosts = Hosts { clients: 1, gateways: 0, remote: 1 };
    scenario!(["nginx", "curl", "nft", "wanigan"], hosts, WAN, |lab| {
        // The link stands, so the core believes in the edge; but its peers do not get through to it.
        let edges = vec![Setup::workstation(lab, 0), Setup::remote(lab, 0)];
        let office = Office::open(lab, Family::V4, edges)?;
        let file = office.publish(1, LENGTH / 2)?;
        office.read_cold(0, &file)?;
        let rules =
            "table inet wall { chain input { type filter hook input priority 0; tcp dport 7747 drop; }; }";
        lab.client(0).run(&["nft", rules], LIMIT)?.ok()?;
        let arrived = Reading::start(lab.remote(0), Family::V4, &file.name, LIMIT)?.finish()?;
        eprintln!("referred to an edge out of reach: {arrived:?}");
        ensure!(arrived.digest == file.digest, "the read brought something else");
        ensure!(arrived.longest_gap <= STALL, "the read stalled for {:?}", arrived.longest_gap);
        let tried = office.edge(1).metric("wanigan_peer_gets_total", "outcome=\"lost\"")?;
        ensure!(tried > 0, "nobody was referred to it");
        Ok(())
    });
}

fn struck_in_mid_transfer(lab: &Lab, family: Family, strike: Strike) -> Result<()> {
    let mut office = Office::open(lab, family, 2)?;
    let file = office.publish(1, LENGTH)?;
    office.read_cold(0, &file)?;
    lab.throttle(lab.client(0), LINE)?;
    let reading = Reading::start(lab.client(1), family, &file.name, LIMIT)?;
    reading.wait_for(file.bytes() / 4)?;
    let from_peer = office.edge(1).metric("wanigan_peer_received_bytes_total", "")?;
    strike(lab, &mut office.branch.edges[0])?;
    let (at, in_all) = (reading.bytes(), file.bytes());
    let arrived = reading.finish()?;
    eprintln!("struck at {at} of {in_all} bytes, {from_peer} from the peer: {arrived:?}");
    ensure!(arrived.digest == file.digest, "the read brought something else");
    ensure!(from_peer > in_all / 10, "{from_peer} bytes had come from the peer\n{}", office.figures());
    ensure!(at < in_all * 3 / 4, "the transfer was as good as over when the peer was struck");
    ensure!(arrived.longest_gap <= STALL, "the read stalled for {:?}", arrived.longest_gap);
    let direct = office.edge(1).metric("wanigan_flows_direct_total", "")?;
    ensure!(direct == 0, "{direct} connections went direct");
    Ok(())
}
