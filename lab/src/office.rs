//! A branch with several edges and a web server to read from: what tests of peers begin with, and ask.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::clients::curl::Curl;
use crate::content::{self, Digest};
use crate::names::Domain;
use crate::namespace::Namespace;
use crate::node::{Branch, Node, Setup};
use crate::servers::nginx::Nginx;
use crate::topology::{Family, Lab};

/// A branch at work.
#[derive(Debug)]
pub struct Office<'a> {
    /// Its nodes.
    pub branch: Branch<'a>,
    lab: &'a Lab,
    family: Family,
    nginx: Nginx,
}

/// A file on the web server.
#[derive(Debug, Clone)]
pub struct WebFile {
    /// Its path.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
}

/// Asks for the edges of a test.
pub trait Edges<'a> {
    /// Returns them.
    fn of(self, lab: &'a Lab) -> Vec<Setup<'a>>;
}

/// So many workstations.
impl<'a> Edges<'a> for usize {
    fn of(self, lab: &'a Lab) -> Vec<Setup<'a>> {
        (0..self).map(|number| Setup::workstation(lab, number)).collect()
    }
}

impl<'a> Edges<'a> for Vec<Setup<'a>> {
    fn of(self, _: &'a Lab) -> Vec<Setup<'a>> {
        self
    }
}

impl<'a> Office<'a> {
    /// Starts the web server, an ordinary core and edges, in a LAN that has this version of IP only.
    ///
    /// # Errors
    /// If one does not start.
    pub fn open(lab: &'a Lab, family: Family, edges: impl Edges<'a>) -> Result<Self> {
        Self::open_with(lab, family, Setup::core(lab), edges)
    }

    /// The same with a core of one's own.
    ///
    /// # Errors
    /// If one does not start.
    pub fn open_with(lab: &'a Lab, family: Family, core: Setup<'a>, edges: impl Edges<'a>) -> Result<Self> {
        lab.only(family)?;
        let nginx = Nginx::start(lab)?;
        let edges: Vec<Setup<'_>> = edges.of(lab).into_iter().map(|edge| edge.family(family)).collect();
        let branch = Branch::start(lab, &core.family(family), &edges)?;
        Ok(Self { branch, lab, family, nginx })
    }

    /// Returns an edge, counted from 0.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn edge(&self, number: usize) -> &Node<'a> {
        &self.branch.edges[number]
    }

    /// Puts a file of `length` bytes on the web server, another one for each seed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn publish(&self, seed: u64, length: usize) -> Result<WebFile> {
        let (name, content) = (format!("file{seed}"), content::bytes(seed, length));
        std::fs::write(self.nginx.files().join(&name), &content).context("publish a file")?;
        Ok(WebFile { digest: Digest::of(&content), name, content })
    }

    /// Reads a file where an edge runs; the WAN has to carry all of it. What comes after is worth something only then.
    ///
    /// # Errors
    /// If the file does not arrive as it is, or came from elsewhere.
    pub fn read_cold(&self, edge: usize, file: &WebFile) -> Result<()> {
        self.read_cold_at(self.edge(edge).namespace(), file)
    }

    /// The same on any host.
    ///
    /// # Errors
    /// As [`Office::read_cold`].
    pub fn read_cold_at(&self, host: &Namespace, file: &WebFile) -> Result<()> {
        let crossed = self.read_at_once(&[host], file)?;
        ensure!(crossed >= file.bytes(), "{crossed} bytes crossed: this read of {} was not cold", file.name);
        Ok(())
    }

    /// Reads a file where an edge runs: at most 1 % of it may cross the WAN, and nearly all has to come from this source, as
    /// the edge's counter names it (`peer`, `referral`).
    ///
    /// # Errors
    /// If the file does not arrive as it is, or came from elsewhere.
    pub fn read_from(&self, source: &str, edge: usize, file: &WebFile) -> Result<()> {
        self.read_from_at(source, edge, self.edge(edge).namespace(), file)
    }

    /// The same on a host that an edge is a gateway for.
    ///
    /// # Errors
    /// As [`Office::read_from`].
    pub fn read_from_at(&self, source: &str, edge: usize, host: &Namespace, file: &WebFile) -> Result<()> {
        let before = self.bytes_from(edge, source)?;
        let crossed = self.read_at_once(&[host], file)?;
        let came = self.bytes_from(edge, source)? - before;
        let length = file.bytes();
        ensure!(
            crossed * 100 <= length && came * 100 >= length * 95,
            "{}: of {length} bytes {came} came from source {source}, and {crossed} crossed the WAN\n{}",
            file.name,
            self.figures()
        );
        Ok(())
    }

    /// Reads a file on several hosts, all beginning at once, and returns how many bytes the WAN carried for them together.
    ///
    /// # Errors
    /// If one does not arrive, or not as it is.
    pub fn read_at_once(&self, hosts: &[&Namespace], file: &WebFile) -> Result<u64> {
        self.lab.wan().crossed(QUIET, || {
            std::thread::scope(|scope| {
                let reads: Vec<_> =
                    hosts.iter().map(|host| scope.spawn(move || self.fetch(host, file))).collect();
                reads
                    .into_iter()
                    .try_for_each(|read| read.join().map_err(|_| anyhow!("a reader panicked"))?)
            })
        })
    }

    fn fetch(&self, host: &Namespace, file: &WebFile) -> Result<()> {
        let curl = Curl::new(host, self.lab.directory()).family(self.family);
        let received = curl.get(&file.name, LIMIT).with_context(|| format!("read at {}", host.name()))?;
        received.expect(file.digest)?;
        std::fs::remove_file(&received.path).context("make room")
    }

    /// Returns how many bytes of blocks an edge had from a source, as its counter names it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn bytes_from(&self, edge: usize, source: &str) -> Result<u64> {
        self.edge(edge).metric("wanigan_block_bytes_total", &format!("source=\"{source}\""))
    }

    /// Returns what the edges counted of blocks and peers and is not zero, for a failed test to show.
    #[must_use]
    pub fn figures(&self) -> String {
        let mut shown = String::new();
        for (number, edge) in self.branch.edges.iter().enumerate() {
            let text = edge.admin("/metrics").unwrap_or_else(|error| format!("wanigan_peer {error:#}"));
            let told =
                |line: &&str| FIGURES.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
            for line in text.lines().filter(told) {
                // Writing to a String cannot fail.
                let _ = writeln!(shown, "edge {number}: {line}");
            }
        }
        shown
    }

    /// Looks whether all that was read went through the edges. A right digest says little if it did not.
    ///
    /// # Errors
    /// If a connection went direct.
    pub fn expect_nothing_went_direct(&self) -> Result<()> {
        for (number, edge) in self.branch.edges.iter().enumerate() {
            let direct = edge.metric("wanigan_flows_direct_total", "")?;
            ensure!(direct == 0, "{direct} connections went direct at edge {number}");
        }
        Ok(())
    }

    /// Returns what the core names blocks with.
    ///
    /// # Errors
    /// If its secret cannot be read.
    pub fn domain(&self) -> Result<Domain> {
        Domain::of_core(self.branch.core.state())
    }
}

impl WebFile {
    /// Returns its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.len() as u64
    }
}

/// Where edges listen for their peers, UDP and TCP.
pub const PEER_PORT: u16 = 7747;
/// The IPv4 address of a client or workstation, counted from 0.
#[must_use]
pub fn desk(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 11 + number)
}

const LIMIT: Duration = Duration::from_secs(60);
const FIGURES: [&str; 4] = ["wanigan_peer", "wanigan_discovery", "wanigan_block_bytes", "wanigan_fetch"];
const QUIET: Duration = Duration::from_millis(100);
