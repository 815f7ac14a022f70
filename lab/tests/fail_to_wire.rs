//! Whatever fails, traffic flows: new connections go direct, live ones are reset, and nothing wrong is ever delivered.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Certificates, Failure, Memory, Mode, Node, Pair};
use wanigan_lab::process::{Process, wait_until};
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::{Family, Lab};
use wanigan_lab::wan::{Passing, Shape};

const LIMIT: Duration = Duration::from_secs(30);
const PROMISED: Duration = Duration::from_secs(3);
const WAN: Shape = Shape::new(100, Duration::from_millis(20));
/// Slow enough that a transfer can be caught in its middle.
const SLOW: Shape = Shape::new(20, Duration::from_millis(20));

#[test]
fn new_connections_go_direct_when_the_core_is_killed() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| go_direct_after(lab, Failure::CoreKilled));
}

#[test]
fn new_connections_go_direct_when_the_core_is_stopped() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| go_direct_after(lab, Failure::CoreStopped));
}

#[test]
fn new_connections_go_direct_when_the_link_drops_every_packet() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| go_direct_after(lab, Failure::LinkDropped));
}

#[test]
fn new_connections_go_direct_when_the_core_hears_nothing_and_goes_on_talking() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| go_direct_after(lab, Failure::CoreDeaf));
}

#[test]
fn connections_over_a_bridge_whose_packets_tproxy_would_lose_go_direct() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        if !Path::new("/proc/sys/net/bridge").exists() {
            return Ok(());
        }
        lab.edge().sysctl(&[("bridge/bridge-nf-call-iptables", "1")])?;
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 31, 1 << 20)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let client = Curl::new(lab.client(0), lab.directory());
        client.get("file", LIMIT)?.expect(digest)?;
        let carried = pair.edge.metric("wanigan_lan_bytes_total", "")?;
        ensure!(carried == 0, "{carried} bytes of it went over the link");
        Ok(())
    });
}

#[test]
fn smb_reconnects_directly_when_the_core_is_killed_in_mid_transfer() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 1, SLOW, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&smbd.share().join("file"), 30, 8 << 20)?;
        let client = SmbClient::new(lab.client(0), lab.directory());
        let partial = lab.path("partial");
        let mut command = client.command(&format!("get file {}", partial.display()));
        let transfer = in_mid_transfer(lab, &mut command, &partial, "smbclient")?;
        pair.core.kill()?;
        ends_right_or_not_at_all(transfer, &partial, digest)?;
        thread::sleep(PROMISED);
        client.get("file", LIMIT)?.expect(digest)?;
        went_direct(&pair.edge)
    });
}

#[test]
fn http_reconnects_directly_when_the_core_is_killed_in_mid_transfer() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, SLOW, |lab| {
        let nginx = Nginx::start(lab)?;
        let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&nginx.files().join("file"), 31, 8 << 20)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        // Chunked, so that only the missing last chunk could tell curl of a FIN that should have been a RST.
        for path in ["file", "chunked/file"] {
            let partial = lab.path("partial");
            let mut command = curl.command();
            command.arg("--output").arg(&partial).arg(curl.url(path));
            let transfer = in_mid_transfer(lab, &mut command, &partial, "curl")?;
            // The second transfer goes direct already and must come to a right end.
            if path == "file" {
                pair.core.kill()?;
            }
            ends_right_or_not_at_all(transfer, &partial, digest)?;
            thread::sleep(PROMISED);
            curl.get(path, LIMIT)?.expect(digest)?;
        }
        went_direct(&pair.edge)
    });
}

#[test]
fn a_killed_edge_leaves_no_rules_and_clients_reconnect_directly_after_tproxy() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, SLOW, |lab| reconnect_after_the_edge(
        lab,
        Mode::Tproxy
    ));
}

#[test]
fn a_killed_edge_leaves_no_rules_and_clients_reconnect_directly_after_redirect() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, SLOW, |lab| reconnect_after_the_edge(
        lab,
        Mode::Redirect
    ));
}

#[test]
fn a_wan_that_was_cut_and_mended_carries_the_link_again() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&nginx.files().join("file"), 32, 1 << 20)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        curl.get("file", LIMIT)?.expect(digest)?;
        lab.wan().set_passing(Passing::Nothing);
        thread::sleep(Duration::from_secs(5));
        lab.wan().set_passing(Passing::All);
        curl.get("file", LIMIT)?.expect(digest)?;
        pair.edge.wait_for_link()?;
        let before = pair.edge.metric("wanigan_flows_direct_total", "")?;
        curl.get("file", LIMIT)?.expect(digest)?;
        ensure!(
            pair.edge.metric("wanigan_flows_direct_total", "")? == before,
            "went direct over a mended link"
        );
        Ok(())
    });
}

#[test]
fn a_core_that_was_killed_and_started_again_serves_again() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let certificates = Certificates::new(lab)?;
        let mut core = certificates.start_core(lab, Memory::PLENTY)?;
        let edge = certificates.start_edge(lab, Mode::Tproxy, Memory::PLENTY)?;
        edge.wait_for_link()?;
        let digest = content::write(&nginx.files().join("file"), 33, 2 << 20)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        curl.get("file", LIMIT)?.expect(digest)?;
        core.kill()?;
        wait_until("the link is down", LIMIT, || Ok(edge.metric("wanigan_links_up", "")? == 0))?;
        let _core = certificates.start_core(lab, Memory::PLENTY)?;
        edge.wait_for_link()?;
        let before = edge.metric("wanigan_flows_direct_total", "")?;
        curl.get("file", LIMIT)?.expect(digest)?;
        ensure!(edge.metric("wanigan_flows_direct_total", "")? == before, "went direct over a new link");
        Ok(())
    });
}

#[test]
fn a_server_that_refuses_is_refused_at_once_and_reached_when_it_listens() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        let refused = curl.try_get("file", &lab.path("refused"), LIMIT)?;
        ensure!(!refused.status.success(), "read from a server that does not run");
        ensure!(refused.took < PROMISED, "was refused after {:?}", refused.took);
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 34, 200_000)?;
        curl.get("file", LIMIT)?.expect(digest)
    });
}

/// Connections are opened all the time; from 3 s after the failure on, each must come to its end, and none may be wrong.
fn go_direct_after(lab: &Lab, failure: Failure) -> Result<()> {
    let nginx = Nginx::start(lab)?;
    let mut pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
    let digest = content::write(&nginx.files().join("file"), 35, 200_000)?;
    Curl::new(lab.client(0), lab.directory()).get("file", LIMIT)?.expect(digest)?;
    let before = pair.edge.metric("wanigan_flows_direct_total", "")?;
    ensure!(before == 0, "{before} connections went direct while all was well");

    failure.strike(lab, &mut pair.core)?;
    let struck = Instant::now();
    let attempts: Vec<(Duration, bool)> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..24)
            .map(|number| {
                thread::sleep(
                    (struck + Duration::from_millis(250) * number).saturating_duration_since(Instant::now()),
                );
                scope.spawn(move || attempt(lab, number, struck, digest))
            })
            .collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().map_err(|_| anyhow!("an attempt panicked"))?)
            .collect::<Result<_>>()
    })?;
    let failed_last = attempts.iter().filter(|(_, succeeded)| !succeeded).map(|(started, _)| *started).max();
    let failed_last = failed_last.unwrap_or_default();
    ensure!(
        failed_last < PROMISED,
        "a connection opened {failed_last:?} after the failure failed: {attempts:?}"
    );
    went_direct(&pair.edge)
}

/// Returns when it began after the failure, and whether it brought the file. A wrong file is an error.
fn attempt(lab: &Lab, number: u32, struck: Instant, digest: Digest) -> Result<(Duration, bool)> {
    let started = struck.elapsed();
    let path = lab.path(&format!("attempt{number}"));
    let curl = Curl::new(lab.client(0), lab.directory()).options(&["--max-time", "4"]);
    let succeeded = curl.try_get("file", &path, LIMIT)?.status.success();
    ensure!(!succeeded || Digest::of_file(&path)? == digest, "attempt {number} received a wrong file");
    Ok((started, succeeded))
}

fn reconnect_after_the_edge(lab: &Lab, mode: Mode) -> Result<()> {
    let nginx = Nginx::start(lab)?;
    let mut pair = Pair::start(lab, mode, Memory::PLENTY)?;
    let digest = content::write(&nginx.files().join("file"), 36, 8 << 20)?;
    let rules = pair.edge.packet_filter()?;
    ensure!(rules.contains("wanigan"), "no rules of Wanigan's in {rules}");
    let mut transfers = Vec::new();
    for (number, family) in Family::ALL.into_iter().enumerate() {
        let curl = Curl::new(lab.client(number), lab.directory()).family(family);
        let partial = lab.path(&format!("partial{number}"));
        let mut command = curl.command();
        command.arg("--output").arg(&partial).arg(curl.url("file"));
        let name = format!("curl{number}");
        transfers.push((in_mid_transfer(lab, &mut command, &partial, &name)?, partial));
    }
    pair.edge.kill()?;
    wait_until("the rules are gone", Duration::from_secs(1), || {
        Ok(!pair.edge.packet_filter()?.contains("wanigan"))
    })?;
    for family in Family::ALL {
        let curl = Curl::new(lab.client(0), lab.directory()).family(family);
        curl.get("file", LIMIT).with_context(|| format!("reconnect over {family:?}"))?.expect(digest)?;
    }
    for (transfer, partial) in transfers {
        ends_right_or_not_at_all(transfer, &partial, digest)?;
    }
    Ok(())
}

/// Starts a client and waits until a part of the file has arrived.
fn in_mid_transfer(lab: &Lab, command: &mut Command, partial: &Path, name: &str) -> Result<Process> {
    let _ = std::fs::remove_file(partial);
    let mut transfer = lab.client(0).spawn(name, command)?;
    wait_until("a part has arrived", LIMIT, || {
        transfer.check()?;
        Ok(partial.metadata().is_ok_and(|file| file.len() > 200_000))
    })?;
    Ok(transfer)
}

/// A client whose connection broke must notice: success with wrong bytes is the one thing that may not be.
fn ends_right_or_not_at_all(mut transfer: Process, partial: &Path, digest: Digest) -> Result<()> {
    let status = transfer.wait(LIMIT).context("a broken transfer must end")?;
    ensure!(
        !status.success() || Digest::of_file(partial)? == digest,
        "a client took a torn file for a whole one"
    );
    Ok(())
}

fn went_direct(edge: &Node<'_>) -> Result<()> {
    let connections = edge.metric("wanigan_flows_direct_total", "")?;
    let bytes = edge.metric("wanigan_direct_bytes_total", "")?;
    ensure!(connections > 0 && bytes > 0, "{connections} connections and {bytes} bytes counted as direct");
    Ok(())
}
