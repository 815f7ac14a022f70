//! The rules of the house that a machine can check: who may use whom, what does no I/O, where blocks may be made.
//!
//! The checks read the source as text, line by line, without comments and tests. They are meant to catch a slip of the
//! hand in review's place, not an author who wants to get past them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[path = "house/source.rs"]
mod source;

use self::source::{Source, repository_files, sources};

/// Modules of `src/` and the modules that each may use. A module not named here is reported, and so is a circle.
///
/// From the roles down: role, flow, link, shim and store, block; what everybody may use stands at the end.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cli", &["admin", "config", "node", "pki", "demo", "server_secret"]),
    (
        "node",
        &[
            "admin",
            "budget",
            "config",
            "content_map",
            "core_role",
            "drain",
            "edge_role",
            "metrics",
            "peer",
            "pki",
            "secret_file",
            "store",
        ],
    ),
    (
        "demo",
        &["budget", "config", "core_role", "drain", "edge_role", "metrics", "node", "pki", "store", "wan"],
    ),
    (
        "core_role",
        &[
            "addr",
            "block",
            "budget",
            "config",
            "content_map",
            "drain",
            "fault",
            "fetch",
            "flow",
            "matching",
            "metrics",
            "pki",
            "proof",
            "referral",
            "relay",
            "renaming",
            "secret_file",
            "server_secret",
            "shim",
            "store",
            "wan",
        ],
    ),
    (
        "edge_role",
        &[
            "addr",
            "block",
            "budget",
            "config",
            "content_map",
            "discovery",
            "drain",
            "fault",
            "fetch",
            "flow",
            "intercept",
            "matching",
            "metrics",
            "peer",
            "pki",
            "proof",
            "relay",
            "renaming",
            "secret_file",
            "shim",
            "store",
            "wan",
        ],
    ),
    ("renaming", &["block", "proof"]),
    (
        "flow",
        &[
            "addr", "block", "budget", "fault", "fetch", "matching", "metrics", "proof", "referral", "relay",
            "shim", "wan",
        ],
    ),
    ("fetch", &["addr", "block", "discovery", "drain", "fault", "metrics", "peer", "store", "wan"]),
    ("referral", &["addr", "block", "matching", "pki"]),
    ("intercept", &["addr", "fault", "relay"]),
    ("wan", &["config", "drain", "metrics"]),
    ("discovery", &["addr", "block", "drain", "fault", "metrics", "proof"]),
    ("content_map", &["matching", "metrics", "object", "store"]),
    ("store", &["block", "metrics"]),
    ("matching", &["block", "budget", "fault", "object", "shim"]),
    ("peer", &["addr", "block", "drain", "fault", "metrics", "pki", "proof", "relay"]),
    ("proof", &["addr", "block"]),
    ("block", &[]),
    ("shim", &["fault", "object"]),
    ("relay", &["addr", "fault"]),
    ("admin", &["drain", "metrics"]),
    ("config", &["addr", "pki"]),
    ("pki", &["addr", "secret_file"]),
    ("metrics", &["fault"]),
    ("budget", &[]),
    ("drain", &[]),
    ("object", &[]),
    ("secret_file", &[]),
    ("server_secret", &["block", "secret_file"]),
    ("addr", &[]),
    ("fault", &[]),
];

/// Where no I/O is done: files, or directories with all that is in them.
const SANS_IO: &[&str] = &[
    "parsers/src/",
    "src/addr.rs",
    "src/block.rs",
    "src/budget.rs",
    "src/discovery/answerer.rs",
    "src/discovery/asker.rs",
    "src/discovery/clock.rs",
    "src/discovery/interfaces.rs",
    "src/discovery/limit.rs",
    "src/discovery/pace.rs",
    "src/discovery/state.rs",
    "src/fault.rs",
    "src/flow/credit.rs",
    "src/flow/guessing.rs",
    "src/flow/minter.rs",
    "src/flow/outbound.rs",
    "src/flow/pushing.rs",
    "src/flow/receiving.rs",
    "src/flow/recent.rs",
    "src/flow/retained.rs",
    "src/flow/sending.rs",
    "src/flow/terms.rs",
    "src/flow/window.rs",
    "src/matching.rs",
    "src/matching/",
    "src/object.rs",
    "src/fetch/plan.rs",
    "src/fetch/plan/",
    "src/peer/book.rs",
    "src/peer/rate.rs",
    "src/peer/requests.rs",
    "src/peer/serving.rs",
    "src/proof.rs",
    "src/referral.rs",
    "src/renaming.rs",
    "src/shim.rs",
    "src/shim/",
    "src/wan/numbering.rs",
    "src/wan/session.rs",
];

/// What brings I/O, a clock or a channel along.
const IO: &[&str] = &[
    "tokio",
    "quinn",
    "socket2",
    "std::fs",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime",
    "mpsc",
    "async fn",
    ".await",
];

#[test]
fn modules_use_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut found = Vec::new();
    for source in sources("src") {
        let module = source.module();
        // These two only name what there is and start it.
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(below) = allowed.get(module.as_str()) else {
            found.push(format!("{}:1: no rule says what the module {module} may use", source.path));
            continue;
        };
        for (line, code) in source.code() {
            for used in used_modules(code) {
                if used != module && !below.contains(&used) {
                    found.push(format!("{}:{line}: {module} uses {used}", source.path));
                }
            }
        }
    }
    report(found);
}

#[test]
fn the_rules_have_no_circle() {
    let mut rest: BTreeMap<&str, Vec<&str>> =
        MAY_USE.iter().map(|(name, below)| (*name, below.to_vec())).collect();
    while !rest.is_empty() {
        let free: Vec<&str> =
            rest.iter().filter(|(_, below)| below.is_empty()).map(|(name, _)| *name).collect();
        assert!(
            !free.is_empty(),
            "these modules may use each other in a circle, or one has no rule: {rest:#?}"
        );
        for name in free {
            rest.remove(name);
            rest.values_mut().for_each(|below| below.retain(|used| *used != name));
        }
    }
}

#[test]
fn state_machines_and_parsers_do_no_io() {
    let all: Vec<Source> = sources("src").into_iter().chain(sources("parsers/src")).collect();
    let mut found = Vec::new();
    for place in SANS_IO {
        let mut files = all.iter().filter(|source| is_at(&source.path, place)).peekable();
        if files.peek().is_none() {
            found.push(format!("{place}: there is no such file"));
        }
        for source in files {
            for (line, code) in source.code() {
                let hits = IO.iter().filter(|word| contains_word(code, word));
                found.extend(hits.map(|word| format!("{}:{line}: uses {word}", source.path)));
            }
        }
    }
    report(found);
}

#[test]
fn the_parsers_depend_on_nom_and_httparse_only() {
    let manifest: toml::Table = read("parsers/Cargo.toml").parse().unwrap();
    let dependencies: Vec<&String> = manifest["dependencies"].as_table().unwrap().keys().collect();
    assert_eq!(dependencies, ["httparse", "nom"]);
    assert!(!manifest.contains_key("target") && !manifest.contains_key("build-dependencies"));
}

/// Invariant 3, entitlement: a reference is made where bytes of a leg arrive, and nowhere else; at a core these are what
/// the server released, and an edge has no secret of a core's.
#[test]
fn references_are_made_only_from_what_a_leg_gave() {
    report(outside("src", ".mint(", &["src/flow/minter.rs", "src/flow/outbound.rs"]));
}

/// Invariant 3, entitlement: who has but a digest may compare, and gives a block to nobody.
#[test]
fn blocks_are_found_by_digest_only_where_they_are_compared() {
    let places = ["src/store/", "src/fetch.rs"];
    report(outside("src", ".peek", &["src/fetch.rs", "src/flow.rs", "src/store/"]));
    report(outside("src", ".get_digest", &places));
}

/// Invariant 1, byte-exact: bytes become a block by being checked, or out of a seal that was.
#[test]
fn only_the_store_trusts_a_seal() {
    report(outside("src", "from_seal(", &["src/block.rs", "src/store.rs", "src/store/"]));
}

/// Invariant 4, fail to wire: a FIN tells a client that its answer is complete, so few places may send one.
#[test]
fn legs_are_closed_in_order_only_by_the_flow_and_the_relay() {
    let ends = ["shutdown(", "set_linger(None)"];
    // Operators and the demo are not carried.
    let places = ["src/flow.rs", "src/relay.rs", "src/admin/", "src/demo/"];
    report(ends.iter().flat_map(|end| outside("src", end, &places)).collect());
}

#[test]
fn every_module_begins_with_what_it_is_for() {
    let found = ["src", "parsers/src", "lab/src", "lab/tests", "tests"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}:1: does not begin with //!", source.path));
    report(found.collect());
}

#[test]
fn errors_have_types_except_at_the_command_line() {
    report(
        ["src", "parsers/src"]
            .iter()
            .flat_map(|dir| outside(dir, "anyhow", &["src/cli.rs", "src/cli/"]))
            .collect(),
    );
}

/// Every name in backquotes that reads like a test's is one, so that what the threat model rests on is there.
#[test]
fn the_tests_that_the_threat_model_names_exist() {
    let tests: String =
        repository_files().iter().filter(|path| path.ends_with(".rs")).map(|path| read(path)).collect();
    let text = read("docs/threat-model.md");
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|code| is_test_name(code)).collect();
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let missing = named.into_iter().filter(|name| !tests.contains(&format!("fn {name}(")));
    report(missing.map(|name| format!("docs/threat-model.md: there is no test {name}")).collect());
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    let mut paths: Vec<String> =
        ["home", "root", "work", "Users"].iter().map(|dir| format!("/{dir}/")).collect();
    paths.push(env!("CARGO_MANIFEST_DIR").to_owned());
    let mut found = Vec::new();
    for path in repository_files() {
        // Captures and other bytes are no text.
        let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let hits = paths.iter().filter(|wanted| begins_a_path(line, wanted));
            found.extend(hits.map(|wanted| format!("{path}:{}: names {wanted}", number + 1)));
        }
    }
    report(found);
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(used_modules("use crate::store::{Store, StoreError};"), ["store"]);
    assert_eq!(used_modules("let x: crate::wan::Link = crate::flow::open();"), ["wan", "flow"]);
    assert_eq!(used_modules("pub(crate) fn mycrate::x()"), Vec::<&str>::new());
    assert!(contains_word("use tokio::net;", "tokio") && !contains_word("let tokions = 1;", "tokio"));
    assert!(contains_word("x.await?", ".await") && !contains_word("x.awaited", ".await"));
    let home = format!("/{}/", "home");
    assert!(
        begins_a_path(&format!("see \"{home}me/x\""), &home)
            && !begins_a_path(&format!("srv{home}me"), &home)
    );
    let source = Source::new(
        "src/store.rs",
        "//! Story.\nuse a; // tokio\n#[cfg(test)]\nmod fault_disk;\nuse b;\n#[cfg(test)]\nmod tests {\n    use tokio;\n}\n",
    );
    let code: Vec<(usize, &str)> = source.code().collect();
    assert_eq!(code, [(2, "use a; "), (5, "use b;")]);
    assert_eq!(source.test_modules(), ["src/store/fault_disk.rs", "src/store/fault_disk/"]);
}

/// Fails with all that was found, a line each.
#[track_caller]
fn report(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Returns where code under `dir` has `text` outside the places that may.
fn outside(dir: &str, text: &str, places: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources(dir) {
        if places.iter().any(|place| is_at(&source.path, place)) {
            continue;
        }
        let lines = source.code().filter(|(_, code)| code.contains(text));
        found.extend(lines.map(|(line, _)| format!("{}:{line}: has {text}", source.path)));
    }
    found
}

fn is_at(path: &str, place: &str) -> bool {
    path == place || place.ends_with('/') && path.starts_with(place)
}

/// Test names are sentences: four words at least.
fn is_test_name(code: &str) -> bool {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    code.chars().all(is_name) && code.split('_').filter(|word| !word.is_empty()).count() >= 4
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns the modules of this crate that a line of code names.
fn used_modules(code: &str) -> Vec<&str> {
    let whole = |at: usize| at == 0 || !is_word(code.as_bytes()[at - 1]);
    code.match_indices("crate::")
        .filter(|(at, _)| whole(*at))
        .map(|(at, path)| {
            let rest = &code[at + path.len()..];
            &rest[..rest.bytes().take_while(|byte| is_word(*byte)).count()]
        })
        .collect()
}

fn contains_word(code: &str, word: &str) -> bool {
    let bytes = code.as_bytes();
    let free = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_none_or(|byte| !is_word(*byte));
    let begins = |at: usize| !word.starts_with(char::is_alphanumeric) || free(at.checked_sub(1));
    code.match_indices(word).any(|(at, _)| begins(at) && free(Some(at + word.len())))
}

fn begins_a_path(line: &str, wanted: &str) -> bool {
    let before = |at: usize| line[..at].chars().next_back();
    let inside = |c: char| c.is_alphanumeric() || "_-./*}])>".contains(c);
    line.match_indices(wanted).any(|(at, _)| !before(at).is_some_and(inside))
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is there")
}
