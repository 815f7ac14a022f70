//! From the raw tables to a [`Config`]: defaults, and what keys mean together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wanigan_parsers::wan::BLOCK_BYTES_MAX;

use super::raw::{self, Allow, Field, Mode, Problems, Read as _};
use super::{
    Admin, AllowRule, AllowServers, ByteSize, Config, Congestion, Core, Edge, Intercept, InterceptMode,
    Limits, Link, Node, Peers, Problem, Proofs, Routes, Rules, ServerNet, Store,
};
use crate::pki::SiteName;

/// Makes the configuration of a parsed file, or tells everything that is wrong with it.
pub(super) fn config(table: toml::Table, dir: &Path) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    let config = raw::File::read(toml::Value::Table(table), "", &mut problems)
        .and_then(|file| build(file, dir, &mut problems));
    match config {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => Err(problems.0),
    }
}

fn build(file: raw::File, dir: &Path, problems: &mut Problems) -> Option<Config> {
    let has_role = !matches!((&file.edge, &file.core), (Field::Absent, Field::Absent));
    if !has_role {
        problems.note("edge", "is missing, and so is core: a node has an [edge], a [core] or both");
    }
    let node = file.node.required("node", problems).and_then(|raw| node(raw, dir, problems));
    let edge = file.edge.ok().map(|raw| edge(raw, problems));
    let core = file.core.ok().map(|raw| core(raw, problems));
    let peers = peers(file.peers, problems);
    let limits = file.limits.ok().map_or(LIMITS, |raw| limits(raw, problems));
    let link = file.link.ok().map_or(LINK, |raw| Link {
        congestion: raw.congestion.or(LINK.congestion),
        compression: raw.compression.or(LINK.compression),
    });
    let admin = file
        .admin
        .ok()
        .map_or(ADMIN, |raw| Admin { listen: raw.listen.ok().map_or(ADMIN.listen, |listen| listen.0) });
    // Above this line nothing returns early: each section has told its problems.
    let node = node?;
    let store = store(file.store, &node.state_dir, dir);
    let config = Config {
        node,
        edge: edge.map_or(Some(None), |edge| edge.map(Some))?,
        core: core.map_or(Some(None), |core| core.map(Some))?,
        store,
        peers,
        limits,
        link,
        admin,
    };
    listeners_differ(&config, problems);
    Some(config)
}

fn node(raw: raw::Node, dir: &Path, problems: &mut Problems) -> Option<Node> {
    let name = raw.name.required("node.name", problems)?;
    let path = |field: Field<PathBuf>, default: &str| dir.join(field.or(PathBuf::from(default)));
    Some(Node {
        site: raw.site.or(SiteName::from(&name)),
        name,
        state_dir: path(raw.state_dir, STATE_DIR),
        ca: path(raw.ca, CA),
        certificate: path(raw.certificate, CERTIFICATE),
        key: path(raw.key, KEY),
    })
}

fn edge(raw: raw::Edge, problems: &mut Problems) -> Option<Edge> {
    let intercepts = raw.intercept.required("edge.intercept", problems).map(|raws| {
        let built = raws.into_iter().enumerate().map(|(i, raw)| intercept(raw, i, problems));
        // Collected twice so that every entry is looked at.
        built.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    let routes = raw.route.required("edge.route", problems).map(|raws| routes(raws, problems));
    Some(Edge { intercepts: intercepts??, routes: routes? })
}

fn intercept(raw: raw::Intercept, i: usize, problems: &mut Problems) -> Option<Intercept> {
    let at = |key: &str| format!("edge.intercept[{i}].{key}");
    let listen = raw.listen.required(&at("listen"), problems);
    let mode = match raw.mode.required(&at("mode"), problems)? {
        Mode::Listen => {
            if !matches!(raw.ports, Field::Absent) {
                problems.note(&at("ports"), "belongs to the modes tproxy and redirect");
            }
            if !matches!(raw.manage_nftables, Field::Absent) {
                problems.note(&at("manage-nftables"), "belongs to the modes tproxy and redirect");
            }
            if !matches!(raw.local, Field::Absent) {
                problems.note(&at("local"), "belongs to the mode redirect");
            }
            InterceptMode::Listen { server: raw.server.required(&at("server"), problems)? }
        }
        mode @ (Mode::Tproxy | Mode::Redirect) => {
            if !matches!(raw.server, Field::Absent) {
                problems.note(&at("server"), "belongs to the mode listen");
            }
            let rules = Rules {
                ports: raw.ports.required(&at("ports"), problems)?,
                manage_nftables: raw.manage_nftables.or(MANAGE_NFTABLES),
            };
            if mode == Mode::Redirect {
                let local = raw.local.or(LOCAL);
                if local && !rules.manage_nftables {
                    problems.note(
                        &at("local"),
                        "is up to the rules, which manage-nftables = false leaves to you",
                    );
                }
                InterceptMode::Redirect { rules, local }
            } else {
                if !matches!(raw.local, Field::Absent) {
                    problems.note(&at("local"), "belongs to the mode redirect");
                }
                InterceptMode::Tproxy(rules)
            }
        }
    };
    Some(Intercept { listen: listen?, mode })
}

fn routes(raws: Vec<raw::Route>, problems: &mut Problems) -> Routes {
    let mut first_at: BTreeMap<ServerNet, String> = BTreeMap::new();
    let mut entries = Vec::new();
    for (i, raw) in raws.into_iter().enumerate() {
        let core = raw.core.required(&format!("edge.route[{i}].core"), problems);
        let servers = raw.servers.required(&format!("edge.route[{i}].servers"), problems);
        for (j, net) in servers.into_iter().flatten().enumerate() {
            let at = format!("edge.route[{i}].servers[{j}]");
            if let Some(first) = first_at.get(&net) {
                problems.note(&at, format!("\"{net}\" is routed by {first} already"));
            } else {
                first_at.insert(net, at);
            }
            entries.extend(core.clone().map(|core| (net, core)));
        }
    }
    Routes::new(entries)
}

fn core(raw: raw::Core, problems: &mut Problems) -> Option<Core> {
    let rules = raw.allow_servers.required("core.allow-servers", problems).map(|raws| {
        raws.into_iter().enumerate().flat_map(|(i, raw)| allow_rules(raw, i, problems)).collect::<Vec<_>>()
    });
    let dial_timeout = raw.dial_timeout.ok().map_or(DIAL_TIMEOUT, |span| span.0);
    if dial_timeout.is_zero() {
        problems.note("core.dial-timeout", "is zero: no server could be reached");
    }
    Some(Core {
        listen: raw.listen.or(CORE_LISTEN),
        allow_servers: AllowServers::new(rules?),
        dial_timeout,
        proofs: raw.proofs.or(PROOFS),
        secret_grace: raw.secret_grace.ok().map_or(SECRET_GRACE, |span| span.0),
        site_groups: raw.site_groups.or_none().into_iter().map(|group| group.0).collect(),
    })
}

fn allow_rules(raw: Allow, i: usize, problems: &mut Problems) -> Vec<AllowRule> {
    match raw {
        Allow::Rule(rule) => vec![rule],
        Allow::Site(raw) => {
            let site = raw.site.required(&format!("core.allow-servers[{i}].site"), problems);
            let rules = raw.servers.required(&format!("core.allow-servers[{i}].servers"), problems);
            rules.into_iter().flatten().map(|rule| AllowRule { site: site.clone(), ..rule }).collect()
        }
    }
}

fn store(raw: Field<raw::Store>, state_dir: &Path, dir: &Path) -> Store {
    let dir_of_state = state_dir.join("store");
    let default = Store { size: STORE_SIZE, memory: STORE_MEMORY, dir: dir_of_state, share: SHARE };
    raw.ok().map_or(default.clone(), |raw| Store {
        size: raw.size.or(default.size),
        memory: raw.memory.or(default.memory),
        dir: raw.dir.ok().map_or(default.dir, |given| dir.join(given)),
        share: raw.share.or(default.share),
    })
}

fn peers(raw: Field<raw::Peers>, problems: &mut Problems) -> Peers {
    let default = Peers {
        enabled: true,
        listen: PEERS_LISTEN,
        interfaces: Vec::new(),
        broadcast: true,
        multicast: true,
        static_peers: Vec::new(),
        advertise: Vec::new(),
        connections: PEER_CONNECTIONS,
        rate: None,
    };
    let Some(raw) = raw.ok() else { return default };
    let peers = Peers {
        enabled: raw.enabled.or(default.enabled),
        listen: raw.listen.or(default.listen),
        interfaces: raw.interfaces.or_none().into_iter().map(|name| name.0).collect(),
        broadcast: raw.broadcast.or(default.broadcast),
        multicast: raw.multicast.or(default.multicast),
        static_peers: raw.static_peers.or_none().into_iter().map(|peer| peer.0).collect(),
        advertise: raw.advertise.or_none().into_iter().map(|own| own.0).collect(),
        connections: raw.connections.ok().map_or(default.connections, |count| count.0),
        rate: raw.rate.ok().map_or(default.rate, |rate| rate.0),
    };
    if peers.rate.is_some_and(|rate| rate.as_u64() == 0) {
        problems.note("peers.rate", "is zero: to serve nobody, set store.share = false");
    }
    peers
}

fn limits(raw: raw::Limits, problems: &mut Problems) -> Limits {
    let limits = Limits {
        memory: raw.memory.or(LIMITS.memory),
        flows: raw.flows.ok().map_or(LIMITS.flows, |count| count.0),
        retain: raw.retain.or(LIMITS.retain),
    };
    if limits.retain < RETAIN_MIN {
        problems.note("limits.retain", format!("\"{}\" is below {RETAIN_MIN}, a block", limits.retain));
    }
    if limits.retain > limits.memory {
        let Limits { memory, retain, .. } = limits;
        problems.note("limits.retain", format!("\"{retain}\" is more than limits.memory, \"{memory}\""));
    }
    limits
}

/// Two listeners of one protocol cannot share an address; the second would fail at start.
fn listeners_differ(config: &Config, problems: &mut Problems) {
    let peers = config.edge.iter().filter(|_| config.peers.enabled).map(|_| config.peers.listen);
    let intercepts = config.edge.iter().flat_map(|edge| edge.intercepts.iter().map(|one| one.listen));
    let named = intercepts.enumerate().map(|(i, listen)| (format!("edge.intercept[{i}].listen"), listen));
    let named = named.chain(peers.clone().map(|listen| ("peers.listen".to_owned(), listen)));
    let named = named.chain(config.admin.listen.map(|listen| ("admin.listen".to_owned(), listen)));
    let mut taken: BTreeMap<SocketAddr, String> = BTreeMap::new();
    for (key, listen) in named.filter(|(_, listen)| listen.port() != 0) {
        if let Some(first) = taken.get(&listen) {
            problems.note(&key, format!("\"{listen}\" is taken by {first} already"));
        } else {
            taken.insert(listen, key);
        }
    }
    // Discovery and links are both UDP.
    let core = config.core.as_ref().map(|core| core.listen).filter(|listen| listen.port() != 0);
    if let Some(listen) = core.filter(|core| peers.clone().any(|listen| listen == *core)) {
        problems.note("peers.listen", format!("\"{listen}\" is taken by core.listen already"));
    }
}

const STATE_DIR: &str = "/var/lib/wanigan";
const CA: &str = "/etc/wanigan/ca.pem";
const CERTIFICATE: &str = "/etc/wanigan/node.pem";
const KEY: &str = "/etc/wanigan/node.key";
const MANAGE_NFTABLES: bool = true;
const LOCAL: bool = false;
const CORE_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7400);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const PROOFS: Proofs = Proofs::Keyed;
const SECRET_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const STORE_SIZE: ByteSize = ByteSize::gib(10);
const STORE_MEMORY: ByteSize = ByteSize::mib(256);
const SHARE: bool = true;
const PEERS_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 7747);
const PEER_CONNECTIONS: u32 = 64;
const LIMITS: Limits = Limits { memory: ByteSize::mib(512), flows: 10_000, retain: ByteSize::mib(16) };
/// The largest block: below it a flow could not send even one reference.
const RETAIN_MIN: ByteSize = ByteSize::bytes(BLOCK_BYTES_MAX as u64);
const LINK: Link = Link { congestion: Congestion::Cubic, compression: true };
const ADMIN: Admin =
    Admin { listen: Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9445)) };
