//! The quick start of the README, followed step by step.

use std::path::Path;
use std::process::Command;

use wanigan::config::Config;
use wanigan::pki::NodeIdentity;

const README: &str = include_str!("../README.md");

#[test]
fn the_certificates_of_the_quick_start_fit_its_configurations() {
    let dir = tempfile::tempdir().unwrap();
    for line in blocks("sh").join("\n").lines().filter(|line| line.starts_with("wanigan pki ")) {
        let made = Command::new(env!("CARGO_BIN_EXE_wanigan"))
            .args(line.split(' ').skip(1))
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{line}");
    }
    let configs = configurations();
    assert_eq!(configs.iter().filter(|config| config.core.is_some()).count(), 1);
    assert_eq!(configs.iter().filter(|config| config.edge.is_some()).count(), 1);
    for config in configs {
        let file = |end: &str| dir.path().join(format!("pki/{}.{end}", config.node.name));
        let identity =
            NodeIdentity::load(&dir.path().join("pki/ca.pem"), &file("pem"), &file("key")).unwrap();
        config.accepts_certificate(identity.identity()).unwrap();
    }
}

#[test]
fn the_edge_of_the_quick_start_is_let_through_by_its_core() {
    let configs = configurations();
    let core = configs.iter().find_map(|config| config.core.as_ref()).unwrap();
    let edge = configs.iter().find(|config| config.edge.is_some()).unwrap();
    let server = wanigan::addr::ServerAddr("10.2.0.7:445".parse().unwrap());
    assert!(core.allow_servers.allows(edge.node.site.as_str(), server));
    assert!(edge.edge.as_ref().unwrap().routes.core_for(server).is_some());
}

#[test]
fn every_file_the_documents_lead_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in [
        "README.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "docs/configuration.md",
        "docs/matching.md",
        "docs/metrics.md",
        "docs/operation.md",
    ] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let there = root.join(document).parent().unwrap().join(link);
            assert!(link.starts_with("https:") || there.exists(), "{document} leads to {link}");
        }
    }
}

fn configurations() -> Vec<Config> {
    let file = Path::new("/etc/wanigan/wanigan.toml");
    blocks("toml")
        .iter()
        .map(|text| Config::parse(text, file).expect("the README's files are right"))
        .collect()
}

/// Returns the README's blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    README.split(&*opening).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}
