//! `wanigan peers`: what a running node says of its peers, asked at its address for operators.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::admin::PeerReport;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Peers {
    /// The configuration of the node that runs.
    #[arg(short, long = "config", value_name = "FILE", default_value = super::CONFIG_FILE)]
    config: PathBuf,
    /// Print what the node says as it is.
    #[arg(long)]
    json: bool,
}

/// How long the node may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// More than any number of peers takes: they are some 300 bytes each.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

pub(super) fn peers(command: &Peers, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = Config::load(&command.config)?;
    if config.edge.is_none() {
        bail!("list the peers: this node is no edge, and a core has none");
    }
    if !config.peers.enabled {
        bail!("list the peers: peers.enabled is false");
    }
    let Some(listen) = config.admin.listen else {
        bail!("list the peers: admin.listen is \"off\", and that is where the node tells");
    };
    let answer = ask(reachable(listen)?)?;
    if command.json {
        return Ok(writeln!(out, "{}", answer.trim_end())?);
    }
    let peers: Vec<PeerReport> = serde_json::from_str(&answer).context("read the node's answer")?;
    Ok(write!(out, "{}", table(peers))?)
}

/// Returns where to connect to a listener: one that takes every address takes loopback's.
fn reachable(listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    ensure!(listen.port() != 0, "list the peers: admin.listen is \"{listen}\", a port that the system chose");
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

fn ask(node: SocketAddr) -> anyhow::Result<String> {
    let failed = || format!("ask the node at {node}, is it running?");
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&node, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        write!(stream, "GET /peers HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(failed)?;
    body(&answer).with_context(|| format!("list the peers of the node at {node}"))
}

/// Returns the body of a whole answer that says 200 and how long it is, as the node's do.
fn body(answer: &[u8]) -> anyhow::Result<String> {
    let answer = std::str::from_utf8(answer).context("read the answer: it is no text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("read the answer: it is cut short")?;
    let status = head.lines().next().unwrap_or_default();
    if status.starts_with("HTTP/1.1 404 ") {
        bail!("it has none: it was started as no edge, or with peers.enabled = false");
    }
    ensure!(status.starts_with("HTTP/1.1 200 "), "it answered {status:?}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    ensure!(length == Some(body.len()), "read the answer: it is cut short");
    Ok(body.to_owned())
}

fn table(mut peers: Vec<PeerReport>) -> String {
    if peers.is_empty() {
        return "no peers are known yet\n".to_owned();
    }
    peers.sort_by(|a, b| (&a.site, &a.name, &a.id).cmp(&(&b.site, &b.name, &b.id)));
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(peers.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; HEAD.len()] = std::array::from_fn(width);
    let line = |row: &[String; HEAD.len()]| {
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| {
            if i < TEXT_COLUMNS { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

const HEAD: [&str; 11] = [
    "name",
    "site",
    "address",
    "state",
    "ms",
    "blocks got",
    "bytes got",
    "blocks given",
    "bytes given",
    "lost",
    "wrong",
];

/// The first columns, set to the left; figures are set to the right.
const TEXT_COLUMNS: usize = 4;

fn row(peer: &PeerReport) -> [String; HEAD.len()] {
    let named = |text: &str| if text.is_empty() { "-".to_owned() } else { text.escape_debug().to_string() };
    let state = match peer.shunned_seconds {
        Some(seconds) => format!("shunned for {} s", seconds.ceil()),
        None if peer.connected => "connected".to_owned(),
        None => "known".to_owned(),
    };
    [
        named(&peer.name),
        named(&peer.site),
        named(&peer.address),
        state,
        peer.latency_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1}", seconds * 1e3)),
        peer.blocks_received.to_string(),
        size(peer.bytes_received),
        peer.blocks_served.to_string(),
        size(peer.bytes_served),
        peer.lost.to_string(),
        peer.wrong.to_string(),
    ]
}

/// Writes bytes in the unit that leaves at most four digits before the point.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut scaled = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while scaled >= 1023.95 {
        let Some(next) = units.next() else { break };
        (scaled, unit) = (scaled / 1024.0, Some(next));
    }
    format!("{scaled:.1} {}", unit.expect("there is a first unit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_set_out_in_columns_by_site_and_name() {
        let one = PeerReport {
            id: "01".into(),
            name: "porto-gw".into(),
            site: "porto".into(),
            address: "10.1.5.7:7747".into(),
            connected: true,
            blocks_received: 1_500,
            bytes_received: 98_304_000,
            blocks_served: 3,
            bytes_served: 196_608,
            wrong: 0,
            lost: 2,
            latency_seconds: Some(0.00123),
            shunned_seconds: None,
        };
        let other = PeerReport {
            name: String::new(),
            site: "lisbon".into(),
            connected: false,
            wrong: 1,
            latency_seconds: None,
            shunned_seconds: Some(29.2),
            ..one.clone()
        };
        assert_eq!(
            table(vec![one, other]),
            "\
name      site    address        state              ms  blocks got  bytes got  blocks given  bytes given  lost  wrong
-         lisbon  10.1.5.7:7747  shunned for 30 s    -        1500   93.8 MiB             3    192.0 KiB     2      1
porto-gw  porto   10.1.5.7:7747  connected         1.2        1500   93.8 MiB             3    192.0 KiB     2      0
"
        );
        assert_eq!(table(Vec::new()), "no peers are known yet\n");
    }

    #[test]
    fn an_answer_that_is_not_whole_or_not_200_is_an_error() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
        assert_eq!(body(whole.as_bytes()).unwrap(), "[]");
        for cut in 0..whole.len() {
            assert!(body(&whole.as_bytes()[..cut]).is_err(), "{cut}");
        }
        let error = |answer: &str| body(answer.as_bytes()).unwrap_err().to_string();
        assert!(error("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").contains("peers.enabled"));
        assert!(error("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n").contains("500"));
        assert!(error("HTTP/1.1 200 OK\r\n\r\n[]").contains("cut short"));
    }

    #[test]
    fn a_node_that_listens_everywhere_is_asked_on_loopback() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).map(|node| node.to_string()).ok();
        assert_eq!(asked("0.0.0.0:9445").unwrap(), "127.0.0.1:9445");
        assert_eq!(asked("[::]:9445").unwrap(), "[::1]:9445");
        assert_eq!(asked("10.1.0.1:9445").unwrap(), "10.1.0.1:9445");
        assert_eq!(asked("127.0.0.1:0"), None);
    }

    #[test]
    fn sizes_have_one_digit_after_the_point_and_no_fifth_before_it() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
