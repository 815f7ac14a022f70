//! The packet filter's rules of one interceptor: an nftables table of its own, which the kernel removes with us.
//!
//! The table has the *owner* flag: it belongs to the netlink socket that made it and ends when that socket closes.
//! The socket belongs to a child, `nft -i`, that reads commands from us ([`Console`]). If this process ends in
//! whatever way, SIGKILL included, the child reads the end of its input and exits, and the table is gone: a redirect
//! to a listener that no longer exists would cut clients off. A foreign `flush ruleset` does not touch the table.
//!
//! Only the first packet of a connection is ever caught (a SYN), so that connections that were there before stay
//! direct. `redirect` leaves the rest to connection tracking; `tproxy` gives later packets to the live socket they
//! belong to. The rules that catch stand in a chain of their own: [`Rules::bypass`] empties it and live flows go on.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::process::Command;
use tokio::time::Instant;

use self::console::Console;
use super::policy_route::PolicyRoute;
use super::{InterceptError, InterceptSettings, MARK, Mode};

mod console;

/// The installed rules of an interceptor. Dropping it removes them.
#[derive(Debug)]
pub struct Rules {
    plan: Plan,
    console: Option<Console>,
    route: Option<PolicyRoute>,
}

/// What the rules say.
#[derive(Debug, Clone)]
struct Plan {
    table: String,
    redirect: bool,
    local: bool,
    ports: Vec<u16>,
    servers: Vec<IpNet>,
    cores: Vec<IpAddr>,
    listeners: Vec<SocketAddr>,
    /// Whether packets that come over a bridge pass uncaught (see [`bridges_drop_caught`]).
    spares_bridges: bool,
}

impl Rules {
    /// Installs rules that lead to the given listeners.
    pub(super) async fn apply_new(
        settings: &InterceptSettings,
        listeners: &[SocketAddr],
    ) -> Result<Self, InterceptError> {
        let plan = Plan::new(settings, listeners);
        let port = listeners.first().map_or(settings.listen.port(), SocketAddr::port);
        let route = (!plan.redirect).then(|| PolicyRoute::new(port, listeners));
        if plan.spares_bridges {
            tracing::warn!(
                "connections that come over a bridge go direct: set net.bridge.bridge-nf-call-iptables and \
                 -ip6tables to 0, or use redirect"
            );
        }
        let mut rules = Self { plan, console: None, route };
        rules.apply().await?;
        Ok(rules)
    }

    /// Installs the rules again, after [`Rules::lost`] or [`Rules::bypass`].
    ///
    /// # Errors
    /// [`InterceptError`] when a program is missing or the kernel refuses; no rule stands then.
    pub async fn apply(&mut self) -> Result<(), InterceptError> {
        if self.console.is_some() && self.catch_again().await.is_ok() {
            return Ok(());
        }
        self.console = None;
        if let Some(route) = &mut self.route {
            route.apply().await?;
        }
        let deadline = Instant::now() + HANDOVER;
        let mut was_held = true;
        loop {
            let mut console = Console::open()?;
            match console.command("its table", &self.plan.ruleset()).await {
                Ok(()) => {
                    self.console = Some(console);
                    return Ok(());
                }
                Err(error) => {
                    // A process that was killed a moment ago takes its table along shortly, perhaps just now.
                    let is_held = self.is_held().await?;
                    if !is_held && !was_held {
                        return Err(error);
                    }
                    was_held = is_held;
                }
            }
            if Instant::now() > deadline {
                return Err(InterceptError::TableTaken(self.plan.table.clone()));
            }
            tokio::time::sleep(HANDOVER_POLL).await;
        }
    }

    /// Fills the chain that a bypass emptied, in one transaction; live flows do not notice.
    async fn catch_again(&mut self) -> Result<(), InterceptError> {
        let table = &self.plan.table;
        let command =
            format!("flush chain inet {table} catch; table inet {table} {{ {}}}", self.plan.catch_chain());
        self.command("its rules", &command).await
    }

    /// Waits until the rules are gone without our doing, and tells why. [`Rules::apply`] brings them back.
    pub async fn lost(&mut self) -> InterceptError {
        match &mut self.console {
            Some(console) => {
                let error = console.ended().await;
                self.console = None;
                error
            }
            None => InterceptError::Lost { status: "no rules".to_owned(), message: "not applied".to_owned() },
        }
    }

    /// Lets new connections pass uncaught; live flows go on.
    ///
    /// # Errors
    /// [`InterceptError`] when the rules are lost.
    pub async fn bypass(&mut self) -> Result<(), InterceptError> {
        let command = format!("flush chain inet {} catch", self.plan.table);
        self.command("a bypass", &command).await
    }

    /// Replaces the addresses whose connections are not caught.
    ///
    /// # Errors
    /// [`InterceptError`] when the rules are lost. [`Rules::apply`] uses the new addresses in any case.
    pub async fn exempt(&mut self, cores: &[IpAddr]) -> Result<(), InterceptError> {
        self.plan.cores = cores.to_vec();
        let mut command = String::new();
        for family in FAMILIES {
            let set = format!("inet {} cores{}", self.plan.table, family.digit());
            write!(command, "flush set {set}; ").expect("a String takes all");
            let elements = family.of(cores.iter().copied().map(IpNet::from));
            if !elements.is_empty() {
                write!(command, "add element {set} {{ {} }}; ", elements.join(", "))
                    .expect("a String takes all");
            }
        }
        self.command("the cores' addresses", &command).await
    }

    /// Removes the rules; connections that were caught before break where the mode needs rules for them.
    ///
    /// # Errors
    /// [`InterceptError`] when a part could not be removed.
    pub async fn remove(mut self) -> Result<(), InterceptError> {
        if let Some(console) = self.console.take() {
            console.close().await;
        }
        match self.route.take() {
            Some(mut route) => route.remove().await,
            None => Ok(()),
        }
    }

    async fn command(&mut self, task: &'static str, command: &str) -> Result<(), InterceptError> {
        match &mut self.console {
            Some(console) => console.command(task, command).await,
            None => Err(self.lost().await),
        }
    }

    /// Whether a table of our name exists, which would not be ours.
    async fn is_held(&self) -> Result<bool, InterceptError> {
        let output = Command::new(NFT)
            .args(["list", "table", "inet", &self.plan.table])
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| InterceptError::Program { program: NFT, source })?;
        Ok(output.status.success())
    }
}

impl Plan {
    fn new(settings: &InterceptSettings, listeners: &[SocketAddr]) -> Self {
        Self {
            table: table_name(&settings.instance),
            redirect: settings.mode == Mode::Redirect,
            local: settings.local,
            ports: settings.ports.clone(),
            servers: settings.servers.clone(),
            cores: settings.cores.clone(),
            listeners: listeners.to_vec(),
            spares_bridges: settings.mode == Mode::TProxy && bridges_drop_caught(),
        }
    }

    /// Returns the whole table as one line, which is one transaction.
    fn ruleset(&self) -> String {
        let mut text = format!("table inet {} {{ flags owner; ", self.table);
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        text += &set("ports", "inet_service", "", &ports);
        for family in FAMILIES {
            let digit = family.digit();
            let cores = family.of(self.cores.iter().copied().map(IpNet::from));
            let servers = family.of(self.servers.iter().copied());
            text +=
                &set(&format!("cores{digit}"), family.address_type(), "flags interval; auto-merge; ", &cores);
            text += &set(
                &format!("servers{digit}"),
                family.address_type(),
                "flags interval; auto-merge; ",
                &servers,
            );
        }
        text += &self.catch_chain();
        text += &if self.redirect { self.nat_chains() } else { self.mangle_chain() };
        text.push('}');
        text
    }

    /// What is caught. `fib daddr type local`: whatever this machine serves itself crosses no WAN.
    fn catch_chain(&self) -> String {
        let mut chain = format!(
            "chain catch {{ meta mark and 0xffffff00 == {MARK:#x} return; tcp flags & (fin | syn | rst | ack) != syn \
             return; fib daddr type local return; ip saddr @cores4 return; ip6 saddr @cores6 return; "
        );
        if self.spares_bridges {
            chain += "meta iifkind \"bridge\" return; ";
        }
        for family in FAMILIES {
            if let Some(listener) = self.listeners.iter().find(|listener| family.has(listener.ip())) {
                let target = self.target(family, *listener);
                let (ip, digit) = (family.ip(), family.digit());
                write!(chain, "tcp dport @ports {ip} daddr @servers{digit} {target}; ")
                    .expect("a String takes all");
            }
        }
        chain + "}; "
    }

    fn target(&self, family: Family, listener: SocketAddr) -> String {
        let ip = family.ip();
        match (self.redirect, listener.ip().is_unspecified()) {
            (true, true) => format!("redirect to :{}", listener.port()),
            (true, false) => format!("dnat {ip} to {listener}"),
            (false, true) => format!("tproxy {ip} to :{} {}", listener.port(), self.to_local()),
            (false, false) => format!("tproxy {ip} to {listener} {}", self.to_local()),
        }
    }

    /// The mark that the policy route sends to local sockets.
    fn to_local(&self) -> String {
        let port = self.listeners.first().map_or(0, SocketAddr::port);
        format!("meta mark set {:#x} accept", PolicyRoute::mark(port))
    }

    /// Translation looks at the first packet of a connection only. `ct state new` says nothing more, but as long as a
    /// rule asks it the kernel tracks connections: without it a bypass would end the translation of live flows.
    fn nat_chains(&self) -> String {
        let mut chains = String::new();
        if !self.listeners.iter().all(|listener| listener.ip().is_loopback()) {
            chains += "chain forwarded { type nat hook prerouting priority dstnat; policy accept; meta l4proto tcp \
                       ct state new jump catch; }; ";
        }
        if self.local {
            // The number of `dstnat`, whose name older nft does not take in this hook.
            chains += "chain own { type nat hook output priority -100; policy accept; meta l4proto tcp ct state new jump catch; }; ";
        }
        chains
    }

    /// Later packets of live flows are found by their socket. Not the SYN: one that meets the rest of an earlier
    /// connection (TIME-WAIT) must reach the listener. Not other ports: the listener's own socket is transparent too.
    fn mangle_chain(&self) -> String {
        let to_local = self.to_local();
        format!(
            "chain forwarded {{ type filter hook prerouting priority mangle; policy accept; meta l4proto != tcp accept; \
             tcp dport @ports tcp flags & (fin | syn | rst | ack) != syn socket transparent 1 {to_local}; \
             jump catch; }}; "
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    fn ip(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }

    /// Returns the set elements of this family.
    fn of(self, nets: impl Iterator<Item = IpNet>) -> Vec<String> {
        nets.filter(|net| self.has(net.addr())).map(|net| net.trunc().to_string()).collect()
    }
}

fn set(name: &str, kind: &str, flags: &str, elements: &[String]) -> String {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }}; ", elements.join(", "))
    };
    format!("set {name} {{ type {kind}; {flags}{elements}}}; ")
}

/// Makes any instance name one that nft takes as a word.
fn table_name(instance: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    format!("wanigan-{}", instance.chars().take(INSTANCE_CHARS_MAX).map(word).collect::<String>())
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const NFT: &str = "nft";
const INSTANCE_CHARS_MAX: usize = 64;
/// How long a process that was killed may take to lose its table.
const HANDOVER: Duration = Duration::from_secs(3);
const HANDOVER_POLL: Duration = Duration::from_millis(50);

/// Returns whether there is a bridge here and this network namespace filters bridged packets before they reach the bridge's own address: then
/// the socket that `tproxy` gave a packet is lost on the way up, and every caught connection with it.
fn bridges_drop_caught() -> bool {
    let is_bridge = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().join("bridge").exists())
    };
    if !std::fs::read_dir("/sys/class/net").is_ok_and(|mut interfaces| interfaces.any(is_bridge)) {
        return false;
    }
    ["iptables", "ip6tables"].iter().any(|filter| {
        let setting = std::fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{filter}"));
        setting.is_ok_and(|value| value.trim() != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(redirect: bool, listeners: &[&str]) -> Plan {
        Plan {
            table: table_name("lisbon"),
            redirect,
            local: false,
            ports: vec![445, 80],
            servers: vec!["10.2.0.7/16".parse().unwrap(), "fd02::/16".parse().unwrap()],
            cores: vec!["192.0.2.1".parse().unwrap()],
            listeners: listeners.iter().map(|text| text.parse().unwrap()).collect(),
            spares_bridges: false,
        }
    }

    #[test]
    fn the_table_is_one_line_with_the_owner_flag() {
        for redirect in [true, false] {
            let text = plan(redirect, &["0.0.0.0:7445", "[::]:7445"]).ruleset();
            assert!(text.starts_with("table inet wanigan-lisbon { flags owner; "), "{text}");
            assert!(!text.contains('\n'));
            assert!(text.contains(
                "set servers4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.2.0.0/16 }; }"
            ));
            assert!(text.contains("set cores6 { type ipv6_addr; flags interval; auto-merge; }"));
            assert!(text.contains("meta mark and 0xffffff00 == 0x77616e00 return"));
        }
    }

    #[test]
    fn each_listener_gets_a_rule_of_its_family() {
        let text = plan(true, &["0.0.0.0:7445", "[::]:7445"]).ruleset();
        assert!(text.contains("ip daddr @servers4 redirect to :7445"));
        assert!(text.contains("ip6 daddr @servers6 redirect to :7445"));
        let text = plan(true, &["10.1.0.1:7445"]).ruleset();
        assert!(text.contains("ip daddr @servers4 dnat ip to 10.1.0.1:7445"));
        assert!(!text.contains("ip6 daddr"));
        let text = plan(false, &["127.0.0.1:7445"]).ruleset();
        assert!(text.contains("tproxy ip to 127.0.0.1:7445 meta mark set 0x77741d15 accept"));
        let text = plan(false, &["[fd01::1]:7445"]).ruleset();
        assert!(text.contains("tproxy ip6 to [fd01::1]:7445 meta mark"));
    }

    #[test]
    fn an_instance_name_cannot_break_out_of_the_table_name() {
        assert_eq!(table_name("a b;}\nflush"), "wanigan-a-b---flush");
        assert_eq!(table_name(&"x".repeat(500)).len(), "wanigan-".len() + INSTANCE_CHARS_MAX);
    }
}
