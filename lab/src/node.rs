//! Wanigan's own nodes in the lab: certificates, configuration, the running process, its figures.
//!
//! All through the command that operators use: `wanigan pki`, a configuration file, `wanigan run`, and the admin
//! address.

use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::process::{Process, run, wait_until};
use crate::scenario;
use crate::topology::{EDGE_LAN, Lab};
use crate::wan::Passing;

mod restart;
mod setup;

pub use restart::Loss;
use setup::Role;
pub use setup::Setup;

/// How the edge gets its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel's TPROXY.
    Tproxy,
    /// Destination NAT.
    Redirect,
    /// Destination NAT of this host's own connections: an edge on a workstation.
    Local,
    /// An address that clients are pointed at, for the server's port: [`Mode::listen_address`].
    Listen {
        /// The server's port.
        port: u16,
    },
}

impl Mode {
    /// The modes that clients do not notice.
    pub const TRANSPARENT: [Self; 2] = [Self::Tproxy, Self::Redirect];

    /// Returns where the mode `listen` listens, as clients of the branch see it.
    #[must_use]
    pub fn listen_address(port: u16) -> SocketAddr {
        SocketAddr::from((EDGE_LAN, 10_000 + port))
    }
}

/// Limits of one node, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// `store.memory`.
    pub store: u64,
    /// `limits.memory`.
    pub limits: u64,
}

impl Memory {
    /// Enough for every test that is not about memory.
    pub const PLENTY: Self = Self { store: 256, limits: 256 };
}

/// An edge and a core, linked.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The node in the branch.
    pub edge: Node<'a>,
    /// The node near the servers.
    pub core: Node<'a>,
}

impl<'a> Pair<'a> {
    /// Starts both, and waits until the edge's link is up.
    ///
    /// # Errors
    /// If one does not start, or the link does not stand.
    pub fn start(lab: &'a Lab, mode: Mode, memory: Memory) -> Result<Self> {
        Self::start_with(lab, &Setup::core(lab).memory(memory), Setup::edge(lab, mode).memory(memory))
    }

    /// The same with nodes of one's own.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_with(lab: &'a Lab, core: &Setup<'a>, edge: Setup<'a>) -> Result<Self> {
        let Branch { mut edges, core, .. } = Branch::start(lab, core, &[edge])?;
        Ok(Self { edge: edges.pop().context("an edge was started")?, core })
    }

    /// Returns the bytes that both nodes say they sent over the WAN.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn reported_wan_bytes(&self) -> Result<u64> {
        Ok(self.edge.metric(WAN_SENT, "")? + self.core.metric(WAN_SENT, "")?)
    }
}

/// Several edges and their core.
#[derive(Debug)]
pub struct Branch<'a> {
    /// The nodes in the branch, in the order in which they were asked for.
    pub edges: Vec<Node<'a>>,
    /// The node near the servers.
    pub core: Node<'a>,
    /// Who vouches for them.
    pub certificates: Certificates,
}

impl<'a> Branch<'a> {
    /// Starts all, and waits until the edges' links are up.
    ///
    /// # Errors
    /// If one does not start, or a link does not stand.
    pub fn start(lab: &'a Lab, core: &Setup<'a>, edges: &[Setup<'a>]) -> Result<Self> {
        let certificates = Certificates::new(lab)?;
        let core = certificates.start(lab, core)?;
        let edges: Vec<Node<'_>> =
            edges.iter().map(|edge| certificates.start(lab, edge)).collect::<Result<_>>()?;
        edges.iter().try_for_each(Node::wait_for_link)?;
        Ok(Self { edges, core, certificates })
    }
}

/// A certificate authority, in the lab's directory.
#[derive(Debug)]
pub struct Certificates {
    wanigan: PathBuf,
    directory: PathBuf,
}

impl Certificates {
    /// Makes an authority.
    ///
    /// # Errors
    /// If `wanigan pki` fails.
    pub fn new(lab: &Lab) -> Result<Self> {
        Self::stranger(lab, "pki")
    }

    /// Makes another authority, which the nodes know nothing of, in a directory of this name.
    ///
    /// # Errors
    /// If `wanigan pki` fails.
    pub fn stranger(lab: &Lab, name: &str) -> Result<Self> {
        let this = Self { wanigan: scenario::wanigan()?, directory: lab.path(name) };
        this.pki(&["init"])?;
        ensure!(this.authority().is_file(), "wanigan pki did not write {}", this.authority().display());
        Ok(this)
    }

    /// Returns the authority's own certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Issues a certificate for a role, `edge` or `core`, and returns it and its key.
    ///
    /// # Errors
    /// If `wanigan pki` fails.
    pub fn issue(&self, name: &str, role: &str, site: &str) -> Result<(PathBuf, PathBuf)> {
        self.pki(&["issue", name, "--role", role, "--site", site])?;
        let files = ["pem", "key"].map(|extension| self.directory.join(format!("{name}.{extension}")));
        for path in &files {
            ensure!(path.is_file(), "wanigan pki did not write {}", path.display());
        }
        Ok(files.into())
    }

    /// Starts the edge on the branch's gateway and waits until it is healthy.
    ///
    /// # Errors
    /// If it ends or does not answer.
    pub fn start_edge<'a>(&self, lab: &'a Lab, mode: Mode, memory: Memory) -> Result<Node<'a>> {
        self.start(lab, &Setup::edge(lab, mode).memory(memory))
    }

    /// Starts the core and waits until it is healthy.
    ///
    /// # Errors
    /// If it ends or does not answer.
    pub fn start_core<'a>(&self, lab: &'a Lab, memory: Memory) -> Result<Node<'a>> {
        self.start(lab, &Setup::core(lab).memory(memory))
    }

    /// Starts a node and waits until it is healthy. One of that name that ran before leaves it its certificate and
    /// its state.
    ///
    /// # Errors
    /// If it ends or does not answer.
    pub fn start<'a>(&self, lab: &Lab, setup: &Setup<'a>) -> Result<Node<'a>> {
        let (name, site) = (&setup.name, &setup.site);
        if !self.directory.join(format!("{name}.pem")).is_file() {
            self.issue(name, if setup.role == Role::Core { "core" } else { "edge" }, site)?;
        }
        let state = lab.path(&format!("{name}-state"));
        std::fs::create_dir_all(&state).context("make a state directory")?;
        let file = lab.path(&format!("{name}.toml"));
        std::fs::write(&file, setup.configuration(&self.directory, &state)).context("configure a node")?;
        let process = setup.spawn(&self.wanigan, &file)?;
        let mut node = Node { process, setup: setup.clone(), wanigan: self.wanigan.clone(), file, state };
        node.wait_for_health()?;
        Ok(node)
    }

    fn pki(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.wanigan);
        command.arg("pki").args(words).arg("--dir").arg(&self.directory);
        run(&mut command, Duration::from_secs(20))?.ok().with_context(|| format!("wanigan pki {words:?}"))?;
        Ok(())
    }
}

/// A running node. It can be used as the [`Process`] that it is.
#[derive(Debug)]
pub struct Node<'a> {
    process: Process,
    setup: Setup<'a>,
    wanigan: PathBuf,
    file: PathBuf,
    state: PathBuf,
}

impl<'a> Node<'a> {
    /// Returns where it runs.
    #[must_use]
    pub fn namespace(&self) -> &'a Namespace {
        self.setup.namespace
    }

    /// Returns its state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Runs another command of Wanigan's with this node's configuration, such as `peers`, and returns what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn wanigan(&self, words: &[&str]) -> Result<String> {
        let mut command = self.namespace().command(&self.wanigan.to_string_lossy());
        command.args(words).arg("-c").arg(&self.file);
        Ok(run(&mut command, Duration::from_secs(20))?
            .ok()
            .with_context(|| format!("wanigan {words:?}"))?
            .text())
    }

    /// Returns the sum of a metric's samples whose labels contain a text, such as `reason="smb_encrypted"`; the empty text
    /// is in all of them.
    ///
    /// # Errors
    /// If the node does not answer or has no such sample.
    pub fn metric(&self, name: &str, label: &str) -> Result<u64> {
        let text = self.admin("/metrics")?;
        let samples: Vec<f64> = text.lines().filter_map(|line| sample(line, name, label)).collect();
        ensure!(!samples.is_empty(), "no sample of {name} {label} in:\n{text}");
        Ok(samples.iter().sum::<f64>() as u64)
    }

    /// Returns the bytes of content that an edge wrote to clients from its own store or from a peer: what the branch had. What
    /// it fetched from the core, or was pushed by it, is none of them.
    ///
    /// # Errors
    /// If the node does not answer.
    pub fn hit_bytes(&self) -> Result<u64> {
        let from = |source: &str| self.metric("wanigan_block_bytes_total", &format!("source=\"{source}\""));
        Ok(from("store")? + from("peer")?)
    }

    /// Fetches a path of the node's admin address.
    ///
    /// # Errors
    /// If the node does not answer, or not with 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        let mut stream = self.namespace().connect(ADMIN, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        // HTTP/1.0 keeps the answer free of chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n").context("ask the admin address")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("hear the admin address")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("find the end of the head")?;
        let status = head.split_whitespace().nth(1);
        ensure!(status == Some("200"), "{path} answered {head}");
        Ok(body.to_owned())
    }

    /// Waits until the node's link answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_for_link(&self) -> Result<()> {
        wait_until(
            "the link is up",
            Duration::from_secs(20),
            || Ok(self.metric("wanigan_links_up", "")? >= 1),
        )
        .with_context(|| self.process.log())
    }

    fn wait_for_health(&mut self) -> Result<()> {
        let healthy = wait_until(&format!("{} is healthy", self.setup.name), Duration::from_secs(20), || {
            self.process.check()?;
            Ok(self.admin("/healthz").is_ok())
        });
        healthy.with_context(|| self.process.log())
    }

    /// Returns all that the packet filter of the node's namespace holds.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn packet_filter(&self) -> Result<String> {
        Ok(self.namespace().run(&["nft", "list", "ruleset"], SOON)?.ok()?.text())
    }
}

impl Deref for Node<'_> {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Node<'_> {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A way in which a link between edge and core fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The core is killed.
    CoreKilled,
    /// The core is stopped: its host goes on acknowledging nothing and refusing nothing.
    CoreStopped,
    /// The WAN drops every packet of the link; TCP passes.
    LinkDropped,
    /// The core's host drops what comes to the core; what the core sends passes.
    CoreDeaf,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::CoreKilled, Self::CoreStopped, Self::LinkDropped, Self::CoreDeaf];

    /// Makes it happen.
    ///
    /// # Errors
    /// If the core is gone already.
    pub fn strike(self, lab: &Lab, core: &mut Node<'_>) -> Result<()> {
        match self {
            Self::CoreKilled => core.kill(),
            Self::CoreStopped => core.signal(nix::sys::signal::Signal::SIGSTOP),
            Self::LinkDropped => {
                lab.wan().set_passing(Passing::AllButUdp);
                Ok(())
            }
            Self::CoreDeaf => {
                let rules = format!(
                    "table inet deaf {{ chain input {{ type filter hook input priority 0; udp dport {LINK_PORT} drop; }}; }}"
                );
                lab.core().run(&["nft", &rules], Duration::from_secs(5))?.ok()?;
                Ok(())
            }
        }
    }
}

/// The metric of bytes sent on links.
pub const WAN_SENT: &str = "wanigan_wan_sent_bytes_total";

/// Reads a line of the Prometheus text format if it is a sample of that name with that label.
fn sample(line: &str, name: &str, label: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    if !rest.starts_with([' ', '{']) {
        return None;
    }
    let (labels, value) = rest.rsplit_once(' ')?;
    if labels.contains(label) { value.parse().ok() } else { None }
}

const EDGE_NAME: &str = "lisbon-gw";
const EDGE_SITE: &str = "lisbon";
const CORE_NAME: &str = "hq-core";
const CORE_SITE: &str = "hq";
const LINK_PORT: u16 = 7400;
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9445);
const SOON: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_found_by_its_whole_name_and_a_label() {
        assert_eq!(sample("a_total 7", "a_total", ""), Some(7.0));
        assert_eq!(sample("a_total{x=\"1\",y=\"2\"} 8", "a_total", "y=\"2\""), Some(8.0));
        assert_eq!(sample("a_total{x=\"1\"} 8", "a_total", "x=\"2\""), None);
        assert_eq!(sample("a_total_more 7", "a_total", ""), None);
        assert_eq!(sample("# HELP a_total Of 7", "a_total", ""), None);
    }
}
