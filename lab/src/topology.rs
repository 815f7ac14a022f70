//! A branch and a head office with a WAN between, IPv4 and IPv6.
//!
//! ```text
//!  c1 ─┐                                                    ┌─ server
//!      ├─ lan0 (bridge) edge wan0 ═══ WAN ═══ wan0 core lan0 ┘  10.2.0.2
//!  c2 ─┘        10.1.0.1     10.0.0.1    10.0.0.2   10.2.0.1    fd00:2::2
//!  10.1.0.11…   fd00:1::1    fd00::1     fd00::2    fd00:2::1
//!  fd00:1::11…
//! ```
//!
//! A client can be a workstation that runs an edge itself. Where a test asks for them ([`Hosts`]) the branch also has
//!
//! ```text
//!  b1 ── lan0 g1 eth0 ── lan0      g1, a gateway on the LAN with one client behind it
//!  10.1.1.2   10.1.1.1   10.1.0.101           fd00:1:1::2, fd00:1:1::1, fd00:1::101
//!
//!  r1 eth0 ── r1 edge              r1, a host in a subnet of its own: no broadcast from lan0 comes here
//!  10.1.201.2   10.1.201.1                    fd00:1:201::2, fd00:1:201::1
//! ```
//!
//! Edge and core are routers: with no Wanigan in them, clients reach the server directly. MTU is 1500 everywhere.
//! Every route says `congctl cubic`, because clients and servers in the field run CUBIC and a machine's default may be
//! another one. (The default itself, tcp_congestion_control, cannot be set inside a namespace unless the whole machine
//! allows CUBIC to everybody.) For the same reason no connection may learn from an earlier one (tcp_no_metrics_save).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::instance::Instance;
use crate::namespace::Namespace;
use crate::process::tail;
use crate::wan::{Shape, Wan};

mod lan;

/// The version of IP that a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the server's address.
    #[must_use]
    pub fn server(self) -> IpAddr {
        match self {
            Self::V4 => SERVER_V4.into(),
            Self::V6 => SERVER_V6.into(),
        }
    }
}

/// How many hosts the branch has, by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hosts {
    /// On the LAN: clients, or workstations that run an edge themselves.
    pub clients: usize,
    /// On the LAN too, each with one client behind it.
    pub gateways: usize,
    /// Each in a subnet of its own, which the edge routes to.
    pub remote: usize,
}

impl From<usize> for Hosts {
    fn from(clients: usize) -> Self {
        Self { clients, ..Self::default() }
    }
}

/// Two sites and what is between. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    // In the order of dropping: programs die with their namespaces, then the link, then the directory.
    clients: Vec<Namespace>,
    behind: Vec<Namespace>,
    gateways: Vec<Namespace>,
    remote: Vec<Namespace>,
    edge: Namespace,
    core: Namespace,
    server: Namespace,
    wan: Wan,
    instance: Instance,
}

impl Lab {
    /// Builds a lab: a number is one of clients.
    ///
    /// # Errors
    /// Without root, the `ip` program or `/dev/net/tun`.
    pub fn new(hosts: impl Into<Hosts>, shape: Shape) -> Result<Self> {
        let hosts = hosts.into();
        let instance = Instance::new()?;
        let make = |role: &str| -> Result<Namespace> {
            let namespace = Namespace::create(&format!("{}-{role}", instance.name()), instance.directory())?;
            namespace.sysctl(&TCP).context("prepare TCP")?;
            Ok(namespace)
        };
        let (edge, core, server) = (make("edge")?, make("core")?, make("server")?);
        let several = |letter: char, count: usize| -> Result<Vec<Namespace>> {
            (1..=count).map(|number| make(&format!("{letter}{number}"))).collect()
        };
        let clients = several('c', hosts.clients)?;
        let (gateways, behind) = (several('g', hosts.gateways)?, several('b', hosts.gateways)?);
        let remote = several('r', hosts.remote)?;
        let wan = Wan::open(&edge, &core, "wan0", shape).context("open the WAN")?;
        let lab = Self { clients, behind, gateways, remote, edge, core, server, wan, instance };
        lab.set_up_routers()?;
        lab.set_up_server()?;
        (0..hosts.clients).try_for_each(|number| lab.set_up_client(number))?;
        (0..hosts.gateways).try_for_each(|number| lab.set_up_gateway(number))?;
        (0..hosts.remote).try_for_each(|number| lab.set_up_remote(number))?;
        Ok(lab)
    }

    /// Returns a client, counted from 0.
    ///
    /// # Panics
    /// If the lab was built with fewer.
    #[must_use]
    pub fn client(&self, number: usize) -> &Namespace {
        &self.clients[number]
    }

    /// Returns a gateway on the LAN, counted from 0.
    ///
    /// # Panics
    /// If the lab was built with fewer.
    #[must_use]
    pub fn gateway(&self, number: usize) -> &Namespace {
        &self.gateways[number]
    }

    /// Returns the client behind a gateway on the LAN, counted from 0.
    ///
    /// # Panics
    /// If the lab was built with fewer.
    #[must_use]
    pub fn behind(&self, number: usize) -> &Namespace {
        &self.behind[number]
    }

    /// Returns a host in a subnet of its own, counted from 0.
    ///
    /// # Panics
    /// If the lab was built with fewer.
    #[must_use]
    pub fn remote(&self, number: usize) -> &Namespace {
        &self.remote[number]
    }

    /// Returns the branch's gateway.
    #[must_use]
    pub fn edge(&self) -> &Namespace {
        &self.edge
    }

    /// Returns the head office's gateway.
    #[must_use]
    pub fn core(&self) -> &Namespace {
        &self.core
    }

    /// Returns where the content servers run.
    #[must_use]
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Returns the link.
    #[must_use]
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// Returns the lab's own directory; it goes with the lab.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.instance.directory()
    }

    /// Returns a path below the lab's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Returns the ends of all logs that programs wrote so far, for a failed test to show.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut shown = String::new();
        let mut waiting = vec![self.directory().to_owned()];
        while let Some(directory) = waiting.pop() {
            for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
            {
                if path.is_dir() {
                    waiting.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    let text = std::fs::read(&path).map(|bytes| tail(&bytes)).unwrap_or_default();
                    // Writing to a String cannot fail.
                    let _ = writeln!(shown, "--- {}\n{text}", path.display());
                }
            }
        }
        shown
    }

    fn set_up_routers(&self) -> Result<()> {
        self.edge.ip(&format!(
            "link add lan0 type bridge forward_delay 0\n{}",
            addresses("lan0", "10.1.0.1", "fd00:1::1")
        ))?;
        self.core.ip(&format!(
            "link add lan0 type bridge forward_delay 0\n{}",
            addresses("lan0", "10.2.0.1", "fd00:2::1")
        ))?;
        self.edge.ip(&addresses("wan0", "10.0.0.1", "fd00::1"))?;
        self.core.ip(&addresses("wan0", "10.0.0.2", "fd00::2"))?;
        self.edge.ip(&routes("10.2.0.0/16", "10.0.0.2", "fd00:2::/64", "fd00::2"))?;
        self.core.ip(&routes("10.1.0.0/16", "10.0.0.1", "fd00:1::/32", "fd00::1"))?;
        for router in [&self.edge, &self.core] {
            router.sysctl(&FORWARDING)?;
        }
        if Path::new("/proc/sys/net/bridge").exists() {
            // With it a gateway cannot use tproxy for what comes over its bridge.
            self.edge.sysctl(&BRIDGE_FILTER_OFF)?;
        }
        Ok(())
    }

    fn set_up_server(&self) -> Result<()> {
        attach(&self.server, &self.core, "server")?;
        self.server.ip(&addresses("eth0", "10.2.0.2", "fd00:2::2"))?;
        self.server.ip(&routes("default", "10.2.0.1", "::/0", "fd00:2::1"))
    }

    fn set_up_client(&self, number: usize) -> Result<()> {
        let client = &self.clients[number];
        attach(client, &self.edge, &format!("c{}", number + 1))?;
        client.ip(&addresses(
            "eth0",
            &format!("10.1.0.{}", number + 11),
            &format!("fd00:1::{}", number + 11),
        ))?;
        client.ip(&routes("default", "10.1.0.1", "::/0", "fd00:1::1"))
    }

    fn set_up_gateway(&self, number: usize) -> Result<()> {
        let (gateway, behind, nth) = (&self.gateways[number], &self.behind[number], number + 1);
        attach(gateway, &self.edge, &format!("g{nth}"))?;
        let (v4, v6) = (format!("10.1.0.{}", 100 + nth), format!("fd00:1::{}", 100 + nth));
        gateway.ip(&addresses("eth0", &v4, &v6))?;
        gateway.ip(&routes("default", "10.1.0.1", "::/0", "fd00:1::1"))?;
        gateway.sysctl(&FORWARDING)?;
        self.edge.ip(&routes(&format!("10.1.{nth}.0/24"), &v4, &format!("fd00:1:{nth}::/64"), &v6))?;
        let (v4, v6) = (format!("10.1.{nth}.1"), format!("fd00:1:{nth}::1"));
        behind.ip(&format!("link add eth0 type veth peer name lan0 netns {}", gateway.name()))?;
        gateway.ip(&addresses("lan0", &v4, &v6))?;
        behind.ip(&addresses("eth0", &format!("10.1.{nth}.2"), &format!("fd00:1:{nth}::2")))?;
        behind.ip(&routes("default", &v4, "::/0", &v6))
    }

    fn set_up_remote(&self, number: usize) -> Result<()> {
        let (remote, nth) = (&self.remote[number], number + 201);
        let port = format!("r{}", number + 1);
        let (v4, v6) = (format!("10.1.{nth}.1"), format!("fd00:1:{nth}::1"));
        remote.ip(&format!("link add eth0 type veth peer name {port} netns {}", self.edge.name()))?;
        self.edge.ip(&addresses(&port, &v4, &v6))?;
        remote.ip(&addresses("eth0", &format!("10.1.{nth}.2"), &format!("fd00:1:{nth}::2")))?;
        remote.ip(&routes("default", &v4, "::/0", &v6))
    }
}

/// Puts an `eth0` into a namespace whose other end is a port of the router's bridge.
fn attach(host: &Namespace, router: &Namespace, port: &str) -> Result<()> {
    let router_name = router.name();
    host.ip(&format!("link add eth0 type veth peer name {port} netns {router_name}"))?;
    router.ip(&format!("link set {port} master lan0 up"))
}

/// Returns the lines that give an interface its addresses, with routes to its own subnets that say CUBIC.
fn addresses(interface: &str, v4: &str, v6: &str) -> String {
    let v4_net = format!("{}.0/24", v4.rsplit_once('.').map_or(v4, |(net, _)| net));
    let v6_net = format!("{}::/64", v6.split_once("::").map_or(v6, |(net, _)| net));
    format!(
        "link set {interface} up\n\
         addr add {v4}/24 dev {interface} noprefixroute\n\
         addr add {v6}/64 dev {interface} nodad noprefixroute\n\
         route add {v4_net} dev {interface} src {v4} congctl cubic\n\
         route add {v6_net} dev {interface} congctl cubic\n"
    )
}

fn routes(v4: &str, v4_via: &str, v6: &str, v6_via: &str) -> String {
    format!("route add {v4} via {v4_via} congctl cubic\nroute add {v6} via {v6_via} congctl cubic\n")
}

/// The server's IPv4 address.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);
/// The edge's address in the branch.
pub const EDGE_LAN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The core's IPv4 address on the WAN.
pub const CORE_WAN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The same, IPv6.
pub const CORE_WAN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

const TCP: [(&str, &str); 2] = [("ipv4/tcp_no_metrics_save", "1"), ("ipv6/conf/default/accept_dad", "0")];
const BRIDGE_FILTER_OFF: [(&str, &str); 2] =
    [("bridge/bridge-nf-call-iptables", "0"), ("bridge/bridge-nf-call-ip6tables", "0")];
const FORWARDING: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
