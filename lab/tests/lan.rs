//! The lab's branch itself: its hosts reach the servers and each other, and what befalls them does.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use wanigan_lab::capture::Needles;
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::reader::Reading;
use wanigan_lab::content;
use wanigan_lab::namespace::Namespace;
use wanigan_lab::process::wait_until;
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::topology::{Family, Hosts};
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(30);
const FAST: Shape = Shape::unshaped(Duration::from_millis(2));

#[test]
fn every_host_of_the_branch_reaches_the_servers() {
    let hosts = Hosts { clients: 1, gateways: 2, remote: 2 };
    scenario!(["nginx", "curl"], hosts, FAST, |lab| {
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 1, 1 << 20)?;
        let hosts =
            [lab.client(0), lab.gateway(1), lab.behind(0), lab.behind(1), lab.remote(0), lab.remote(1)];
        for host in hosts {
            for family in Family::ALL {
                let curl = Curl::new(host, lab.directory()).family(family);
                curl.get("file", LIMIT).with_context(|| host.name().to_owned())?.expect(digest)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_lan_of_one_family_has_no_other_and_reaches_the_servers_in_it() {
    for family in Family::ALL {
        scenario!(["nginx", "curl"], 2, FAST, |lab| {
            let nginx = Nginx::start(lab)?;
            let digest = content::write(&nginx.files().join("file"), 1, 1 << 20)?;
            lab.only(family)?;
            let addresses = lab.client(0).run(&["ip", "address", "show", "dev", "eth0"], LIMIT)?.ok()?.text();
            let (has, has_not) = match family {
                Family::V4 => ("inet ", "inet6 "),
                Family::V6 => ("inet6 ", "inet "),
            };
            ensure!(addresses.contains(has) && !addresses.contains(has_not), "{addresses}");
            Curl::new(lab.client(0), lab.directory()).family(family).get("file", LIMIT)?.expect(digest)?;
            let one_to_another = transfer(lab.client(0), lab.client(1), address(family), 1 << 20)?;
            ensure!(one_to_another < Duration::from_secs(1), "the LAN took {one_to_another:?}");
            Ok(())
        });
    }
}

#[test]
fn a_capture_of_the_lan_has_what_one_host_says_to_another() {
    scenario!(["dumpcap", "tshark"], 2, FAST, |lab| {
        let capture = lab.capture_lan("lan")?;
        transfer(lab.client(0), lab.client(1), address(Family::V6), SENT)?;
        lab.client(0)
            .enter(|| Ok(std::net::UdpSocket::bind("10.1.0.11:0")?.send_to(b"to all", "10.1.0.12:7747")?))?;
        let captured = capture.stop()?;
        let mut needles = Needles::new();
        needles.add_pieces("sent", &content::bytes(9, SENT), 512);
        needles.add_pieces("not sent", &content::bytes(10, SENT), 512);
        let found = captured.search(&needles)?;
        ensure!(found.iter().all(|name| name.starts_with("sent")), "found what was not sent");
        // A piece may lie in two packets.
        let sent = needles.count() / 2;
        ensure!(found.len() > sent / 2, "found {} of {sent}", found.len());
        let datagrams = captured.datagrams(7747)?;
        ensure!(datagrams.len() == 1 && datagrams[0].payload == b"to all", "{datagrams:?}");
        ensure!(datagrams[0].source == IpAddr::from([10, 1, 0, 11]), "{datagrams:?}");
        Ok(())
    });
}

#[test]
fn a_throttled_host_sends_slowly_and_an_unplugged_one_not_at_all() {
    scenario!([], 2, FAST, |lab| {
        let (from, to, address) = (lab.client(0), lab.client(1), address(Family::V4));
        lab.throttle(from, 8_000)?;
        let took = transfer(from, to, address, 2 << 20)?;
        // 2 MiB at 8 Mbit/s are 2.1 s.
        ensure!((1900..3000).contains(&took.as_millis()), "2 MiB at 8 Mbit/s took {took:?}");
        let backwards = SocketAddr::from(([10, 1, 0, 11], 7000));
        let took = transfer(to, from, backwards, 2 << 20)?;
        ensure!(took < Duration::from_secs(1), "the other way took {took:?}");
        lab.throttle(from, 200_000)?;
        let took = transfer(from, to, address, 20 << 20)?;
        ensure!((750..1500).contains(&took.as_millis()), "20 MiB at 200 Mbit/s took {took:?}");
        lab.unplug(from)?;
        ensure!(transfer(from, to, address, 1000).is_err(), "an unplugged host was heard");
        lab.plug_in(from)?;
        wait_until("the host is heard again", LIMIT, || Ok(transfer(from, to, address, 1000).is_ok()))
    });
}

#[test]
fn a_reader_notes_how_long_nothing_came() {
    scenario!(["nginx"], 1, Shape::new(20, Duration::from_millis(20)), |lab| {
        let nginx = Nginx::start(lab)?;
        let digest = content::write(&nginx.files().join("file"), 2, 6 << 20)?;
        let reading = Reading::start(lab.client(0), Family::V4, "file", LIMIT)?;
        reading.wait_for(1 << 20)?;
        lab.unplug(lab.client(0))?;
        thread::sleep(Duration::from_millis(900));
        lab.plug_in(lab.client(0))?;
        let arrived = reading.finish()?;
        ensure!(arrived.digest == digest, "it read something else");
        // TCP takes its time to try again.
        ensure!((850..3000).contains(&arrived.longest_gap.as_millis()), "{arrived:?}");
        let arrived = Reading::start(lab.client(0), Family::V6, "file", LIMIT)?.finish()?;
        ensure!(arrived.digest == digest && arrived.longest_gap.as_millis() < 300, "{arrived:?}");
        Ok(())
    });
}

/// Sends bytes over TCP from one host to an address of another and returns how long that took.
fn transfer(from: &Namespace, to: &Namespace, address: SocketAddr, length: usize) -> Result<Duration> {
    let listener = to.enter(|| TcpListener::bind(address).context("listen"))?;
    let sent = content::bytes(9, length);
    let started = Instant::now();
    let sender = thread::spawn({
        let mut stream: TcpStream = from.connect(address, Duration::from_millis(500))?;
        let sent = sent.clone();
        move || stream.write_all(&sent)
    });
    let mut received = Vec::new();
    listener.accept().context("accept")?.0.read_to_end(&mut received).context("receive")?;
    sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("send")?;
    ensure!(received == sent, "received something else");
    Ok(started.elapsed())
}

/// Returns an address of the second client.
fn address(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::from(([10, 1, 0, 12], 7000)),
        Family::V6 => "[fd00:1::12]:7000".parse().expect("it is an address"),
    }
}

const SENT: usize = 8 << 20;
