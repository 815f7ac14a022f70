//! A [`Config`] as a file with every key spelled out: what `wanigan check` prints, and what parses to the same again.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::path::Path;

use super::quantity::Span;
use super::{
    Admin, AllowRule, Config, Congestion, Core, Edge, Intercept, InterceptMode, Limits, Link, Node, Peers,
    Proofs, Store,
};

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        node(&self.node, f)?;
        self.edge.as_ref().map_or(Ok(()), |edge| self::edge(edge, f))?;
        self.core.as_ref().map_or(Ok(()), |core| self::core(core, f))?;
        store(&self.store, f)?;
        peers(&self.peers, f)?;
        limits(&self.limits, f)?;
        link(self.link, f)?;
        admin(self.admin, f)
    }
}

impl Display for Congestion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        })
    }
}

impl Display for Proofs {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyed => "keyed",
            Self::Plain => "plain",
        })
    }
}

fn node(node: &Node, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "[node]\nname = {}\nsite = {}", quoted(&node.name), quoted(&node.site))?;
    writeln!(f, "state-dir = {}\nca = {}", path(&node.state_dir), path(&node.ca))?;
    writeln!(f, "certificate = {}\nkey = {}", path(&node.certificate), path(&node.key))
}

fn edge(edge: &Edge, f: &mut Formatter<'_>) -> fmt::Result {
    edge.intercepts.iter().try_for_each(|one| intercept(one, f))?;
    for (servers, core) in edge.routes.iter() {
        writeln!(f, "\n[[edge.route]]\nservers = [{}]\ncore = {}", quoted(servers), quoted(core))?;
    }
    Ok(())
}

fn intercept(intercept: &Intercept, f: &mut Formatter<'_>) -> fmt::Result {
    let (mode, rules) = match &intercept.mode {
        InterceptMode::Tproxy(rules) => ("tproxy", Some(rules)),
        InterceptMode::Redirect { rules, .. } => ("redirect", Some(rules)),
        InterceptMode::Listen { .. } => ("listen", None),
    };
    writeln!(f, "\n[[edge.intercept]]\nmode = {}\nlisten = {}", quoted(mode), quoted(intercept.listen))?;
    if let Some(rules) = rules {
        writeln!(f, "ports = {}", list(rules.ports.iter()))?;
        writeln!(f, "manage-nftables = {}", rules.manage_nftables)?;
    }
    match &intercept.mode {
        InterceptMode::Tproxy(_) => Ok(()),
        InterceptMode::Redirect { local, .. } => writeln!(f, "local = {local}"),
        InterceptMode::Listen { server } => writeln!(f, "server = {}", quoted(server)),
    }
}

fn core(core: &Core, f: &mut Formatter<'_>) -> fmt::Result {
    let rule = |rule: &AllowRule| match &rule.site {
        Some(site) => format!("{{ site = {}, servers = [{}] }}", quoted(site), quoted(rule)),
        None => quoted(rule),
    };
    writeln!(f, "\n[core]\nlisten = {}", quoted(core.listen))?;
    writeln!(f, "allow-servers = {}", list(core.allow_servers.iter().map(rule)))?;
    writeln!(f, "dial-timeout = {}", quoted(Span(core.dial_timeout)))?;
    writeln!(f, "proofs = {}\nsecret-grace = {}", quoted(core.proofs), quoted(Span(core.secret_grace)))?;
    let group = |sites: &Vec<_>| list(sites.iter().map(quoted));
    writeln!(f, "site-groups = {}", list(core.site_groups.iter().map(group)))
}

fn store(store: &Store, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "\n[store]\nsize = {}\nmemory = {}", quoted(store.size), quoted(store.memory))?;
    writeln!(f, "dir = {}\nshare = {}", path(&store.dir), store.share)
}

fn peers(peers: &Peers, f: &mut Formatter<'_>) -> fmt::Result {
    let addresses = |addresses: &[SocketAddr]| list(addresses.iter().map(quoted));
    writeln!(f, "\n[peers]\nenabled = {}\nlisten = {}", peers.enabled, quoted(peers.listen))?;
    writeln!(f, "interfaces = {}", list(peers.interfaces.iter().map(quoted)))?;
    writeln!(f, "broadcast = {}\nmulticast = {}", peers.broadcast, peers.multicast)?;
    writeln!(f, "static = {}\nadvertise = {}", addresses(&peers.static_peers), addresses(&peers.advertise))?;
    let rate = peers.rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string());
    writeln!(f, "connections = {}\nrate = {}", peers.connections, quoted(rate))
}

fn limits(limits: &Limits, f: &mut Formatter<'_>) -> fmt::Result {
    let Limits { memory, flows, retain } = limits;
    writeln!(f, "\n[limits]\nmemory = {}\nflows = {flows}\nretain = {}", quoted(memory), quoted(retain))
}

fn link(link: Link, f: &mut Formatter<'_>) -> fmt::Result {
    let Link { congestion, compression } = link;
    writeln!(f, "\n[link]\ncongestion = {}\ncompression = {compression}", quoted(congestion))
}

fn admin(admin: Admin, f: &mut Formatter<'_>) -> fmt::Result {
    let listen = admin.listen.map_or_else(|| "off".to_owned(), |listen| listen.to_string());
    writeln!(f, "\n[admin]\nlisten = {}", quoted(listen))
}

fn list(values: impl Iterator<Item: ToString>) -> String {
    format!("[{}]", values.map(|value| value.to_string()).collect::<Vec<_>>().join(", "))
}

fn path(path: &Path) -> String {
    quoted(path.display())
}

/// A basic string of TOML 1.0: quotes, backslashes and control characters escaped.
fn quoted(value: impl Display) -> String {
    let escaped = value.to_string().chars().fold(String::new(), |mut out, c| {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
        out
    });
    format!("\"{escaped}\"")
}
