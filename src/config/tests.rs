//! The whole file: errors as operators meet them, and the shipped file and the reference held to the code.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::*;

const SHIPPED: &str = include_str!("../../packaging/wanigan.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// Both roles, with the keys that have no default.
const MINIMAL: &str = r#"
[node]
name = "lisbon-gw"
[[edge.intercept]]
mode = "tproxy"
listen = "0.0.0.0:7445"
ports = [445, 139, 80]
[[edge.intercept]]
mode = "redirect"
listen = "0.0.0.0:7446"
ports = [445, 139, 80]
[[edge.intercept]]
mode = "listen"
listen = "127.0.0.1:1445"
server = "fs1.hq.example:445"
[[edge.route]]
servers = ["10.2.0.0/16", "fd00:2::/32"]
core = "core.hq.example:7400"
[core]
allow-servers = ["10.2.0.0/16:445,139,80", "[fd00:2::/32]:445", { site = "lisbon", servers = ["10.3.0.5:445"] }]
"#;

#[test]
fn node_and_one_role_are_enough() {
    let core = "[node]\nname = \"hq\"\n[core]\nallow-servers = [\"10.2.0.1:445\"]";
    let config = parse(core).unwrap();
    assert_eq!(config.node.site.as_str(), "hq");
    assert_eq!(config.store.dir, Path::new("/var/lib/wanigan/store"));
    assert!(config.edge.is_none());
    let edge = "[node]\nname = \"gw\"\n[edge]\nintercept = [{ mode = \"redirect\", listen = \"[::]:7445\", ports = [80] }]
        route = [{ servers = [\"::/0\"], core = \"[fd00::1]:7400\" }]";
    assert!(parse(edge).unwrap().core.is_none());
}

#[test]
fn the_shipped_file_without_its_hashes_says_what_the_code_does_without_it() {
    let shipped = parse(&uncommented()).unwrap();
    assert_eq!(shipped, parse(MINIMAL).unwrap());
}

#[test]
fn the_shipped_file_as_it_is_lacks_only_a_role() {
    assert_eq!(
        problems(SHIPPED),
        ["edge: is missing, and so is core: a node has an [edge], a [core] or both"]
    );
}

#[test]
fn the_shipped_file_shows_every_key() {
    let shown = leaves("", &Value::Table(uncommented().parse().unwrap()));
    assert_eq!(shown.keys().cloned().collect::<BTreeSet<_>>(), known_keys());
}

#[test]
fn the_reference_explains_every_key_and_no_other() {
    assert_eq!(reference_rows().into_keys().collect::<BTreeSet<_>>(), known_keys());
}

#[test]
fn the_defaults_in_the_reference_are_those_of_the_shipped_file() {
    let shown = leaves("", &Value::Table(uncommented().parse().unwrap()));
    let minimal = leaves("", &Value::Table(MINIMAL.parse().unwrap()));
    for (key, default) in reference_rows() {
        match default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
            Some(literal) => {
                let read: Table = format!("x = {literal}").parse().unwrap();
                assert_eq!(read["x"], shown[&key], "{key}");
            }
            None if default == "required" => assert!(minimal.contains_key(&key), "{key}"),
            None => assert!(default.starts_with("the ") || default == "all sites", "{key}: {default}"),
        }
    }
}

#[test]
fn what_check_prints_is_the_same_configuration() {
    for text in [MINIMAL, &uncommented(), FULL] {
        let config = parse(text).unwrap();
        assert_eq!(parse(&config.to_string()).unwrap(), config);
    }
}

#[test]
fn relative_paths_are_taken_from_the_directory_of_the_file() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.node.ca, Path::new("/etc/wanigan/pki/ca.pem"));
    assert_eq!(config.store.dir, Path::new("/etc/wanigan/blocks \"x\""));
}

#[test]
fn every_error_of_a_file_is_told_at_once_with_key_value_and_form() {
    let text = r#"
        colour = "blue"
        [node]
        nmae = "x"
        site = "Lisbon"
        state-dir = 5
        [[edge.intercept]]
        mode = "tproxy"
        listen = "7445"
        server = "fs1:445"
        [[edge.intercept]]
        mode = "listen"
        listen = "127.0.0.1:1445"
        ports = [0]
        manage-nftables = true
        local = true
        [[edge.intercept]]
        mode = "nat"
        [[edge.route]]
        servers = ["10.2.0.0/16", "10.2.3.4/16", "fs1"]
        core = "10.0.0"
        [[edge.route]]
        servers = ["10.2.0.0/16"]
        [core]
        allow-servers = ["10.2.0.0/16", { site = "a" }, 7]
        dial-timeout = "0 s"
        proofs = "none"
        secret-grace = 7
        site-groups = [["lisbon", "porto"], ["faro"], "evora", ["a", "B"]]
        [store]
        size = 200
        share = "yes"
        [peers]
        enabled = 1
        listen = "7747"
        interfaces = ["lan0", "", "a name too long"]
        static = ["10.1.5.7", "10.1.5.7:0", "255.255.255.255:7747"]
        advertise = ["[::]:7747", "[ff02::7747]:7747", "[::ffff:10.1.5.7]:7747"]
        connections = 0
        rate = "0 B"
        peer = "10.1.5.7"
        [limits]
        memory = "8 MiB"
        flows = 0
        [link]
        congestion = "reno"
        compression = "zstd"
        [admin]
        listen = "on"
    "#;
    let expected = [
        r#"node.site: "Lisbon" is not a name of a-z, 0-9, '.' and '-'"#,
        "node.state-dir: 5 is not a path",
        r#"node.nmae: unknown key, did you mean "name"?"#,
        r#"edge.intercept[0].listen: "7445" is not address:port, such as "0.0.0.0:7445" or "[::]:7445""#,
        "edge.intercept[1].ports: [0] is not a list of ports, such as [445, 139, 80]",
        r#"edge.intercept[2].mode: "nat" is not "tproxy", "redirect" or "listen""#,
        r#"edge.route[0].servers[1]: "10.2.3.4/16" is not a network or address, such as "10.2.0.0/16": its host bits are set, "10.2.0.0/16" is the network"#,
        r#"edge.route[0].servers[2]: "fs1" is not a network or address, such as "10.2.0.0/16""#,
        r#"edge.route[0].core: "10.0.0" is not host:port"#,
        r#"core.allow-servers[0]: "10.2.0.0/16" is not servers and ports, such as "10.2.0.0/16:445,139,80" or "[fd00:2::/32]:445""#,
        r#"core.allow-servers[2]: 7 is not servers and ports, such as "10.2.0.0/16:445,139,80" or "[fd00:2::/32]:445""#,
        r#"core.proofs: "none" is not "keyed" or "plain""#,
        r#"core.secret-grace: 7 is not a duration, such as "5 s""#,
        r#"core.site-groups[1]: ["faro"] is not a list of at least two sites, such as ["lisbon", "porto"]"#,
        r#"core.site-groups[2]: "evora" is not a list of at least two sites, such as ["lisbon", "porto"]"#,
        "core.site-groups[3][1]: \"B\" is not a name of a-z, 0-9, '.' and '-'",
        r#"store.size: 200 is not a size, such as "512 MiB""#,
        r#"store.share: "yes" is not true or false"#,
        "peers.enabled: 1 is not true or false",
        r#"peers.listen: "7747" is not address:port, such as "0.0.0.0:7445" or "[::]:7445""#,
        r#"peers.interfaces[1]: "" is not the name of an interface, such as "lan0""#,
        r#"peers.interfaces[2]: "a name too long" is not the name of an interface, such as "lan0""#,
        r#"peers.static[0]: "10.1.5.7" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747""#,
        r#"peers.static[1]: "10.1.5.7:0" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747""#,
        r#"peers.static[2]: "255.255.255.255:7747" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747""#,
        r#"peers.advertise[0]: "[::]:7747" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747""#,
        r#"peers.advertise[1]: "[ff02::7747]:7747" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747""#,
        r#"peers.advertise[2]: "[::ffff:10.1.5.7]:7747" is not the address:port of a host, such as "10.1.5.7:7747" or "[fd00:1::7]:7747": write IPv4 as IPv4"#,
        "peers.connections: 0 is not a number from 1 to 1000000",
        "peers.rate: is zero: to serve nobody, set store.share = false",
        "peers.peer: unknown key, known here: enabled, listen, interfaces, broadcast, multicast, static, advertise, connections, rate",
        "limits.flows: 0 is not a number from 1 to 1000000",
        r#"link.congestion: "reno" is not "cubic" or "bbr""#,
        r#"link.compression: "zstd" is not true or false"#,
        r#"admin.listen: "on" is not address:port, such as "127.0.0.1:9445", or "off""#,
        "colour: unknown key, known here: node, edge, core, store, peers, limits, link, admin",
        "node.name: is missing: a name of a-z, 0-9, '.' and '-'",
        "edge.intercept[0].server: belongs to the mode listen",
        "edge.intercept[0].ports: is missing: a list of ports, such as [445, 139, 80]",
        "edge.intercept[1].ports: belongs to the modes tproxy and redirect",
        "edge.intercept[1].manage-nftables: belongs to the modes tproxy and redirect",
        "edge.intercept[1].local: belongs to the mode redirect",
        "edge.intercept[1].server: is missing: host:port",
        "edge.intercept[2].listen: is missing: address:port, such as \"0.0.0.0:7445\" or \"[::]:7445\"",
        "edge.route[1].core: is missing: host:port",
        "core.dial-timeout: is zero: no server could be reached",
        r#"limits.retain: "16 MiB" is more than limits.memory, "8 MiB""#,
    ];
    let mut found = problems(text);
    found.sort();
    let mut expected = expected.map(String::from);
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn an_error_names_its_file() {
    let error =
        Config::parse("x = 1\n[node]\nname = 'a'\n[core]\nallow-servers = ['::1:1']", Path::new("w.toml"));
    let text = error.unwrap_err().to_string();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.starts_with("w.toml: ")), "{text}");
}

#[test]
fn two_routes_for_one_network_are_refused_and_one_inside_another_is_not() {
    let with = |more: &str| {
        MINIMAL.replace("servers = [\"10.2.0.0/16\", ", &format!("servers = [\"10.2.0.0/16\", {more}, "))
    };
    let twice = problems(&with("\"10.2.0.0/16\""));
    assert_eq!(
        twice,
        [r#"edge.route[0].servers[1]: "10.2.0.0/16" is routed by edge.route[0].servers[0] already"#]
    );
    assert!(parse(&with("\"10.2.3.0/24\"")).is_ok());
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let text = format!("{MINIMAL}\n[admin]\nlisten = \"127.0.0.1:1445\"");
    assert_eq!(
        problems(&text),
        [r#"admin.listen: "127.0.0.1:1445" is taken by edge.intercept[2].listen already"#]
    );
}

#[test]
fn peers_and_what_else_listens_differ_by_protocol() {
    let peers = |listen: &str| format!("{MINIMAL}\n[peers]\nlisten = \"{listen}\"");
    assert_eq!(
        problems(&peers("0.0.0.0:7445")),
        [r#"peers.listen: "0.0.0.0:7445" is taken by edge.intercept[0].listen already"#]
    );
    // Discovery and links are both UDP.
    assert_eq!(
        problems(&peers("0.0.0.0:7400")),
        [r#"peers.listen: "0.0.0.0:7400" is taken by core.listen already"#]
    );
    let port_of_links = format!("{MINIMAL}\n[admin]\nlisten = \"0.0.0.0:7400\"");
    assert!(parse(&port_of_links).is_ok());
    for free in ["[::]:0", "0.0.0.0:7400\"\nenabled = false\n#"] {
        assert!(parse(&peers(free)).is_ok(), "{free}");
    }
}

#[test]
fn this_machines_own_connections_are_redirects_alone_and_need_our_rules() {
    let with = |keys: &str| {
        parse(&MINIMAL.replace("\"0.0.0.0:7446\"", &format!("\"0.0.0.0:7446\"\n{keys}")))
            .map_err(|e| e.to_string())
    };
    let mode = |config: &Config| config.edge.as_ref().unwrap().intercepts[1].mode.clone();
    for (keys, expected) in [("", false), ("local = false", false), ("local = true", true)] {
        let config = with(keys).unwrap();
        assert!(
            matches!(mode(&config), InterceptMode::Redirect { local, .. } if local == expected),
            "{keys}"
        );
    }
    let unmanaged = with("local = true\nmanage-nftables = false").unwrap_err();
    assert!(unmanaged.contains("edge.intercept[1].local: is up to the rules"), "{unmanaged}");
    let tproxy = MINIMAL.replace("mode = \"tproxy\"", "mode = \"tproxy\"\nlocal = false");
    assert_eq!(problems(&tproxy), ["edge.intercept[0].local: belongs to the mode redirect"]);
}

#[test]
fn empty_lists_and_tables_of_the_wrong_shape_are_refused() {
    let table =
        "[node]\nname = 'a'\n[edge.intercept]\nmode = 'tproxy'\n[[edge.route]]\nservers = []\ncore = 'c:1'";
    assert_eq!(
        problems(table),
        [
            "edge.intercept: a table is not tables that begin with [[edge.intercept]]",
            "edge.route[0].servers: is empty: at least a network or address, such as \"10.2.0.0/16\"",
        ]
    );
    assert_eq!(
        problems("node = 3\n[core]\nallow-servers = []"),
        [
            "node: 3 is not a table",
            "core.allow-servers: is empty: at least \"10.2.0.0/16:445,139,80\" or { site = \"lisbon\", servers = [...] }",
        ]
    );
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    let error = parse("[node\nname = 1").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, ConfigError::Syntax { .. }) && source.contains("line 1"), "{source}");
}

proptest::proptest! {
    #[test]
    fn no_file_panics(text in "(\\[{1,2}(node|edge|edge\\.route|core|store)\\]{1,2}\n|(name|size|core|listen|x) = (1|\"[a-z0-9:/.]{0,12}\"|\\[\\]|\\{\\}|true)\n){0,12}") {
        let _ = parse(&text);
    }
}

/// Every key away from its default.
const FULL: &str = r#"
node = { name = "a", site = "b", state-dir = "state", ca = "pki/ca.pem", certificate = "c.pem", key = "/k.key" }
edge.intercept = [
    { mode = "redirect", listen = "[::]:1", ports = [80, 445], manage-nftables = false },
    { mode = "redirect", listen = "[::]:3", ports = [80], local = true },
    { mode = "listen", listen = "127.0.0.1:2", server = "[fd00::1]:445" },
]
edge.route = [{ servers = ["10.2.0.7"], core = "core:1" }, { servers = ["fd00::/32"], core = "[::1]:2" }]
core = { listen = "[::]:7", allow-servers = [{ site = "b", servers = ["[::1]:1,2"] }], dial-timeout = "250 ms", proofs = "plain", secret-grace = "36 h", site-groups = [["b", "c"], ["b", "d", "e"]] }
store = { size = "3 MB", memory = "0 B", dir = 'blocks "x"', share = false }
peers = { enabled = false, listen = "127.0.0.1:0", interfaces = ["lan0", "wlan0.5"], broadcast = false, multicast = false, static = ["10.1.5.7:7747", "[fd00::7]:7747"], advertise = ["198.51.100.7:1"], connections = 3, rate = "100 MiB" }
limits = { memory = "1 GiB", flows = 7, retain = "1 MiB" }
link = { congestion = "bbr", compression = false }
admin.listen = "off"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/wanigan/wanigan.toml"))
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Problems { problems, .. }) => {
            problems.into_iter().map(|Problem { key, problem }| format!("{key}: {problem}")).collect()
        }
        other => panic!("expected problems, got {other:?}"),
    }
}

/// The shipped file with each `#key = value` and `#[table]` taken at its word.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
        _ => line,
    };
    SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// `edge.route.core` and its like, of the code.
fn known_keys() -> BTreeSet<String> {
    let join =
        |table: &str, key: &str| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    let all = raw::TABLES.iter().flat_map(|(table, keys)| keys.iter().map(move |key| join(table, key)));
    let tables: BTreeSet<&str> = raw::TABLES.iter().map(|(table, _)| *table).collect();
    // `core.allow-servers` is a key and, for one site, a table.
    all.filter(|key| !tables.contains(key.as_str()) || key == "core.allow-servers").collect()
}

/// The keys in a value with what they hold, list positions left out; the first of a list counts.
fn leaves(at: &str, value: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                found.extend(leaves(&at, value));
            }
        }
        Value::Array(values) => {
            for value in values.iter().rev().filter(|value| value.is_table()) {
                found.extend(leaves(at, value));
            }
            if values.is_empty() || values.iter().any(|value| !value.is_table()) {
                found.insert(at.to_owned(), value.clone());
            }
        }
        leaf => {
            found.insert(at.to_owned(), leaf.clone());
        }
    }
    found
}

/// Key and default of each row of the reference's tables: `| \`key\` | … | default | … |`.
fn reference_rows() -> BTreeMap<String, String> {
    let cells = |line: &str| {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows = REFERENCE.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|row| {
        assert_eq!(row.len(), 5, "key, what, unit, default, why: {row:?}");
        (row[0].trim_matches('`').to_owned(), row[3].clone())
    })
    .collect()
}
