//! Handshakes in memory between peers of one authority, of two, at other times than the machine's.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::super::super::Roles;
use super::super::tests::{Pki, meet};
use super::*;

#[test]
fn two_edges_of_one_authority_meet_with_the_same_exporter() {
    let pki = Pki::new();
    let (asks, has) = (pki.node("a", Roles::EDGE), pki.node("b", Roles::BOTH));
    let (client, server) = handshake(&asks, &has, has.identity().id).unwrap();
    assert_eq!(client.alpn_protocol(), Some(PEER_ALPN));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_cipher_suite(), Some(cipher_suite::TLS13_AES_128_GCM_SHA256));
    let label = crate::proof::EXPORTER_LABEL;
    let one = client.export_keying_material([0; 32], label, None).unwrap();
    assert_eq!(server.export_keying_material([0; 32], label, None).unwrap(), one);
    let (other, _) = handshake(&asks, &has, has.identity().id).unwrap();
    assert_ne!(
        other.export_keying_material([0; 32], label, None).unwrap(),
        one,
        "each connection has its own"
    );
    assert_eq!(other.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn a_peer_with_another_key_than_the_expected_is_refused() {
    let pki = Pki::new();
    let (asks, has, other) =
        (pki.node("a", Roles::EDGE), pki.node("b", Roles::EDGE), pki.node("c", Roles::EDGE));
    let error = handshake(&asks, &has, other.identity().id).unwrap_err();
    assert_eq!(NotThePeer::of(&error), Some(NotThePeer::OtherNode(has.identity().id)), "{error}");
}

#[test]
fn a_core_that_is_no_edge_is_refused_on_either_side() {
    let pki = Pki::new();
    let (edge, core) = (pki.node("a", Roles::EDGE), pki.node("hq", Roles::CORE));
    let error = handshake(&edge, &core, core.identity().id).unwrap_err();
    assert_eq!(NotThePeer::of(&error), Some(NotThePeer::NotAnEdge), "{error}");
    let error = handshake(&core, &edge, edge.identity().id).unwrap_err();
    assert_eq!(NotThePeer::of(&error), Some(NotThePeer::NotAnEdge), "{error}");
}

#[test]
fn a_stranger_is_refused_on_either_side() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let (edge, mut stranger) = (ours.node("a", Roles::EDGE), theirs.node("b", Roles::EDGE));
    let error = handshake(&edge, &stranger, stranger.identity().id).unwrap_err();
    assert!(is_foreign(&error), "{error}");
    // Now the stranger trusts our authority, so that it is the edge that must refuse.
    stranger.roots = edge.roots.clone();
    let error = handshake(&stranger, &edge, edge.identity().id).unwrap_err();
    assert!(is_foreign(&error), "{error}");
}

#[test]
fn a_peer_that_shows_no_certificate_is_refused() {
    let pki = Pki::new();
    let edge = pki.node("a", Roles::EDGE);
    let mut anonymous = ClientConfig::builder_with_provider(edge.provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnePeer {
            peer: edge.identity().id,
            roots: edge.roots.clone(),
            provider: edge.provider.clone(),
        }))
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![PEER_ALPN.to_vec()];
    let error = meet(anonymous, Arc::unwrap_or_clone(edge.peer_server_tls(system()))).unwrap_err();
    assert_eq!(error, Error::NoCertificatesPresented);
}

#[test]
fn a_link_is_no_connection_of_peers() {
    let pki = Pki::new();
    let (asks, has) = (pki.node("a", Roles::EDGE), pki.node("b", Roles::BOTH));
    let client = Arc::unwrap_or_clone(asks.peer_client_tls(system()).dialling(has.identity().id));
    assert_eq!(meet(client, has.core_tls()).unwrap_err(), Error::NoApplicationProtocol);
    let server = Arc::unwrap_or_clone(has.peer_server_tls(system()));
    assert_eq!(meet(asks.edge_tls(), server).unwrap_err(), Error::NoApplicationProtocol);
}

/// Certificates valid for one hour around a domain's time that is five hours ahead of this machine's.
#[test]
fn certificates_are_held_against_the_domains_time() {
    let pki = Pki::new();
    let ahead = Duration::from_secs(5 * 3_600);
    let domain = at(ahead);
    let (asks, has) = (short_lived(&pki, "a", ahead), short_lived(&pki, "b", ahead));
    let id = has.identity().id;
    assert!(handshake_at(&asks, &has, id, domain.clone(), domain.clone()).is_ok());
    // Each side for itself: with the system's time it finds that the other's certificate is not valid yet.
    let error = handshake_at(&asks, &has, id, system(), domain.clone()).unwrap_err();
    assert!(is_early(&error), "{error}");
    let error = handshake_at(&asks, &has, id, domain, system()).unwrap_err();
    assert!(is_early(&error), "{error}");
}

#[test]
fn an_expired_certificate_is_refused_on_either_side() {
    let pki = Pki::new();
    let hours = Duration::from_secs(5 * 3_600);
    let (old, new) = (short_lived(&pki, "a", Duration::ZERO), pki.node("b", Roles::EDGE));
    let now = at(hours);
    let error = handshake_at(&new, &old, old.identity().id, now.clone(), now.clone()).unwrap_err();
    assert!(is_expired(&error), "{error}");
    let error = handshake_at(&old, &new, new.identity().id, now.clone(), now).unwrap_err();
    assert!(is_expired(&error), "{error}");
}

fn handshake(
    asks: &NodeIdentity,
    has: &NodeIdentity,
    expected: NodeId,
) -> Result<(rustls::ClientConnection, rustls::ServerConnection), Error> {
    handshake_at(asks, has, expected, system(), system())
}

fn handshake_at(
    asks: &NodeIdentity,
    has: &NodeIdentity,
    expected: NodeId,
    asker_clock: DomainClock,
    server_clock: DomainClock,
) -> Result<(rustls::ClientConnection, rustls::ServerConnection), Error> {
    let client = Arc::unwrap_or_clone(asks.peer_client_tls(asker_clock).dialling(expected));
    meet(client, Arc::unwrap_or_clone(has.peer_server_tls(server_clock)))
}

/// No core has said the time.
fn system() -> DomainClock {
    Arc::new(|| None)
}

/// A domain whose time is ahead of this machine's.
fn at(ahead: Duration) -> DomainClock {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + ahead);
    Arc::new(move || Some(now))
}

/// An edge whose certificate is valid for an hour around a time ahead of this machine's.
fn short_lived(pki: &Pki, name: &str, ahead: Duration) -> NodeIdentity {
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(pki.path("ca.key")).unwrap()).unwrap();
    let ca = std::fs::read_to_string(pki.path("ca.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![
        SanType::URI(format!("wanigan:{name}/{name}").as_str().try_into().unwrap()),
        SanType::DnsName("edge.wanigan.internal".try_into().unwrap()),
    ];
    let middle = std::time::UNIX_EPOCH + Duration::from_secs(UnixTime::now().as_secs()) + ahead;
    params.not_before = (middle - Duration::from_secs(1_800)).into();
    params.not_after = (middle + Duration::from_secs(1_800)).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    // What `load` would refuse by this machine's clock is put together by hand.
    let mut node = pki.node(name, Roles::EDGE);
    node.identity = peer_identity(certificate.der()).unwrap();
    node.chain = vec![certificate.der().clone()];
    node.key = Arc::new(rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap());
    node
}

/// Every authority has the same name, so it is the signature that tells.
fn is_foreign(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::BadSignature | CertificateError::UnknownIssuer)
    )
}

fn is_early(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
        )
    )
}

fn is_expired(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })
    )
}
