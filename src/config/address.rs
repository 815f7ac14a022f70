//! Where servers and cores are: host and port, networks, ports; and the two tables that roles look servers up in.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;

use crate::addr::ServerAddr;
use crate::pki::SiteName;

/// Text that is no address of the form a key takes; the message says why where the form alone would not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text does not have the form.
    #[error("not of that form")]
    Form,
    /// A network written as an address inside it.
    #[error("its host bits are set, \"{0}\" is the network")]
    HostBits(IpNet),
    /// An IPv4 network or address in IPv6 clothes, which no connection would be compared with.
    #[error("write IPv4 as IPv4")]
    MappedV4,
}

/// A host, by address or by name, and a port.
///
/// A name is resolved when it is dialled, never here. [`fmt::Display`] writes what `tokio::net::lookup_host` takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host,
    port: NonZeroU16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// The core that a route names.
pub type CoreAddress = HostPort;

impl HostPort {
    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// Returns the address where the host is one, and `None` where it is a name to resolve.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Form)?;
        let port = port_number(port)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => Host::Ip(v6.parse::<Ipv6Addr>().map_err(|_| AddressError::Form)?.into()),
            None => match host.parse::<std::net::Ipv4Addr>() {
                Ok(v4) => Host::Ip(v4.into()),
                Err(_) if is_host_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(AddressError::Form),
            },
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A network of servers, or one server: `10.2.0.0/16`, `10.2.0.7`, `fd00:2::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerNet(IpNet);

impl ServerNet {
    /// Returns whether the server is in the network; an IPv4-mapped address counts as the IPv4 address it carries.
    #[must_use]
    pub fn contains(self, server: ServerAddr) -> bool {
        self.0.contains(&server.0.ip().to_canonical())
    }

    /// Returns the network.
    #[must_use]
    pub fn network(self) -> IpNet {
        self.0
    }
}

impl FromStr for ServerNet {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse::<IpNet>().map_err(|_| AddressError::Form)?,
        };
        if net.trunc() != net {
            return Err(AddressError::HostBits(net.trunc()));
        }
        match net {
            IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
                Err(AddressError::MappedV4)
            }
            IpNet::V4(_) | IpNet::V6(_) => Ok(Self(net)),
        }
    }
}

/// Writes a single server without its prefix length.
impl fmt::Display for ServerNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// A set of TCP ports, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(BTreeSet<NonZeroU16>);

impl Ports {
    /// Takes a set of ports; `None` when it is empty.
    pub fn new(ports: impl IntoIterator<Item = NonZeroU16>) -> Option<Self> {
        let ports: BTreeSet<_> = ports.into_iter().collect();
        (!ports.is_empty()).then_some(Self(ports))
    }

    /// Returns whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        NonZeroU16::new(port).is_some_and(|port| self.0.contains(&port))
    }

    /// Lists the ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|port| port.get())
    }
}

impl FromStr for Ports {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let ports = text.split(',').map(|port| port_number(port.trim())).collect::<Result<Vec<_>, _>>()?;
        Self::new(ports).ok_or(AddressError::Form)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, port) in self.iter().enumerate() {
            write!(f, "{}{port}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Which core serves which servers. The longest prefix that contains a server decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// Longest prefix first, so that the first match is the right one.
    entries: Vec<(ServerNet, CoreAddress)>,
}

impl Routes {
    /// Orders the routes. Of two for the same network the first given is used; [`super::Config`] refuses such a file.
    pub fn new(entries: impl IntoIterator<Item = (ServerNet, CoreAddress)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|(net, _)| std::cmp::Reverse(net.0.prefix_len()));
        Self { entries }
    }

    /// Returns the core for a server, or `None`: the connection then goes direct.
    #[must_use]
    pub fn core_for(&self, server: ServerAddr) -> Option<&CoreAddress> {
        self.entries.iter().find(|(net, _)| net.contains(server)).map(|(_, core)| core)
    }

    /// Lists the routes, longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = (ServerNet, &CoreAddress)> {
        self.entries.iter().map(|(net, core)| (*net, core))
    }

    /// Lists each core once, in the order of the routes.
    pub fn cores(&self) -> impl Iterator<Item = &CoreAddress> {
        let first = |i: usize, core| self.entries[..i].iter().all(|(_, earlier)| earlier != core);
        self.entries
            .iter()
            .enumerate()
            .filter(move |(i, (_, core))| first(*i, core))
            .map(|(_, (_, core))| core)
    }
}

/// One entry of the core's allow list: `10.2.0.0/16:445,139,80`, `[fd00:2::/32]:445`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    /// The site it is for; `None` is every site.
    pub site: Option<SiteName>,
    /// The servers.
    pub servers: ServerNet,
    /// The ports.
    pub ports: Ports,
}

impl FromStr for AllowRule {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (net, ports) = text.rsplit_once(':').ok_or(AddressError::Form)?;
        let bracketed = net.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // Without brackets "fd00::1:445" could be a network alone or one with a port.
        if bracketed.is_none() && net.contains(':') {
            return Err(AddressError::Form);
        }
        let servers = bracketed.unwrap_or(net).parse()?;
        Ok(Self { site: None, servers, ports: ports.parse()? })
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.servers.0 {
            IpNet::V4(_) => write!(f, "{}:{}", self.servers, self.ports),
            IpNet::V6(_) => write!(f, "[{}]:{}", self.servers, self.ports),
        }
    }
}

/// What the core dials, and for whom. It dials nothing else: a core is no open relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowServers {
    rules: Vec<AllowRule>,
}

impl AllowServers {
    /// Takes the rules; the order is of no matter.
    pub fn new(rules: impl IntoIterator<Item = AllowRule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    /// Returns whether an edge of that site may have that server dialled.
    #[must_use]
    pub fn allows(&self, site: &str, server: ServerAddr) -> bool {
        self.rules.iter().any(|rule| {
            rule.site.as_ref().is_none_or(|named| named.as_str() == site)
                && rule.ports.contains(server.0.port())
                && rule.servers.contains(server)
        })
    }

    /// Lists the rules.
    pub fn iter(&self) -> impl Iterator<Item = &AllowRule> {
        self.rules.iter()
    }
}

fn port_number(text: &str) -> Result<NonZeroU16, AddressError> {
    // `parse` alone would take "+80".
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| AddressError::Form)
    } else {
        Err(AddressError::Form)
    }
}

/// RFC 1123 §2.1: labels of letters, digits and inner hyphens (and the underscore that Windows hosts have); the last
/// is not all digits, so that a mistyped IPv4 address is not taken for a name.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && !last_is_number && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_by_name_and_address_are_read_and_written_alike() {
        for text in ["fs1:445", "core.hq.example:7400", "10.0.0.1:80", "[fd00::1]:445", "[::1]:7400"] {
            assert_eq!(text.parse::<HostPort>().map(|host| host.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_not_host_and_port_is_refused() {
        let wrong = [
            "10.0.0",
            "10.0.0:7400",
            "10.0.0.1",
            "fs1",
            "fs1:",
            "fs1:0",
            "fs1:+80",
            "fs1:65536",
            ":445",
            "fd00::1:445",
        ];
        for text in wrong.into_iter().chain(["[10.0.0.1]:1", "-a:1", "a b:1", "a..b:1", "[::1]", ""]) {
            assert_eq!(text.parse::<HostPort>(), Err(AddressError::Form), "{text}");
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused_with_the_network_it_is_in() {
        let network: IpNet = "10.2.0.0/16".parse().unwrap();
        assert_eq!("10.2.3.4/16".parse::<ServerNet>(), Err(AddressError::HostBits(network)));
        assert_eq!("::ffff:10.2.0.0/112".parse::<ServerNet>(), Err(AddressError::MappedV4));
    }

    #[test]
    fn the_longest_prefix_names_the_core() {
        let routes = routes(&[("10.0.0.0/8", "wide:1"), ("10.2.3.4", "one:1"), ("10.2.0.0/16", "narrow:1")]);
        assert_eq!(core(&routes, "10.9.0.1:445"), Some("wide:1".to_owned()));
        assert_eq!(core(&routes, "10.2.9.9:445"), Some("narrow:1".to_owned()));
        assert_eq!(core(&routes, "10.2.3.4:80"), Some("one:1".to_owned()));
        assert_eq!(core(&routes, "11.0.0.1:445"), None);
        assert_eq!(core(&routes, "[fd00::1]:445"), None);
    }

    #[test]
    fn a_v4_mapped_server_is_routed_and_allowed_as_its_v4_address() {
        let mapped = server("[::ffff:10.2.0.1]:445");
        assert!(routes(&[("10.2.0.0/16", "core:1")]).core_for(mapped).is_some());
        assert!(AllowServers::new(["10.2.0.0/16:445".parse().unwrap()]).allows("lisbon", mapped));
    }

    #[test]
    fn each_core_is_listed_once() {
        let routes = routes(&[("10.2.0.0/16", "a:1"), ("10.3.0.0/16", "b:1"), ("10.4.0.0/16", "a:1")]);
        assert_eq!(routes.cores().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:1"]);
    }

    #[test]
    fn the_core_dials_only_listed_servers_and_ports_and_sites() {
        let mut lisbon: AllowRule = "[fd00::/32]:445".parse().unwrap();
        lisbon.site = Some("lisbon".parse().unwrap());
        let allowed = AllowServers::new(["10.2.0.0/16:445,80".parse().unwrap(), lisbon]);
        assert!(allowed.allows("porto", server("10.2.0.1:80")));
        assert!(!allowed.allows("porto", server("10.2.0.1:22")));
        assert!(!allowed.allows("porto", server("10.3.0.1:80")));
        assert!(!allowed.allows("porto", server("[fd00::1]:445")));
        assert!(allowed.allows("lisbon", server("[fd00::1]:445")));
        assert!(!allowed.allows("lisbon", server("10.2.0.1:0")));
    }

    #[test]
    fn a_rule_without_ports_or_with_a_bare_v6_network_is_refused() {
        for text in
            ["10.2.0.0/16", "10.2.0.0/16:", "10.2.0.0/16:0", "10.2.0.0/16:445,", "fd00::/32:445", "fs1:445"]
        {
            assert!(text.parse::<AllowRule>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn rules_read_back_as_written(ip in any::<IpAddr>(), cut in 0..=128u8, ports in proptest::collection::vec(1..=u16::MAX, 1..5)) {
            let net = IpNet::new(ip, cut.min(if ip.is_ipv4() { 32 } else { 128 })).unwrap().trunc();
            let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let text = if ip.is_ipv4() { format!("{net}:{ports}") } else { format!("[{net}]:{ports}") };
            prop_assume!(ip.is_ipv4() || !ip.to_canonical().is_ipv4());
            let rule: AllowRule = text.parse().unwrap();
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (text.parse::<HostPort>(), text.parse::<AllowRule>(), text.parse::<ServerNet>());
        }
    }

    fn server(text: &str) -> ServerAddr {
        ServerAddr(text.parse().unwrap())
    }

    fn routes(entries: &[(&str, &str)]) -> Routes {
        Routes::new(entries.iter().map(|(net, core)| (net.parse().unwrap(), core.parse().unwrap())))
    }

    fn core(routes: &Routes, text: &str) -> Option<String> {
        routes.core_for(server(text)).map(ToString::to_string)
    }
}
