//! `wanigan check`: what a configuration that can be read would do on this machine.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use crate::config::{Config, Peers};
use crate::pki::NodeIdentity;

/// Prints what will be used, and warns of what the start would stumble over.
///
/// These are warnings, since a configuration is often checked before its certificates are in place, or elsewhere.
pub(super) fn check(config: &Config, out: &mut dyn Write, warn: &mut dyn Write) -> anyhow::Result<()> {
    write!(out, "{config}")?;
    for warning in warnings(config) {
        writeln!(warn, "warning: {warning}")?;
    }
    Ok(())
}

fn warnings(config: &Config) -> Vec<String> {
    let node = &config.node;
    let files = [("ca", &node.ca), ("certificate", &node.certificate), ("key", &node.key)];
    let missing = |(key, path): (&str, &PathBuf)| {
        let text = || format!("node.{key}: \"{}\" is not there", path.display());
        (!path.exists()).then(text)
    };
    let mut warnings: Vec<_> = files.into_iter().filter_map(missing).collect();
    if warnings.is_empty() {
        warnings.extend(identity_warning(config));
    }
    if node.state_dir.exists() && !node.state_dir.is_dir() {
        warnings.push(format!("node.state-dir: \"{}\" is not a directory", node.state_dir.display()));
    }
    if let Some(listen) = config.admin.listen.filter(|listen| !listen.ip().is_loopback()) {
        warnings.push(format!("admin.listen: \"{listen}\" answers whoever reaches it, without a password"));
    }
    if config.edge.is_some() && config.peers.enabled {
        warnings.extend(peer_warnings(&config.peers));
    }
    warnings
}

/// What would keep an edge from its peers. Which interfaces are chosen is known to a running node only.
fn peer_warnings(peers: &Peers) -> Vec<String> {
    let mut warnings = Vec::new();
    let in_use = in_use(peers.listen);
    if !in_use.is_empty() {
        let (listen, by) = (peers.listen, in_use.join(" and "));
        warnings.push(format!("peers.listen: \"{listen}\" is in use over {by}, by this node if it runs"));
    }
    for name in &peers.interfaces {
        if !Path::new("/sys/class/net").join(name).exists() {
            warnings.push(format!("peers.interfaces: \"{name}\" is not there"));
        }
    }
    if !peers.broadcast && !peers.multicast && peers.static_peers.is_empty() {
        warnings
            .push("peers.static: is empty, and broadcast and multicast are off: nobody is asked".to_owned());
    }
    warnings
}

/// Returns the protocols of peers for which an address cannot be had because somebody has it.
fn in_use(listen: SocketAddr) -> Vec<&'static str> {
    let taken = |bound: io::Result<()>| bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    let tried = [("UDP", UdpSocket::bind(listen).map(drop)), ("TCP", TcpListener::bind(listen).map(drop))];
    tried.into_iter().filter_map(|(protocol, bound)| taken(bound).then_some(protocol)).collect()
}

fn identity_warning(config: &Config) -> Option<String> {
    let load = |ca: &Path, certificate: &Path, key: &Path| -> anyhow::Result<()> {
        let identity = NodeIdentity::load(ca, certificate, key)?;
        Ok(config.accepts_certificate(identity.identity())?)
    };
    let loaded = load(&config.node.ca, &config.node.certificate, &config.node.key);
    loaded.err().map(|error| format!("would fail to {error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Roles};

    #[test]
    fn missing_files_are_warned_of_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let warnings = warnings(&config(dir.path(), "gw"));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].starts_with("node.ca: "), "{warnings:?}");
    }

    #[test]
    fn a_node_with_its_certificate_gets_no_warning() {
        let dir = tempfile::tempdir().unwrap();
        issue(dir.path(), "gw", Roles::CORE);
        assert_eq!(warnings(&config(dir.path(), "gw")), Vec::<String>::new());
    }

    #[test]
    fn a_certificate_of_another_node_or_without_the_role_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        issue(dir.path(), "gw", Roles::EDGE);
        let role = warnings(&config(dir.path(), "gw"));
        assert_eq!(role, ["would fail to take the role of core: the certificate is for edge"]);
        let mut other = config(dir.path(), "gw");
        other.node.name = "hq".parse().unwrap();
        assert_eq!(warnings(&other), ["would fail to run as hq of gw: the certificate is for gw of gw"]);
    }

    #[test]
    fn peers_that_could_not_be_met_are_warned_of() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let peers = |text: &str| {
            let text = format!(
                "[node]\nname = 'gw'\n[[edge.intercept]]\nmode = 'listen'\nlisten = '127.0.0.1:0'\nserver = 'a:1'\n
                 [[edge.route]]\nservers = ['::/0']\ncore = 'c:1'\n[peers]\n{text}"
            );
            Config::parse(&text, Path::new("w.toml")).unwrap()
        };
        let all = |text: &str| {
            let warnings = warnings(&peers(text)).into_iter();
            warnings.filter(|warning| warning.starts_with("peers.")).collect::<Vec<_>>()
        };
        let listening = format!("listen = '{listen}'");
        let in_use = format!("peers.listen: \"{listen}\" is in use over TCP, by this node if it runs");
        assert_eq!(all(&listening), [in_use]);
        assert_eq!(all(&format!("{listening}\nenabled = false")), Vec::<String>::new());
        drop(listener);
        assert_eq!(all(&listening), Vec::<String>::new());
        assert_eq!(
            all("listen = '127.0.0.1:0'\ninterfaces = ['lo', 'lan99']\nbroadcast = false\nmulticast = false"),
            [
                "peers.interfaces: \"lan99\" is not there",
                "peers.static: is empty, and broadcast and multicast are off: nobody is asked",
            ]
        );
    }

    #[test]
    fn what_is_printed_is_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (config, mut out, mut warn) = (config(dir.path(), "gw"), Vec::new(), Vec::new());
        check(&config, &mut out, &mut warn).unwrap();
        let printed = Config::parse(&String::from_utf8(out).unwrap(), Path::new("printed.toml")).unwrap();
        assert_eq!(printed, config);
        assert_eq!(String::from_utf8(warn).unwrap().lines().count(), 3);
    }

    fn config(dir: &Path, name: &str) -> Config {
        let text = format!(
            "[node]\nname = '{name}'\nca = 'ca.pem'\ncertificate = '{name}.pem'\nkey = '{name}.key'\n
             [core]\nallow-servers = ['10.0.0.1:80']"
        );
        Config::parse(&text, &dir.join("wanigan.toml")).unwrap()
    }

    fn issue(dir: &Path, name: &str, roles: Roles) {
        let authority = Authority::at(dir);
        authority.init().unwrap();
        authority.issue(&name.parse().unwrap(), &name.parse().unwrap(), roles).unwrap();
    }
}
