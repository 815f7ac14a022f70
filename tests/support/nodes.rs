//! What it takes to start nodes in a test: their certificates and configurations, and a port for a core.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use wanigan::pki::{Authority, Roles};

/// Issues a node's certificate and writes its configuration, with these tables of its roles.
pub(crate) fn configure(
    authority: &Authority,
    dir: &Path,
    (name, site): (&str, &str),
    roles: Roles,
    tables: &str,
) -> PathBuf {
    authority.issue(&name.parse().unwrap(), &site.parse().unwrap(), roles).unwrap();
    let file = dir.join(format!("{name}.toml"));
    let text = format!(
        "[node]\nname = '{name}'\nsite = '{site}'\nstate-dir = '{name}'\nca = 'ca.pem'\ncertificate = '{name}.pem'\n\
         key = '{name}.key'\n[admin]\nlisten = 'off'\n{tables}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Returns an address for a core that keeps it when it is started again.
pub(crate) fn free_udp_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap()
}
