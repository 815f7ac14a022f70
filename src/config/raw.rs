//! The file as it is written: one struct a table, each key read on its own.
//!
//! serde's derive stops at the first error, and an operator would meet the errors of a file one run at a time. So
//! these structs are filled from a parsed [`toml::Value`] key by key, and every problem is noted with its place.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use toml::Value;

use super::address::{AddressError, AllowRule, HostPort, Ports, ServerNet};
use super::quantity::{ByteSize, QuantityError, Span};
use super::{Congestion, NoSuchWord, Problem, Proofs};
use crate::pki::{NameError, NodeName, SiteName};

/// What a key holds.
#[derive(Debug)]
pub(super) enum Field<T> {
    /// The key is not in the file.
    Absent,
    /// The key holds something that was refused and noted.
    Refused,
    /// The value.
    Is(T),
}

impl<T> Field<T> {
    /// Returns the value or the default.
    pub(super) fn or(self, default: T) -> T {
        self.ok().unwrap_or(default)
    }

    /// Returns the value if there is a good one.
    pub(super) fn ok(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }

    /// Returns the value; that it is absent is noted, that it was refused has been.
    pub(super) fn required(self, at: &str, problems: &mut Problems) -> Option<T>
    where
        T: Read,
    {
        if matches!(self, Self::Absent) {
            problems.note(at, format!("is missing: {}", T::FORM));
        }
        self.ok()
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn note(&mut self, key: &str, problem: impl Into<String>) {
        self.0.push(Problem { key: key.to_owned(), problem: problem.into() });
    }
}

/// A value that a key can hold.
pub(super) trait Read: Sized {
    /// Completes "… is not …".
    const FORM: &'static str;

    /// The form of a list of such values.
    const LIST: &'static str = "a list";

    /// Reads the value found at a key, or notes why it is refused.
    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self>;
}

/// Declares the structs of tables, and the list of them that the documents are held to.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident at $path:literal { $($key:literal $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub(super) struct $name { $(pub(super) $field: Field<$type>,)+ }

            impl Read for $name {
                const FORM: &'static str = "a table";
                const LIST: &'static str = concat!("tables that begin with [[", $path, "]]");

                fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
                    let Value::Table(mut table) = value else {
                        return refuse(&value, Self::FORM, at, problems);
                    };
                    let raw = Self {
                        $($field: take(&mut table, $key, at, problems),)+
                    };
                    for unknown in table.keys() {
                        problems.note(&join(at, unknown), unknown_key(unknown, &[$($key),+]));
                    }
                    Some(raw)
                }
            }
        )+

        /// Every table with its keys.
        #[cfg(test)]
        pub(super) const TABLES: &[(&str, &[&str])] = &[$(($path, &[$($key),+])),+];
    };
}

tables! {
    /// The whole file.
    File at "" {
        "node" node: Node,
        "edge" edge: Edge,
        "core" core: Core,
        "store" store: Store,
        "peers" peers: Peers,
        "limits" limits: Limits,
        "link" link: Link,
        "admin" admin: Admin,
    }
    /// Who this node is.
    Node at "node" {
        "name" name: NodeName,
        "site" site: SiteName,
        "state-dir" state_dir: PathBuf,
        "ca" ca: PathBuf,
        "certificate" certificate: PathBuf,
        "key" key: PathBuf,
    }
    /// The role in the branch.
    Edge at "edge" {
        "intercept" intercept: Vec<Intercept>,
        "route" route: Vec<Route>,
    }
    /// One way for connections to come in.
    Intercept at "edge.intercept" {
        "mode" mode: Mode,
        "listen" listen: SocketAddr,
        "server" server: HostPort,
        "ports" ports: Ports,
        "manage-nftables" manage_nftables: bool,
        "local" local: bool,
    }
    /// Which core serves which servers.
    Route at "edge.route" {
        "servers" servers: Vec<ServerNet>,
        "core" core: HostPort,
    }
    /// The role near the servers.
    Core at "core" {
        "listen" listen: SocketAddr,
        "allow-servers" allow_servers: Vec<Allow>,
        "dial-timeout" dial_timeout: Span,
        "proofs" proofs: Proofs,
        "secret-grace" secret_grace: Span,
        "site-groups" site_groups: AnyNumber<SiteGroup>,
    }
    /// Rules for one site.
    AllowSite at "core.allow-servers" {
        "site" site: SiteName,
        "servers" servers: Vec<AllowRule>,
    }
    /// Blocks on disk and in memory.
    Store at "store" {
        "size" size: ByteSize,
        "memory" memory: ByteSize,
        "dir" dir: PathBuf,
        "share" share: bool,
    }
    /// The other edges of the LAN.
    Peers at "peers" {
        "enabled" enabled: bool,
        "listen" listen: SocketAddr,
        "interfaces" interfaces: AnyNumber<InterfaceName>,
        "broadcast" broadcast: bool,
        "multicast" multicast: bool,
        "static" static_peers: AnyNumber<PeerAddr>,
        "advertise" advertise: AnyNumber<PeerAddr>,
        "connections" connections: Count,
        "rate" rate: Rate,
    }
    /// What all flows together may use.
    Limits at "limits" {
        "memory" memory: ByteSize,
        "flows" flows: Count,
        "retain" retain: ByteSize,
    }
    /// The connection between edge and core.
    Link at "link" {
        "congestion" congestion: Congestion,
        "compression" compression: bool,
    }
    /// The address for operators.
    Admin at "admin" {
        "listen" listen: AdminListen,
    }
}

/// A way of interception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Tproxy,
    Redirect,
    Listen,
}

/// One entry of the allow list.
#[derive(Debug)]
pub(super) enum Allow {
    Rule(AllowRule),
    Site(AllowSite),
}

/// A number of things, at least one.
#[derive(Debug)]
pub(super) struct Count(pub(super) u32);

/// An address, or none.
#[derive(Debug)]
pub(super) struct AdminListen(pub(super) Option<SocketAddr>);

/// Bytes a second, or no limit.
#[derive(Debug)]
pub(super) struct Rate(pub(super) Option<ByteSize>);

/// Where one host is reached.
#[derive(Debug)]
pub(super) struct PeerAddr(pub(super) SocketAddr);

/// What the kernel calls an interface.
#[derive(Debug)]
pub(super) struct InterfaceName(pub(super) String);

/// Sites that belong together, at least two.
#[derive(Debug)]
pub(super) struct SiteGroup(pub(super) Vec<SiteName>);

/// A list that says something when it is empty, too.
#[derive(Debug)]
pub(super) struct AnyNumber<T>(pub(super) Vec<T>);

impl<T> Field<AnyNumber<T>> {
    /// Returns the list, empty where the key is absent.
    pub(super) fn or_none(self) -> Vec<T> {
        self.ok().map_or_else(Vec::new, |values| values.0)
    }
}

impl Read for Allow {
    const FORM: &'static str = r#""10.2.0.0/16:445,139,80" or { site = "lisbon", servers = [...] }"#;
    const LIST: &'static str = AllowRule::LIST;

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        match value {
            Value::Table(_) => AllowSite::read(value, at, problems).map(Self::Site),
            value => AllowRule::read(value, at, problems).map(Self::Rule),
        }
    }
}

impl<T: Read> Read for Vec<T> {
    const FORM: &'static str = T::LIST;

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        if value.as_array().is_some_and(Vec::is_empty) {
            problems.note(at, format!("is empty: at least {}", T::FORM));
        }
        AnyNumber::read(value, at, problems).map(|values| values.0)
    }
}

impl<T: Read> Read for AnyNumber<T> {
    const FORM: &'static str = T::LIST;

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        let Value::Array(values) = value else {
            return refuse(&value, Self::FORM, at, problems);
        };
        // Every entry is read, so that each tells its problems.
        let read =
            values.into_iter().enumerate().map(|(i, value)| T::read(value, &format!("{at}[{i}]"), problems));
        read.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Self)
    }
}

impl Read for SiteGroup {
    const FORM: &'static str = "a list of at least two sites, such as [\"lisbon\", \"porto\"]";
    const LIST: &'static str = "a list of lists of sites, such as [[\"lisbon\", \"porto\"]]";

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        // A site is always with itself, so a group of one says nothing: more likely the brackets are wrong.
        if value.as_array().is_none_or(|sites| sites.len() < 2) {
            return refuse(&value, Self::FORM, at, problems);
        }
        AnyNumber::read(value, at, problems).map(|sites| Self(sites.0))
    }
}

impl Read for Ports {
    const FORM: &'static str = "a list of ports, such as [445, 139, 80]";

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        let port = |value: &Value| u16::try_from(value.as_integer()?).ok()?.try_into().ok();
        let ports = value.as_array().and_then(|values| values.iter().map(port).collect::<Option<Vec<_>>>());
        ports.and_then(Self::new).or_else(|| refuse(&value, Self::FORM, at, problems))
    }
}

impl Read for bool {
    const FORM: &'static str = "true or false";

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        value.as_bool().or_else(|| refuse(&value, Self::FORM, at, problems))
    }
}

impl Read for Count {
    const FORM: &'static str = "a number from 1 to 1000000";

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        let count = value.as_integer().filter(|count| (1..=1_000_000).contains(count));
        match count.and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Some(Self(count)),
            None => refuse(&value, Self::FORM, at, problems),
        }
    }
}

impl Read for PathBuf {
    const FORM: &'static str = "a path";

    fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
        match value.as_str() {
            Some(path) if !path.is_empty() && !path.contains('\0') => Some(Self::from(path)),
            _ => refuse(&value, Self::FORM, at, problems),
        }
    }
}

/// Values that are read from a string.
macro_rules! from_text {
    ($($type:ty: $form:literal $([$list:literal])?,)+) => {
        $(impl Read for $type {
            const FORM: &'static str = $form;
            $(const LIST: &'static str = $list;)?

            fn read(value: Value, at: &str, problems: &mut Problems) -> Option<Self> {
                match value.as_str().map(<$type>::from_str) {
                    Some(Ok(read)) => Some(read),
                    Some(Err(error)) => {
                        let because = error.because().map(|why| format!(": {why}")).unwrap_or_default();
                        refuse(&value, &format!("{}{because}", Self::FORM), at, problems)
                    }
                    None => refuse(&value, Self::FORM, at, problems),
                }
            }
        })+
    };
}

from_text! {
    NodeName: "a name of a-z, 0-9, '.' and '-'",
    SiteName: "a name of a-z, 0-9, '.' and '-'",
    SocketAddr: "address:port, such as \"0.0.0.0:7445\" or \"[::]:7445\"",
    HostPort: "host:port",
    ServerNet: "a network or address, such as \"10.2.0.0/16\""
        ["a list of networks and addresses, such as [\"10.2.0.0/16\"]"],
    AllowRule: "servers and ports, such as \"10.2.0.0/16:445,139,80\" or \"[fd00:2::/32]:445\""
        ["a list of servers and ports, such as [\"10.2.0.0/16:445,139,80\"]"],
    ByteSize: "a size, such as \"512 MiB\"",
    Span: "a duration, such as \"5 s\"",
    Mode: "\"tproxy\", \"redirect\" or \"listen\"",
    Congestion: "\"cubic\" or \"bbr\"",
    Proofs: "\"keyed\" or \"plain\"",
    PeerAddr: "the address:port of a host, such as \"10.1.5.7:7747\" or \"[fd00:1::7]:7747\""
        ["a list of hosts' addresses and ports, such as [\"10.1.5.7:7747\"]"],
    InterfaceName: "the name of an interface, such as \"lan0\""
        ["a list of interfaces, such as [\"lan0\"]"],
    Rate: "a size, sent in a second, such as \"100 MiB\", or \"unlimited\"",
    AdminListen: "address:port, such as \"127.0.0.1:9445\", or \"off\"",
}

impl FromStr for Mode {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        match text {
            "tproxy" => Ok(Self::Tproxy),
            "redirect" => Ok(Self::Redirect),
            "listen" => Ok(Self::Listen),
            _ => Err(NoSuchWord),
        }
    }
}

impl FromStr for Congestion {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        match text {
            "cubic" => Ok(Self::Cubic),
            "bbr" => Ok(Self::Bbr),
            _ => Err(NoSuchWord),
        }
    }
}

impl FromStr for Proofs {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        match text {
            "keyed" => Ok(Self::Keyed),
            "plain" => Ok(Self::Plain),
            _ => Err(NoSuchWord),
        }
    }
}

/// What Linux takes as a name (`dev_valid_name`): 1 to 15 bytes, no blank, '/' or ':'.
impl FromStr for InterfaceName {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
        if fits && text.chars().all(plain) { Ok(Self(text.to_owned())) } else { Err(NoSuchWord) }
    }
}

impl FromStr for PeerAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address: SocketAddr = text.parse().map_err(|_| AddressError::Form)?;
        let ip = address.ip();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(AddressError::Form);
        }
        if ip != ip.to_canonical() {
            return Err(AddressError::MappedV4);
        }
        Ok(Self(address))
    }
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text == "unlimited" { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

impl FromStr for AdminListen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|listen| Self(Some(listen))) }
    }
}

/// What an error adds to the form that a key takes.
trait Because {
    fn because(&self) -> Option<String> {
        None
    }
}

impl Because for NameError {}
impl Because for NoSuchWord {}
impl Because for QuantityError {}
impl Because for std::net::AddrParseError {}

impl Because for AddressError {
    fn because(&self) -> Option<String> {
        match self {
            Self::Form => None,
            Self::HostBits(_) | Self::MappedV4 => Some(self.to_string()),
        }
    }
}

fn refuse<T>(value: &Value, form: &str, at: &str, problems: &mut Problems) -> Option<T> {
    problems.note(at, format!("{} is not {form}", Shown(value)));
    None
}

fn take<T: Read>(table: &mut toml::Table, key: &str, at: &str, problems: &mut Problems) -> Field<T> {
    match table.remove(key) {
        None => Field::Absent,
        Some(value) => T::read(value, &join(at, key), problems).map_or(Field::Refused, Field::Is),
    }
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

fn unknown_key(unknown: &str, keys: &[&str]) -> String {
    let nearest = keys.iter().map(|key| (edits(unknown, key), *key)).min();
    match nearest {
        Some((edits, key)) if edits <= 2.max(key.len() / 3) => {
            format!("unknown key, did you mean \"{key}\"?")
        }
        _ => format!("unknown key, known here: {}", keys.join(", ")),
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A value as an error message shows it: short, and never a whole table.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) if text.chars().count() > 60 => {
                write!(f, "\"{}…\"", text.chars().take(60).collect::<String>().escape_debug())
            }
            Value::String(text) => write!(f, "\"{}\"", text.escape_debug()),
            Value::Integer(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Boolean(yes) => yes.fmt(f),
            Value::Datetime(time) => time.fmt(f),
            Value::Array(values) if values.is_empty() => f.write_str("an empty list"),
            Value::Array(values) if values.len() <= 8 && values.iter().all(|value| !value.is_array()) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { ", " }, Shown(value))?;
                }
                f.write_str("]")
            }
            Value::Array(_) => f.write_str("this list"),
            Value::Table(_) => f.write_str("a table"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        let keys = ["listen", "allow-servers", "dial-timeout"];
        assert_eq!(unknown_key("lisen", &keys), "unknown key, did you mean \"listen\"?");
        assert_eq!(unknown_key("allow_server", &keys), "unknown key, did you mean \"allow-servers\"?");
        assert_eq!(unknown_key("x", &keys), "unknown key, known here: listen, allow-servers, dial-timeout");
    }

    #[test]
    fn edits_are_counted_both_ways() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("sitting", "kitten"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", "abc"), 0);
    }
}
