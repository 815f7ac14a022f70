//! Somebody on the LAN asks for what is not theirs, answers what they do not have, or makes noise: silence, and the reads
//! of others go on.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use wanigan_lab::attacker::{Attacker, Forger, domain_time, proves};
use wanigan_lab::clients::reader::Reading;
use wanigan_lab::names::{BLOCK, Names};
use wanigan_lab::node::{Certificates, Node, Setup};
use wanigan_lab::office::{Office, PEER_PORT, WebFile, desk};
use wanigan_lab::process::run;
use wanigan_lab::scenario;
use wanigan_lab::topology::{Family, Hosts, Lab};
use wanigan_lab::wan::Shape;
use wanigan_parsers::NodeId;
use wanigan_parsers::discovery::{Ask, Datagram};
use wanigan_parsers::wan::KeyId;

const LIMIT: Duration = Duration::from_secs(60);
const WAN: Shape = Shape::new(100, Duration::from_millis(20));
const LENGTH: usize = 4 << 20;
/// An answer takes a millisecond or two on this LAN.
const SOON: Duration = Duration::from_millis(300);
/// The freshness of an ask, both ways, and as long as it may take until it is sent.
const PAST_WINDOW_MS: u64 = 80_000;
/// Promised is a second.
const STALL: Duration = Duration::from_millis(1100);
/// A repeated ask within this is taken for the network's doing.
const COPY: Duration = Duration::from_millis(1200);

#[test]
fn an_ask_that_proves_nothing_meets_silence_over_ipv4() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| asks_meet_silence(lab, Family::V4));
}

#[test]
fn an_ask_that_proves_nothing_meets_silence_over_ipv6() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| asks_meet_silence(lab, Family::V6));
}

#[test]
fn a_replayed_ask_meets_silence_from_wherever_it_comes() {
    scenario!(["nginx", "curl", "dumpcap", "tshark", "nft", "wanigan"], 3, WAN, |lab| {
        let mut office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let capture = lab.capture_lan("asked")?;
        office.read_from("peer", 1, &file)?;
        let datagrams = capture.stop()?.datagrams(PEER_PORT)?;
        let asks: Vec<(Vec<u8>, Ask)> = datagrams
            .iter()
            .filter_map(|datagram| match Datagram::decode(&datagram.payload) {
                Ok(Datagram::Ask(ask)) => Some((datagram.payload.clone(), ask)),
                _ => None,
            })
            .collect();
        ensure!(!asks.is_empty(), "nobody asked in {} datagrams", datagrams.len());
        let answered = datagrams.iter().any(|datagram| {
            matches!(Datagram::decode(&datagram.payload), Ok(Datagram::Have(have)) if have.ask_nonce == asks[0].1.nonce)
        });
        ensure!(answered, "the first ask was not answered, so a silence would say nothing");
        no_answer_is_longer_than_its_ask(&datagrams)?;
        thread::sleep(COPY);
        // From the requester's own address, and from another one's.
        let target = desk_address(Family::V4, 0);
        for host in [lab.client(1), lab.client(2)] {
            let attacker = Attacker::new(host, any(Family::V4))?;
            let before = refused(office.edge(0), "replayed")?;
            attacker.say(&asks[0].0, target)?;
            expect_silence(&attacker, "a replayed ask")?;
            let replayed = refused(office.edge(0), "replayed")? - before;
            ensure!(replayed == 1, "counted as {replayed} replays");
        }
        // What a node forgot when it was started again is too old for it.
        office.branch.edges[0].stop(LIMIT)?;
        office.branch.edges[0] = office.branch.certificates.start(lab, &Setup::workstation(lab, 0))?;
        office.edge(0).wait_for_link()?;
        let attacker = Attacker::new(lab.client(2), any(Family::V4))?;
        attacker.say(&asks[0].0, target)?;
        expect_silence(&attacker, "an ask from before the start")?;
        ensure!(refused(office.edge(0), "stale")? == 1, "it was not refused as stale");
        let mut forger = Forger::new(office.domain()?);
        is_answered(&attacker, &mut forger, &names(&office, &file)?, target)
    });
}

#[test]
fn an_ask_from_another_subnet_meets_silence() {
    let hosts = Hosts { clients: 1, gateways: 0, remote: 1 };
    scenario!(["nginx", "curl", "nft", "wanigan"], hosts, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 1)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let (mut forger, blocks) = (Forger::new(office.domain()?), names(&office, &file)?);
        let attacker = Attacker::new(lab.remote(0), any(Family::V4))?;
        let ask = forger.ask(&blocks[..1], domain_time());
        attacker.say(&ask.encode(), desk_address(Family::V4, 0))?;
        expect_silence(&attacker, "an ask from another subnet")?;
        ensure!(refused(office.edge(0), "off_link")? == 1, "it was not refused as off the link");
        Ok(())
    });
}

#[test]
fn a_flood_of_entitled_asks_is_answered_at_a_rate_and_reads_go_on() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 3, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let (mut forger, blocks) = (Forger::new(office.domain()?), names(&office, &file)?);
        let attacker = Attacker::new(lab.client(2), any(Family::V4))?;
        let asks = move || forger.ask(&blocks[..18], domain_time()).encode();
        let flood = flooded(&attacker, asks, || read_in_time(lab, &file))?;
        eprintln!("entitled asks: {flood:?}");
        ensure!(flood.sent > 20_000, "{} datagrams are no flood", flood.sent);
        ensure!(flood.answers > 0, "not one of the first asks was answered");
        // 500 a second and 256 at once from one source.
        let allowed = 256 + (flood.lasted.as_secs_f64() * 500.0) as u64 + 50;
        ensure!(flood.answers <= allowed, "{} answers in {:?}", flood.answers, flood.lasted);
        ensure!(flood.answer_bytes < flood.sent_bytes / 4, "the answers are a flood themselves: {flood:?}");
        ensure!(refused(office.edge(0), "rate")? > 0, "nothing was refused for its rate");
        Ok(())
    });
}

#[test]
fn a_flood_of_garbage_is_ignored_and_reads_go_on() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 3, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let mut forger = Forger::new(office.domain()?);
        let attacker = Attacker::new(lab.client(2), any(Family::V4))?;
        let flood = flooded(&attacker, move || forger.noise::<1200>().to_vec(), || read_in_time(lab, &file))?;
        eprintln!("garbage: {flood:?}");
        ensure!(flood.answers == 0, "garbage was answered");
        let memory = office.edge(0).peak_memory()? >> 20;
        ensure!(memory < 256 + 256 + 128, "the edge came to {memory} MiB");
        Ok(())
    });
}

#[test]
fn strangers_are_refused_at_the_transfer() {
    scenario!(["nginx", "curl", "openssl", "nft", "wanigan"], 2, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 1)?;
        let (ours, theirs) = (&office.branch.certificates, Certificates::stranger(lab, "stranger")?);
        let stranger = theirs.issue("desk-1", "edge", "lisbon")?;
        let core = ours.issue("other-core", "core", "hq")?;
        let edge = ours.issue("desk-9", "edge", "lisbon")?;
        let connect = |identity: Option<&(_, _)>| tls(lab, ours, identity);
        for (who, identity, reason) in [
            ("a stranger", Some(&stranger), "handshake"),
            ("somebody without a certificate", None, "handshake"),
            ("a core", Some(&core), "not_an_edge"),
        ] {
            let before =
                office.edge(0).metric("wanigan_peer_refusals_total", &format!("reason=\"{reason}\""))?;
            ensure!(!connect(identity)?, "{who} was let in");
            let after =
                office.edge(0).metric("wanigan_peer_refusals_total", &format!("reason=\"{reason}\""))?;
            ensure!(after == before + 1, "{who} was not counted as {reason}");
        }
        ensure!(connect(Some(&edge))?, "an edge was refused, so the refusals say nothing");
        Ok(())
    });
}

#[test]
fn connections_that_say_nothing_do_not_keep_peers_out() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 3, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let target = desk_address(Family::V4, 0);
        let idle: Vec<_> =
            (0..200).map(|_| lab.client(2).connect(target, LIMIT)).filter_map(Result::ok).collect();
        eprintln!("{} idle connections stand", idle.len());
        let arrived = Reading::start(lab.client(1), Family::V4, &file.name, LIMIT)?.finish()?;
        ensure!(arrived.digest == file.digest, "the read brought something else");
        ensure!(arrived.longest_gap < STALL, "the read stalled: {arrived:?}");
        let from_peer = office.bytes_from(1, "peer")?;
        ensure!(from_peer * 10 >= file.bytes() * 9, "{from_peer} bytes came from the peer");
        Ok(())
    });
}

/// An insider who knows the secrets, but has no certificate: the worst of liars answers each ask first, rightly proved, and
/// then gives nothing.
#[test]
fn an_answer_with_nothing_behind_it_costs_time_and_never_bytes() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 3, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        for (number, liar) in [Liar::WrongProofs, Liar::Refuses, Liar::Hangs].into_iter().enumerate() {
            let other = office.publish(2 + number as u64, LENGTH)?;
            office.read_cold(0, &other)?;
            let (arrived, lies) = lied_to(lab, &office, &other, liar)?;
            eprintln!("{liar:?}: {lies} lies, {arrived:?}");
            ensure!(lies > 0, "{liar:?}: nobody was lied to");
            ensure!(arrived.digest == other.digest, "{liar:?}: the read brought something else");
            let stall = arrived.longest_gap;
            ensure!(stall < STALL, "{liar:?}: the read stalled for {stall:?}");
        }
        Ok(())
    });
}

/// Sends an ask that is right, and then such as are wrong in one thing each.
fn asks_meet_silence(lab: &Lab, family: Family) -> Result<()> {
    let (office, target) = (Office::open(lab, family, 1)?, desk_address(family, 0));
    let file = office.publish(1, LENGTH)?;
    office.read_cold(0, &file)?;
    let (mut forger, blocks) = (Forger::new(office.domain()?), names(&office, &file)?);
    let attacker = Attacker::new(lab.client(1), any(family))?;
    is_answered(&attacker, &mut forger, &blocks, target)?;
    let now = domain_time;
    let right = |forger: &mut Forger| forger.ask(&blocks[..1], now());
    let changed = |mut ask: Ask, change: fn(&mut Ask)| {
        change(&mut ask);
        ask.encode()
    };
    let proof_of_another = {
        let mut ask = forger.ask(&blocks[..2], now());
        ask.blocks[0].proof = ask.blocks[1].proof;
        ask.blocks.truncate(1);
        ask.encode()
    };
    let version = {
        let mut bytes = right(&mut forger).encode();
        bytes[3] += 1;
        bytes
    };
    let (mut longer, mut shorter) = (right(&mut forger).encode(), right(&mut forger).encode());
    longer.push(0);
    shorter.pop();
    let attacks: [(&str, Vec<u8>, &str); 13] = [
        ("a wrong proof", changed(right(&mut forger), |ask| ask.blocks[0].proof[7] ^= 1), "wrong_proof"),
        ("a tag alone", changed(right(&mut forger), |ask| ask.blocks[0].proof = [0; 32]), "wrong_proof"),
        ("another block's proof", proof_of_another, "wrong_proof"),
        (
            "another one's proof",
            changed(right(&mut forger), |ask| ask.requester = NodeId([7; 32])),
            "wrong_proof",
        ),
        ("another nonce", changed(right(&mut forger), |ask| ask.nonce[0] ^= 1), "wrong_proof"),
        ("another time", changed(right(&mut forger), |ask| ask.time_ms += 1), "wrong_proof"),
        ("an old time", forger.ask(&blocks[..1], now() - PAST_WINDOW_MS).encode(), "stale"),
        ("a time to come", forger.ask(&blocks[..1], now() + PAST_WINDOW_MS).encode(), "stale"),
        ("another key", changed(right(&mut forger), |ask| ask.key = KeyId([9; 8])), "unknown_key"),
        ("another version", version, "malformed"),
        ("a byte too many", longer, "malformed"),
        ("a byte too few", shorter, "malformed"),
        ("noise", forger.noise::<400>().to_vec(), "malformed"),
    ];
    for (what, payload, reason) in attacks {
        let before = refused(office.edge(0), reason)?;
        attacker.say(&payload, target)?;
        expect_silence(&attacker, what)?;
        let counted = refused(office.edge(0), reason)? - before;
        ensure!(counted == 1, "{what} was counted {counted} times as {reason}");
    }
    let unknown = office.domain()?.names(b"a block that nobody has");
    attacker.say(&forger.ask(&[unknown], now()).encode(), target)?;
    expect_silence(&attacker, "a block that is not there")?;
    let ask = forger.ask(&blocks[..1], now());
    let before = refused(office.edge(0), "unexpected")?;
    attacker.say(&forger.have(&ask, &blocks[..1], PEER_PORT).encode(), target)?;
    expect_silence(&attacker, "an answer to nothing")?;
    ensure!(refused(office.edge(0), "unexpected")? == before + 1, "an answer to nothing was not counted");
    // It is no attacker's address that is met with silence.
    is_answered(&attacker, &mut forger, &blocks, target)
}

/// An entitled ask is answered with proofs, by a datagram no longer than itself.
fn is_answered(attacker: &Attacker, forger: &mut Forger, blocks: &[Names], target: SocketAddr) -> Result<()> {
    for count in [1, 18] {
        let ask = forger.ask(&blocks[..count], domain_time());
        attacker.say(&ask.encode(), target)?;
        let heard = attacker.hear(SOON)?;
        ensure!(heard.len() == 1, "{} answers to a right ask for {count} blocks", heard.len());
        ensure!(heard[0].1.len() <= ask.encode().len(), "an answer longer than its ask");
        let Ok(Datagram::Have(have)) = Datagram::decode(&heard[0].1) else {
            return Err(anyhow!("not an answer: {:?}", heard[0]));
        };
        ensure!(have.blocks.len() == count, "{} of {count} blocks", have.blocks.len());
        ensure!(proves(&have, &ask, blocks), "an answer that proves nothing");
    }
    Ok(())
}

/// A machine that sends and receives a hundred thousand datagrams a second beside may read over the WAN, but it reads.
fn read_in_time(lab: &Lab, file: &WebFile) -> Result<()> {
    let arrived = Reading::start(lab.client(1), Family::V4, &file.name, LIMIT)?.finish()?;
    ensure!(arrived.digest == file.digest, "the read brought something else");
    ensure!(arrived.longest_gap < STALL, "the read stalled: {arrived:?}");
    Ok(())
}

fn expect_silence(attacker: &Attacker, what: &str) -> Result<()> {
    let heard = attacker.hear(SOON)?;
    ensure!(heard.is_empty(), "{what} was answered: {heard:?}");
    Ok(())
}

fn no_answer_is_longer_than_its_ask(datagrams: &[wanigan_lab::capture::Datagram]) -> Result<()> {
    let mut asks = Vec::new();
    for datagram in datagrams {
        match Datagram::decode(&datagram.payload) {
            Ok(Datagram::Ask(ask)) => asks.push((ask.nonce, datagram.payload.len())),
            Ok(Datagram::Have(have)) => {
                let asked = asks.iter().find(|(nonce, _)| *nonce == have.ask_nonce);
                let (_, length) = asked.context("an answer to what nobody asked")?;
                ensure!(datagram.payload.len() <= *length, "an answer longer than its ask");
            }
            Err(error) => return Err(anyhow!("{error} on the LAN: {datagram:?}")),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Flood {
    lasted: Duration,
    sent: u64,
    sent_bytes: u64,
    answers: u64,
    answer_bytes: u64,
}

/// Sends as fast as it can to the first edge for as long as something else is done, at least two seconds.
fn flooded(
    attacker: &Attacker,
    mut datagram: impl FnMut() -> Vec<u8> + Send,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Flood> {
    let (target, done, began) = (desk_address(Family::V4, 0), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<(u64, u64)> {
            let (mut sent, mut bytes) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let payload = datagram();
                attacker.say(&payload, target)?;
                (sent, bytes) = (sent + 1, bytes + payload.len() as u64);
            }
            Ok((sent, bytes))
        });
        let listener = scope.spawn(|| -> Result<(u64, u64)> {
            let (mut answers, mut bytes) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let heard = attacker.hear(Duration::from_millis(100))?;
                answers += heard.len() as u64;
                bytes += heard.iter().map(|(_, payload)| payload.len() as u64).sum::<u64>();
            }
            Ok((answers, bytes))
        });
        thread::sleep(Duration::from_millis(500));
        let outcome = meanwhile();
        thread::sleep(Duration::from_secs(2).saturating_sub(began.elapsed()));
        done.store(true, Ordering::Relaxed);
        let lasted = began.elapsed();
        let (sent, sent_bytes) = sender.join().map_err(|_| anyhow!("the flood panicked"))??;
        let (answers, answer_bytes) = listener.join().map_err(|_| anyhow!("the listener panicked"))??;
        outcome.context("while it was flooded")?;
        Ok(Flood { lasted, sent, sent_bytes, answers, answer_bytes })
    })
}

/// What a liar answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Liar {
    /// Proofs that are none.
    WrongProofs,
    /// Right ones, and a port at which connections are closed.
    Refuses,
    /// Right ones, and a port at which nothing is ever said.
    Hangs,
}

/// Reads at the second edge while a host answers all asks with lies, and returns how many it told.
fn lied_to(
    lab: &Lab,
    office: &Office<'_>,
    file: &WebFile,
    liar: Liar,
) -> Result<(wanigan_lab::clients::reader::Arrived, u64)> {
    let here = IpAddr::V4(desk(2));
    let everything = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PEER_PORT));
    let socket = lab.client(2).enter(|| UdpSocket::bind(everything).context("listen for asks"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50))).context("limit the time to listen")?;
    let listener = lab.client(2).enter(|| TcpListener::bind((here, 0)).context("listen"))?;
    let port = listener.local_addr().context("find the port")?.port();
    listener.set_nonblocking(true).context("accept when there is something")?;
    let (blocks, mut forger) = (names(office, file)?, Forger::new(office.domain()?));
    let (done, lies) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut buffer, mut kept) = (vec![0; 2048], Vec::new());
            while !done.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    match liar {
                        Liar::Hangs => kept.push(stream),
                        _ => drop(stream.set_nonblocking(true).map(|()| stream.read(&mut [0; 16]))),
                    }
                }
                let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(Datagram::Ask(ask)) = Datagram::decode(&buffer[..length]) else { continue };
                let asked: Vec<Names> = ask
                    .blocks
                    .iter()
                    .filter_map(|block| blocks.iter().find(|names| names.tag == block.tag.0).copied())
                    .collect();
                if asked.len() != ask.blocks.len() {
                    continue;
                }
                let mut have = forger.have(&ask, &asked, port);
                if liar == Liar::WrongProofs {
                    have.blocks.iter_mut().for_each(|block| block.proof[0] ^= 1);
                }
                if socket.send_to(&have.encode(), source).is_ok() {
                    lies.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let arrived = Reading::start(lab.client(1), Family::V4, &file.name, LIMIT).and_then(Reading::finish);
        done.store(true, Ordering::Relaxed);
        Ok((arrived?, lies.load(Ordering::Relaxed)))
    })
}

/// Connects to the first edge's transfer port, and tells whether a connection stood for a while.
fn tls(lab: &Lab, ours: &Certificates, identity: Option<&(PathBuf, PathBuf)>) -> Result<bool> {
    let mut command = lab.client(1).command("timeout");
    let target = desk_address(Family::V4, 0).to_string();
    let authority = ours.authority();
    // TLS 1.3 tells a client of its refusal only after the client's last word of the handshake.
    command.args(["1", "openssl", "s_client", "-connect", &target, "-quiet", "-alpn", "wanigan-peer/1"]);
    command.arg("-CAfile").arg(&authority);
    if let Some((certificate, key)) = identity {
        command.arg("-cert").arg(certificate).arg("-key").arg(key);
    }
    let finished = run(&mut command, LIMIT)?;
    // Status 124 is timeout's own: the connection stood until then.
    Ok(finished.status.code() == Some(124))
}

fn refused(edge: &Node<'_>, reason: &str) -> Result<u64> {
    edge.metric("wanigan_discovery_refusals_total", &format!("reason=\"{reason}\""))
}

fn names(office: &Office<'_>, file: &WebFile) -> Result<Vec<Names>> {
    let domain = office.domain()?;
    Ok(file.content.chunks(BLOCK).map(|block| domain.names(block)).collect())
}

fn any(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::from(([0; 4], 0)),
        Family::V6 => SocketAddr::from(([0u16; 8], 0)),
    }
}

fn desk_address(family: Family, number: u8) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::from((desk(number), PEER_PORT)),
        Family::V6 => SocketAddr::from(([0xfd00, 1, 0, 0, 0, 0, 0, 0x11 + u16::from(number)], PEER_PORT)),
    }
}
