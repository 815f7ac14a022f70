//! Handshakes in memory: two rustls connections that hand each other their bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use super::super::{Authority, Roles, SiteName};
use super::*;

#[test]
fn an_edge_and_a_core_of_one_authority_meet_and_know_each_other() {
    let pki = Pki::new();
    let (edge, core) = (pki.node("gw", Roles::EDGE), pki.node("hq", Roles::CORE));
    let (edge_side, core_side) = handshake(&edge, &core).unwrap();
    assert_eq!(peer_of(core_side.peer_certificates()), *edge.identity());
    assert_eq!(peer_of(edge_side.peer_certificates()), *core.identity());
    assert_eq!(edge_side.alpn_protocol(), Some(ALPN));
    assert_eq!(edge_side.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn an_edge_refuses_another_edge_in_the_place_of_a_core() {
    let pki = Pki::new();
    let error = handshake(&pki.node("gw", Roles::EDGE), &pki.node("fake", Roles::EDGE)).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_core_refuses_a_node_of_another_authority() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    // The stranger trusts our authority, so that it is the core that must refuse.
    let mut stranger = theirs.node("gw", Roles::EDGE);
    stranger.roots = Arc::new(load_roots(&ours.path("ca.pem")).unwrap());
    let error = handshake(&stranger, &ours.node("hq", Roles::CORE)).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_core_refuses_a_client_without_a_certificate() {
    let pki = Pki::new();
    let edge = pki.node("gw", Roles::EDGE);
    let mut anonymous = ClientConfig::builder_with_provider(edge.provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(edge.roots.clone())
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![ALPN.to_vec()];
    let error = meet(anonymous, pki.node("hq", Roles::CORE).core_tls()).unwrap_err();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[test]
fn no_session_is_resumed() {
    let pki = Pki::new();
    let (client, server) = (pki.node("gw", Roles::EDGE).edge_tls(), pki.node("hq", Roles::CORE).core_tls());
    for _ in 0..2 {
        let (edge_side, _) = meet(client.clone(), server.clone()).unwrap();
        assert_eq!(edge_side.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn both_configurations_are_what_quinn_takes() {
    let pki = Pki::new();
    let both = pki.node("hq", Roles::BOTH);
    assert!(QuicClientConfig::try_from(both.edge_tls()).is_ok());
    assert!(QuicServerConfig::try_from(both.core_tls()).is_ok());
}

#[test]
fn a_certificate_of_another_authority_is_refused_at_load() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let certificate = theirs.issue("gw", Roles::EDGE);
    let error = NodeIdentity::load(&ours.path("ca.pem"), &certificate, &theirs.path("gw.key")).unwrap_err();
    assert!(matches!(error, IdentityError::NotIssued { .. }), "{error}");
}

#[test]
fn the_authoritys_own_certificate_is_no_node() {
    let pki = Pki::new();
    let ca = pki.path("ca.pem");
    assert!(NodeIdentity::load(&ca, &ca, &pki.path("ca.key")).is_err());
}

#[test]
fn a_key_of_another_certificate_is_refused_at_load() {
    let pki = Pki::new();
    let certificate = pki.issue("gw", Roles::EDGE);
    pki.issue("other", Roles::EDGE);
    let error = NodeIdentity::load(&pki.path("ca.pem"), &certificate, &pki.path("other.key")).unwrap_err();
    assert!(matches!(error, IdentityError::OtherKey { .. }), "{error}");
}

#[test]
fn a_key_that_everyone_can_read_is_refused_and_one_for_a_group_is_not() {
    let pki = Pki::new();
    let (certificate, key) = (pki.issue("gw", Roles::EDGE), pki.path("gw.key"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(NodeIdentity::load(&pki.path("ca.pem"), &certificate, &key).is_ok());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = NodeIdentity::load(&pki.path("ca.pem"), &certificate, &key).unwrap_err();
    assert!(matches!(error, IdentityError::KeyFile(SecretFileError::Exposed { mode: 0o644, .. })), "{error}");
}

#[test]
fn files_without_certificates_and_keys_are_named() {
    let pki = Pki::new();
    let (ca, certificate, key) = (pki.path("ca.pem"), pki.issue("gw", Roles::EDGE), pki.path("gw.key"));
    let empty = pki.path("empty");
    secret_file::write_new(&empty, 0o600, b"").unwrap();
    for (ca, certificate, key) in
        [(&empty, &certificate, &key), (&ca, &empty, &key), (&ca, &certificate, &empty)]
    {
        let error = NodeIdentity::load(ca, certificate, key).unwrap_err().to_string();
        assert!(error.ends_with("empty"), "{error}");
    }
}

/// An authority in a directory of its own.
pub(super) struct Pki(tempfile::TempDir);

impl Pki {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority::at(dir.path()).init().unwrap();
        Self(dir)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn issue(&self, name: &str, roles: Roles) -> PathBuf {
        let name = name.parse().unwrap();
        Authority::at(self.0.path()).issue(&name, &SiteName::from(&name), roles).unwrap().certificate
    }

    pub(super) fn node(&self, name: &str, roles: Roles) -> NodeIdentity {
        let certificate = self.issue(name, roles);
        NodeIdentity::load(&self.path("ca.pem"), &certificate, &self.path(&format!("{name}.key"))).unwrap()
    }
}

fn handshake(
    edge: &NodeIdentity,
    core: &NodeIdentity,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    meet(edge.edge_tls(), core.core_tls())
}

/// Runs a handshake to its end, or to the first side that refuses the other.
pub(super) fn meet(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(CORE_SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut input = &bytes[..];
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut input = &bytes[..];
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> PeerIdentity {
    peer_identity(&certificates.unwrap()[0]).unwrap()
}
