//! The lab itself: without Wanigan, clients reach the servers over the WAN, at its rate, and everything is counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wanigan_lab::capture::Capture;
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::{Dialect, Protection, SmbClient};
use wanigan_lab::content;
use wanigan_lab::namespace::Namespace;
use wanigan_lab::process::wait_until;
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::servers::squid::Squid;
use wanigan_lab::topology::{Family, Lab};
use wanigan_lab::wan::{Passing, Shape};

const LIMIT: Duration = Duration::from_secs(60);
const BRANCH: Shape = Shape::new(20, Duration::from_millis(50));
const FAST: Shape = Shape::unshaped(Duration::from_millis(2));

#[test]
fn smb_reads_directly_in_every_dialect_and_protection() {
    scenario!(["smbd", "smbclient", "smbpasswd"], 1, FAST, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
        let digest = content::write(&smbd.share().join("file"), 1, 3 << 20)?;
        for dialect in Dialect::ALL {
            for protection in [Protection::None, Protection::Sign] {
                let client =
                    SmbClient::new(lab.client(0), lab.directory()).dialect(dialect).protection(protection);
                client.get("file", LIMIT)?.expect(digest)?;
            }
        }
        SmbClient::new(lab.client(0), lab.directory()).family(Family::V6).get("file", LIMIT)?.expect(digest)
    });
}

#[test]
fn the_server_signs_and_encrypts_as_it_was_told() {
    scenario!(["smbd", "smbclient", "smbpasswd", "dumpcap", "tshark"], 1, FAST, |lab| {
        let reads = "smb2.cmd == 8 && smb2.flags.response == 1";
        let seen = |signing, encryption, filter: &str| -> Result<usize> {
            let smbd = Smbd::start(lab, signing, encryption)?;
            let digest = content::write(&smbd.share().join("file"), 1, 1 << 20)?;
            let capture = Capture::start(lab.server(), "eth0", &lab.path("smb.pcap"))?;
            SmbClient::new(lab.client(0), lab.directory()).get("file", LIMIT)?.expect(digest)?;
            capture.stop()?.count(filter)
        };
        let signed = format!("{reads} && smb2.flags.signature == 1");
        ensure!(seen(Signing::Off, Encryption::Off, &signed)? == 0, "signed");
        ensure!(seen(Signing::Off, Encryption::Off, reads)? > 0, "no read seen");
        ensure!(seen(Signing::Required, Encryption::Off, &signed)? > 0, "not signed");
        ensure!(seen(Signing::Off, Encryption::Required, reads)? == 0, "not encrypted");
        Ok(())
    });
}

#[test]
fn a_server_that_requires_encryption_refuses_smb2() {
    scenario!(["smbd", "smbclient", "smbpasswd"], 1, FAST, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Required)?;
        let digest = content::write(&smbd.share().join("file"), 1, 1 << 20)?;
        let client = SmbClient::new(lab.client(0), lab.directory());
        let old = client.clone().dialect(Dialect::Smb210);
        ensure!(
            !old.try_get("file", &lab.path("refused"), LIMIT)?.status.success(),
            "read without encryption"
        );
        client.protection(Protection::Encrypt).get("file", LIMIT)?.expect(digest)
    });
}

#[test]
fn http_answers_plain_ranges_chunked_and_compressed() {
    scenario!(["nginx", "curl"], 1, FAST, |lab| {
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 2, 3 << 20)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        curl.get("file", LIMIT)?.expect(digest)?;
        curl.clone().family(Family::V6).get("file", LIMIT)?.expect(digest)?;
        curl.clone().options(&["--compressed"]).get("gzip/file", LIMIT)?.expect(digest)?;
        let headers = lab.path("headers");
        let shown = curl.clone().options(&["--dump-header", &headers.to_string_lossy()]);
        shown.get("chunked/file", LIMIT)?.expect(digest)?;
        let headers = std::fs::read_to_string(headers)?.to_lowercase();
        ensure!(headers.contains("transfer-encoding: chunked"), "{headers}");
        let range = curl.options(&["--range", "1000-2999"]).get("file", LIMIT)?;
        ensure!(std::fs::read(range.path)? == content::bytes(2, 3 << 20)[1000..3000], "the range differs");
        Ok(())
    });
}

#[test]
fn squid_answers_a_second_client_without_the_wan() {
    scenario!(["nginx", "curl", "squid"], 2, FAST, |lab| {
        let nginx = Nginx::start(lab)?;
        let _squid = Squid::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 2, 2 << 20)?;
        let proxy = ["--proxy", Squid::ADDRESS];
        Curl::new(lab.client(0), lab.directory()).options(&proxy).get("file", LIMIT)?.expect(digest)?;
        let before = lab.wan().counters().entered_bytes();
        Curl::new(lab.client(1), lab.directory()).options(&proxy).get("file", LIMIT)?.expect(digest)?;
        let crossed = lab.wan().counters().entered_bytes() - before;
        ensure!(crossed < 10_000, "{crossed} bytes crossed");
        Ok(())
    });
}

#[test]
fn a_direct_read_runs_at_the_rate_of_the_line() {
    scenario!(["nginx", "curl"], 1, BRANCH, |lab| {
        let nginx = Nginx::start(lab)?;
        let length = 8 << 20;
        let digest = content::write(&nginx.files().join("file"), 3, length)?;
        let before = lab.wan().counters().to_client;
        let received = Curl::new(lab.client(0), lab.directory()).get("file", LIMIT)?;
        received.expect(digest)?;
        let after = lab.wan().settled(Duration::from_millis(200)).to_client;
        // 1448 of 1500 bytes are data (IPv4, TCP with timestamps).
        let line = length as f64 * 1500.0 / 1448.0 * 8.0 / 20e6;
        let took = received.took.as_secs_f64();
        ensure!((line..line * 1.15).contains(&took), "took {took:.3} s, the line alone {line:.3} s");
        let ratio =
            (after.delivered_bytes - before.delivered_bytes) as f64 / (length as f64 * 1500.0 / 1448.0);
        ensure!((1.0..1.02).contains(&ratio), "{ratio:.4} of the bytes of a wire: {after:?}");
        Ok(())
    });
}

#[test]
fn the_round_trip_is_the_one_that_was_set() {
    scenario!(["nginx"], 1, BRANCH, |lab| {
        let _nginx = Nginx::start(lab)?;
        let address = SocketAddr::new(Family::V4.server(), 80);
        // A TCP connection stands after one round trip.
        let round_trip = || -> Result<f64> {
            let started = Instant::now();
            lab.client(0).connect(address, LIMIT)?;
            Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        // The shortest of several: what disturbs this machine only ever adds.
        let shortest = || -> Result<f64> {
            let times = (0..9).map(|_| round_trip()).collect::<Result<Vec<f64>>>()?;
            Ok(times.into_iter().fold(f64::INFINITY, f64::min))
        };
        let slow = shortest()?;
        ensure!((50.0..51.5).contains(&slow), "{slow} ms, not 50");
        lab.wan().set_shape(Shape::new(20, Duration::from_millis(10)));
        let quick = shortest()?;
        ensure!((10.0..11.5).contains(&quick), "{quick} ms, not 10");
        Ok(())
    });
}

#[test]
fn an_unshaped_link_carries_500_mbit_a_second() {
    scenario!(["nginx", "curl"], 1, FAST, |lab| {
        let nginx = Nginx::start(lab)?;
        let length = 128 << 20;
        content::write(&nginx.files().join("file"), 4, length)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        let started = Instant::now();
        curl.try_get("file", std::path::Path::new("/dev/null"), LIMIT)?.ok()?;
        let rate = length as f64 * 8.0 / 1e6 / started.elapsed().as_secs_f64();
        eprintln!("{rate:.0} Mbit/s");
        ensure!(rate > 500.0, "{rate:.0} Mbit/s");
        Ok(())
    });
}

#[test]
fn the_counters_are_those_of_the_interfaces() {
    scenario!(["nginx", "curl"], 1, Shape::new(100, Duration::from_millis(10)).with_loss(0.01), |lab| {
        let nginx = Nginx::start(lab)?;
        content::write(&nginx.files().join("file"), 5, 4 << 20)?;
        Curl::new(lab.client(0), lab.directory()).get("file", LIMIT)?;
        let wan = lab.wan().settled(Duration::from_millis(300));
        let (edge, core) = (lab.edge().interface("wan0")?, lab.core().interface("wan0")?);
        ensure!(edge.sent_bytes == wan.to_server.entered_bytes, "{edge:?} {wan:?}");
        ensure!(core.sent_bytes == wan.to_client.entered_bytes, "{core:?} {wan:?}");
        ensure!(core.received_bytes == wan.to_server.delivered_bytes, "{core:?} {wan:?}");
        ensure!(edge.received_bytes == wan.to_client.delivered_bytes, "{edge:?} {wan:?}");
        ensure!(edge.dropped_packets + core.dropped_packets == 0, "{edge:?} {core:?}");
        for way in [wan.to_server, wan.to_client] {
            let dropped = way.dropped_queue + way.dropped_loss + way.dropped_switch;
            ensure!(way.entered_packets == way.delivered_packets + dropped, "{way:?}");
        }
        ensure!(wan.to_client.dropped_loss > 5, "{wan:?}");
        Ok(())
    });
}

#[test]
fn the_switch_cuts_the_link_for_all_or_for_udp_alone() {
    scenario!(["nginx", "curl"], 1, FAST, |lab| {
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 6, 100_000)?;
        let curl = Curl::new(lab.client(0), lab.directory());
        lab.wan().set_passing(Passing::Nothing);
        let cut = curl.try_get("file", &lab.path("cut"), Duration::from_secs(2));
        ensure!(cut.is_err(), "a cut link carried {cut:?}");
        lab.wan().set_passing(Passing::AllButUdp);
        curl.get("file", LIMIT)?.expect(digest)?;
        ensure!(!a_datagram_arrives(lab)?, "UDP passed");
        lab.wan().set_passing(Passing::All);
        ensure!(a_datagram_arrives(lab)?, "UDP did not pass");
        Ok(())
    });
}

#[test]
fn clients_and_servers_run_cubic_over_both_families() {
    scenario!(["nginx", "curl", "ss"], 1, BRANCH, |lab| {
        let nginx = Nginx::start(lab)?;
        content::write(&nginx.files().join("file"), 7, 2 << 20)?;
        for family in Family::ALL {
            let curl = Curl::new(lab.client(0), lab.directory()).family(family);
            let command = &mut curl.command();
            let _transfer =
                lab.client(0).spawn("curl", command.arg("-o").arg(lab.path("out")).arg(curl.url("file")))?;
            std::thread::sleep(Duration::from_millis(400));
            for end in [lab.client(0), lab.server()] {
                let connections = connections(end)?;
                ensure!(connections.contains(" cubic ") && !connections.contains(" bbr "), "{connections}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_lab_that_is_gone_leaves_nothing() {
    scenario!([], 1, FAST, |lab| {
        let inner = Lab::new(1, FAST)?;
        let (name, directory) = (inner.client(0).name().to_owned(), inner.directory().to_owned());
        let mut sleeper = inner.client(0).spawn("sleep", inner.client(0).command("sleep").arg("1000"))?;
        // Until it has entered the namespace it is a program of nobody's.
        wait_until("the program is in its namespace", LIMIT, || {
            Ok(!lab.edge().run(&["ip", "netns", "pids", &name], LIMIT)?.ok()?.text().trim().is_empty())
        })?;
        drop(inner);
        ensure!(sleeper.wait(Duration::from_secs(5)).is_ok(), "a program outlived its namespace");
        ensure!(!directory.exists(), "{} is still there", directory.display());
        let left = lab.edge().run(&["ip", "netns", "list"], LIMIT)?.ok()?.text();
        ensure!(!left.contains(&name), "{left}");
        Ok(())
    });
}

fn connections(namespace: &Namespace) -> Result<String> {
    Ok(namespace.run(&["ss", "-tinH", "state", "established"], LIMIT)?.ok()?.text())
}

fn a_datagram_arrives(lab: &Lab) -> Result<bool> {
    let to = (Family::V4.server(), 9999);
    let receiver = lab.server().enter(|| Ok(std::net::UdpSocket::bind(to)?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    lab.client(0).enter(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", to)?))?;
    Ok(receiver.recv(&mut [0; 16]).is_ok())
}
