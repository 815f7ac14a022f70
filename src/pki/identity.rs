//! Reads a node's identity from its certificate.
//!
//! The certificate comes from the network, though by then the TLS handshake has checked that the authority signed it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CORE_NAME, EDGE_NAME, NodeName, SiteName, URI_SCHEME};
use crate::addr::NodeId;

/// What a node's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node's name.
    pub name: NodeName,
    /// The node's site.
    pub site: SiteName,
    /// What the node may be to others.
    pub roles: Roles,
    /// SHA-256 of the public key (its SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    pub id: NodeId,
}

/// What a node may be to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It may open flows at a core.
    pub edge: bool,
    /// Edges may trust it to be near the servers.
    pub core: bool,
}

impl Roles {
    /// The role in the branch.
    pub const EDGE: Self = Self { edge: true, core: false };
    /// The role near the servers.
    pub const CORE: Self = Self { edge: false, core: true };
    /// Both roles.
    pub const BOTH: Self = Self { edge: true, core: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.edge, self.core) {
            (true, true) => "edge and core",
            (true, false) => "edge",
            (false, true) => "core",
            (false, false) => "none",
        })
    }
}

/// Why a certificate is not a node's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// The bytes are not one X.509 certificate.
    #[error("read the certificate: not X.509")]
    Malformed,
    /// There is not exactly one common name that is a node's name.
    #[error("read the certificate: no node's name as its common name")]
    Name,
    /// There is not exactly one `wanigan:SITE/NAME`, or it names another node.
    #[error("read the certificate: no wanigan:SITE/NAME for its common name")]
    Site,
    /// No role is named.
    #[error("read the certificate: no role")]
    Role,
}

impl PeerIdentityError {
    /// Returns a label for counters.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Name => "name",
            Self::Site => "site",
            Self::Role => "role",
        }
    }
}

/// Reads the identity in a certificate (DER) whose signature has been checked.
///
/// # Errors
/// [`PeerIdentityError`] when it is not a certificate as [`super::Authority::issue`] makes them.
pub fn peer_identity(certificate: &[u8]) -> Result<PeerIdentity, PeerIdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| PeerIdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerIdentityError::Malformed);
    }
    let name = common_name(&certificate).ok_or(PeerIdentityError::Name)?;
    let names = certificate.subject_alternative_name().map_err(|_| PeerIdentityError::Malformed)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let site = site(names, &name).ok_or(PeerIdentityError::Site)?;
    let roles = Roles { edge: has_dns_name(names, EDGE_NAME), core: has_dns_name(names, CORE_NAME) };
    if roles == (Roles { edge: false, core: false }) {
        return Err(PeerIdentityError::Role);
    }
    let id = NodeId(Sha256::digest(certificate.public_key().raw).into());
    Ok(PeerIdentity { name, site, roles, id })
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<NodeName> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    if names.next().is_some() { None } else { NodeName::from_str(name).ok() }
}

fn site(names: &[GeneralName<'_>], name: &NodeName) -> Option<SiteName> {
    let mut uris = names.iter().filter_map(|general| match general {
        GeneralName::URI(uri) => uri.strip_prefix(URI_SCHEME),
        _ => None,
    });
    let (site, named) = uris.next()?.split_once('/')?;
    if uris.next().is_some() || named != name.as_str() { None } else { site.parse().ok() }
}

fn has_dns_name(names: &[GeneralName<'_>], wanted: &str) -> bool {
    names.iter().any(|general| matches!(general, GeneralName::DNSName(name) if *name == wanted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn certificates_that_are_not_nodes_are_refused_with_the_reason() {
        let edge = dns(EDGE_NAME);
        let of = |cn: &str, names: Vec<rcgen::SanType>| peer_identity(&certificate(cn, names));
        assert_eq!(
            of("Not A Node", vec![edge.clone(), uri("wanigan:lisbon/gw")]),
            Err(PeerIdentityError::Name)
        );
        assert_eq!(of("gw", vec![edge.clone()]), Err(PeerIdentityError::Site));
        assert_eq!(of("gw", vec![edge.clone(), uri("wanigan:lisbon/other")]), Err(PeerIdentityError::Site));
        assert_eq!(of("gw", vec![edge.clone(), uri("wanigan:Lis%20bon/gw")]), Err(PeerIdentityError::Site));
        let two = vec![edge, uri("wanigan:lisbon/gw"), uri("wanigan:porto/gw")];
        assert_eq!(of("gw", two), Err(PeerIdentityError::Site));
        assert_eq!(
            of("gw", vec![dns("example.org"), uri("wanigan:lisbon/gw")]),
            Err(PeerIdentityError::Role)
        );
        assert_eq!(peer_identity(b"not der"), Err(PeerIdentityError::Malformed));
    }

    #[test]
    fn a_changed_or_cut_certificate_never_panics() {
        let good = certificate("gw", vec![dns(EDGE_NAME), uri("wanigan:lisbon/gw")]);
        assert!(peer_identity(&good).is_ok());
        for at in 0..good.len() {
            assert!(peer_identity(&good[..at]).is_err(), "cut at {at}");
            let mut flipped = good.clone();
            flipped[at] ^= 0x41;
            let _ = peer_identity(&flipped);
        }
        assert_eq!(peer_identity(&[&good[..], b"x"].concat()), Err(PeerIdentityError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(peer_identity(&bytes).is_err());
        }
    }

    fn certificate(common_name: &str, names: Vec<rcgen::SanType>) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn dns(name: &str) -> rcgen::SanType {
        rcgen::SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(uri: &str) -> rcgen::SanType {
        rcgen::SanType::URI(uri.try_into().unwrap())
    }
}
