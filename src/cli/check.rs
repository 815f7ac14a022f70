//! `wanigan check`: what a configuration that can be read would do on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::Config;
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
    warnings
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
