//! HTTP through an edge and a core: unmodified `curl` and nginx.

use std::time::Duration;

use anyhow::{Result, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Pair};
use wanigan_lab::process::run;
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::topology::{Family, Lab};
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(100);
const WAN: Shape = Shape::new(200, Duration::from_millis(10));

#[test]
fn plain_chunked_and_compressed_bodies_are_right() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&nginx.files().join("file"), 20, (3 << 20) + 4321)?;
        for number in 0..2 {
            for family in Family::ALL {
                let curl = curl(lab, number).family(family);
                curl.get("file", LIMIT)?.expect(digest)?;
                curl.get("chunked/file", LIMIT)?.expect(digest)?;
                curl.clone().options(&["--compressed"]).get("gzip/file", LIMIT)?.expect(digest)?;
                curl.options(&["--http1.0"]).get("file", LIMIT)?.expect(digest)?;
            }
        }
        let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(direct == 0, "{direct} connections went direct");
        let served = pair.edge.metric("wanigan_block_bytes_total", "source=\"store\"")?;
        ensure!(served >= 3 * (3 << 20), "{served} bytes came from the store");
        Ok(())
    });
}

#[test]
fn a_second_clients_read_crosses_the_wan_at_one_percent() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let length = 16 << 20;
        let digest = content::write(&nginx.files().join("file"), 21, length)?;
        let idle = lab.wan().settled(QUIET).entered_bytes();
        curl(lab, 0).get("file", LIMIT)?.expect(digest)?;
        let cold = lab.wan().settled(QUIET).entered_bytes();
        curl(lab, 1).get("file", LIMIT)?.expect(digest)?;
        let warm = lab.wan().settled(QUIET).entered_bytes();
        let (cold, warm) = (cold - idle, warm - cold);
        ensure!(cold >= length as u64, "a cold read crossed with {cold} bytes: it was not cold");
        ensure!(warm * 100 <= length as u64, "a warm read crossed with {warm} bytes");
        Ok(())
    });
}

#[test]
fn ranges_are_right_cold_and_warm() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let bytes = content::bytes(22, 2 << 20);
        std::fs::write(nginx.files().join("file"), &bytes)?;
        let end = bytes.len();
        let ranges = [
            (0, 1),
            (1000, 3000),
            (65_535, 65_537),
            (65_536, 262_144),
            (100_001, 1_900_003),
            (end - 500, end),
        ];
        let read_all = |number| -> Result<()> {
            for (from, to) in ranges {
                let range = format!("{from}-{}", to - 1);
                let received = curl(lab, number).options(&["--range", &range]).get("file", LIMIT)?;
                received.expect(Digest::of(&bytes[from..to]))?;
            }
            Ok(())
        };
        read_all(0)?;
        read_all(1)?;
        curl(lab, 0).get("file", LIMIT)?.expect(Digest::of(&bytes))?;
        read_all(1)
    });
}

#[test]
fn a_hundred_files_come_over_one_connection() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let names: Vec<String> = (0..100).map(|number| format!("file{number}")).collect();
        let mut digests = Vec::new();
        for (seed, name) in names.iter().enumerate() {
            // From nothing to two blocks and a bit.
            digests.push(content::write(&nginx.files().join(name), 1000 + seed as u64, seed * 1399)?);
        }
        for number in 0..2 {
            let received = curl(lab, number).get_all(&names, LIMIT)?;
            for (file, digest) in received.iter().zip(&digests) {
                // For an empty body curl makes no file.
                let found = if file.path.exists() { file.digest()? } else { Digest::of(b"") };
                ensure!(found == *digest, "{} differs", file.path.display());
            }
        }
        let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(direct == 0, "{direct} connections went direct");
        Ok(())
    });
}

#[test]
fn answers_without_a_body_do_not_shift_what_follows() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 1, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&nginx.files().join("file"), 23, 300_000)?;
        let curl = curl(lab, 0);
        let output = lab.path("after-head");
        for _ in 0..2 {
            // HEAD, 404 and 304 on the connection that then carries the body.
            let mut command = curl.command();
            command.args(["--head", "--output", "/dev/null"]).arg(curl.url("file"));
            let quiet = ["--next", "--silent", "--noproxy", "*", "--write-out", "%{http_code} ", "--output"];
            command.args(quiet).arg("/dev/null").arg(curl.url("absent"));
            command.args(quiet).arg("/dev/null").args(["--header", "If-None-Match: *"]).arg(curl.url("file"));
            command.args(quiet).arg(&output).arg(curl.url("file"));
            let codes = run(&mut command, LIMIT)?.ok()?.text();
            ensure!(codes.trim() == "404 304 200", "answered {codes}");
            ensure!(Digest::of_file(&output)? == digest, "the body differs");
        }
        Ok(())
    });
}

#[test]
fn a_changed_file_is_never_read_stale() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let _pair = Pair::start(lab, Mode::Redirect, Memory::PLENTY)?;
        let path = nginx.files().join("file");
        let mut bytes = content::bytes(24, 2 << 20);
        for round in 0..3 {
            bytes[round * 500_000] ^= 1;
            std::fs::write(&path, &bytes)?;
            for number in 0..2 {
                curl(lab, number).get("file", LIMIT)?.expect(Digest::of(&bytes))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_client_that_is_pointed_at_the_edge_reads_through_it() {
    scenario!(["nginx", "curl", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let pair = Pair::start(lab, Mode::Listen { port: 80 }, Memory::PLENTY)?;
        let digest = content::write(&nginx.files().join("file"), 25, 2 << 20)?;
        let address = Mode::listen_address(80);
        let to = format!("::{}:{}", address.ip(), address.port());
        for number in 0..2 {
            curl(lab, number).options(&["--connect-to", &to]).get("file", LIMIT)?.expect(digest)?;
        }
        let served = pair.edge.metric("wanigan_block_bytes_total", "source=\"store\"")?;
        ensure!(served >= 1 << 20, "{served} bytes came from the store");
        Ok(())
    });
}

#[test]
fn the_store_survives_a_restart_of_the_edge() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let nginx = Nginx::start(lab)?;
        let certificates = wanigan_lab::node::Certificates::new(lab)?;
        let _core = certificates.start_core(lab, Memory::PLENTY)?;
        let length = 8 << 20;
        let digest = content::write(&nginx.files().join("file"), 26, length)?;
        let mut edge = certificates.start_edge(lab, Mode::Tproxy, Memory::PLENTY)?;
        edge.wait_for_link()?;
        curl(lab, 0).get("file", LIMIT)?.expect(digest)?;
        edge.stop(Duration::from_secs(20))?;
        drop(edge);
        let edge = certificates.start_edge(lab, Mode::Tproxy, Memory::PLENTY)?;
        edge.wait_for_link()?;
        let before = lab.wan().settled(QUIET).entered_bytes();
        curl(lab, 1).get("file", LIMIT)?.expect(digest)?;
        let crossed = lab.wan().settled(QUIET).entered_bytes() - before;
        ensure!(crossed * 20 <= length as u64, "{crossed} bytes crossed after a restart");
        Ok(())
    });
}

fn curl(lab: &Lab, number: usize) -> Curl<'_> {
    Curl::new(lab.client(number), lab.directory())
}
