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
use crate::topology::{CORE_WAN, EDGE_LAN, Lab, SERVER_V4};
use crate::wan::Passing;

/// How the edge gets its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel's TPROXY.
    Tproxy,
    /// Destination NAT.
    Redirect,
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
        let certificates = Certificates::new(lab)?;
        let core = certificates.start_core(lab, memory)?;
        let edge = certificates.start_edge(lab, mode, memory)?;
        edge.wait_for_link()?;
        Ok(Self { edge, core })
    }

    /// Returns the bytes that both nodes say they sent over the WAN.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn reported_wan_bytes(&self) -> Result<u64> {
        Ok(self.edge.metric(WAN_SENT, "")? + self.core.metric(WAN_SENT, "")?)
    }
}

/// A certificate authority and what it issued, in the lab's directory.
#[derive(Debug)]
pub struct Certificates {
    wanigan: PathBuf,
    directory: PathBuf,
}

impl Certificates {
    /// Makes an authority with certificates for an edge, `lisbon-gw`, and a core, `hq-core`.
    ///
    /// # Errors
    /// If `wanigan pki` fails.
    pub fn new(lab: &Lab) -> Result<Self> {
        let this = Self { wanigan: scenario::wanigan()?, directory: lab.path("pki") };
        this.pki(&["init"])?;
        this.pki(&["issue", EDGE_NAME, "--role", "edge", "--site", EDGE_SITE])?;
        this.pki(&["issue", CORE_NAME, "--role", "core", "--site", CORE_SITE])?;
        for file in ["ca", EDGE_NAME, CORE_NAME] {
            let path = this.directory.join(format!("{file}.pem"));
            ensure!(path.is_file(), "wanigan pki did not write {}", path.display());
        }
        Ok(this)
    }

    /// Starts the edge and waits until it is healthy.
    ///
    /// # Errors
    /// If it ends or does not answer.
    pub fn start_edge<'a>(&self, lab: &'a Lab, mode: Mode, memory: Memory) -> Result<Node<'a>> {
        let intercept = match mode {
            Mode::Tproxy => transparent("tproxy"),
            Mode::Redirect => transparent("redirect"),
            Mode::Listen { port } => format!(
                "mode = \"listen\"\nlisten = \"{}\"\nserver = \"{SERVER_V4}:{port}\"\n",
                Mode::listen_address(port)
            ),
        };
        let role = format!(
            "[[edge.intercept]]\n{intercept}\n\
             [[edge.route]]\nservers = [\"10.2.0.0/16\", \"fd00:2::/64\"]\ncore = \"{CORE_WAN}:{LINK_PORT}\"\n"
        );
        self.start(lab, lab.edge(), EDGE_NAME, EDGE_SITE, &role, memory)
    }

    /// Starts the core and waits until it is healthy.
    ///
    /// # Errors
    /// If it ends or does not answer.
    pub fn start_core<'a>(&self, lab: &'a Lab, memory: Memory) -> Result<Node<'a>> {
        let role = format!(
            "[core]\nlisten = \"{CORE_WAN}:{LINK_PORT}\"\n\
             allow-servers = [\"10.2.0.0/16:445,139,80\", \"[fd00:2::/64]:445,139,80\"]\n"
        );
        self.start(lab, lab.core(), CORE_NAME, CORE_SITE, &role, memory)
    }

    fn start<'a>(
        &self,
        lab: &Lab,
        namespace: &'a Namespace,
        name: &str,
        site: &str,
        role: &str,
        memory: Memory,
    ) -> Result<Node<'a>> {
        let state = lab.path(&format!("{name}-state"));
        std::fs::create_dir_all(&state).context("make a state directory")?;
        let file = lab.path(&format!("{name}.toml"));
        std::fs::write(&file, self.configuration(name, site, &state, role, memory))
            .context("configure a node")?;
        let mut command = namespace.command(&self.wanigan.to_string_lossy());
        command.args(["run", "-c"]).arg(&file).env("RUST_LOG", "info");
        let mut node = Node { process: namespace.spawn(name, &mut command)?, namespace };
        let started = wait_until(&format!("{name} is healthy"), Duration::from_secs(20), || {
            node.process.check()?;
            Ok(node.admin("/healthz").is_ok())
        });
        started.with_context(|| node.process.log())?;
        Ok(node)
    }

    fn configuration(&self, name: &str, site: &str, state: &Path, role: &str, memory: Memory) -> String {
        let pki = self.directory.display();
        let state = state.display();
        let Memory { store, limits } = memory;
        format!(
            "[node]\n\
             name = \"{name}\"\n\
             site = \"{site}\"\n\
             state-dir = \"{state}\"\n\
             ca = \"{pki}/ca.pem\"\n\
             certificate = \"{pki}/{name}.pem\"\n\
             key = \"{pki}/{name}.key\"\n\n\
             {role}\n\
             [store]\nsize = \"4 GiB\"\nmemory = \"{store} MiB\"\n\n\
             [limits]\nmemory = \"{limits} MiB\"\n\n\
             [admin]\nlisten = \"{ADMIN}\"\n"
        )
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
    namespace: &'a Namespace,
}

impl Node<'_> {
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

    /// Fetches a path of the node's admin address.
    ///
    /// # Errors
    /// If the node does not answer, or not with 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        let mut stream = self.namespace.connect(ADMIN, SOON)?;
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

    /// Returns all that the packet filter of the node's namespace holds.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn packet_filter(&self) -> Result<String> {
        Ok(self.namespace.run(&["nft", "list", "ruleset"], SOON)?.ok()?.text())
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

fn transparent(mode: &str) -> String {
    // The unspecified address stands for both versions of IP.
    format!("mode = \"{mode}\"\nlisten = \"0.0.0.0:7445\"\nports = [445, 139, 80]\nmanage-nftables = true\n")
}

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
