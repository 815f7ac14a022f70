//! TLS between peers: both sides show an edge's certificate of the authority, and the one that dials knows beforehand
//! which key it will meet.
//!
//! A peer has no name that DNS knows, only a [`NodeId`], which discovery or a core gave. So the requester checks that the
//! authority issued the responder's certificate and that its key has that id; the responder that it is an edge's.
//! Certificates are held against the domain's time, as the cores tell it: a node's own clock may be wrong by hours.
//!
//! No session is resumed and nothing is sent before the handshake is whole: what a proof is bound to is one full
//! handshake, and each one checks the certificates anew.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, aws_lc_rs::cipher_suite, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme, version,
};

use super::super::peer_identity;
use super::NodeIdentity;
use crate::addr::NodeId;

/// The protocol of peers in TLS (RFC 7301). It is the version of the frames, too.
pub const PEER_ALPN: &[u8] = b"wanigan-peer/1";

/// Tells the domain's time, or `None` while no core has said it; certificates are then held against the system's.
pub type DomainClock = Arc<dyn Fn() -> Option<UnixTime> + Send + Sync>;

/// Why a certificate of the authority is not the one of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotThePeer {
    /// It is no edge's.
    #[error("the certificate is not an edge's")]
    NotAnEdge,
    /// Its key is not that of the node that was dialled.
    #[error("the certificate is of node {0:?}, another than was dialled")]
    OtherNode(NodeId),
}

impl NotThePeer {
    /// Returns the reason in an error of TLS, if it is one of these.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
                reason.downcast_ref().copied()
            }
            _ => None,
        }
    }
}

impl From<NotThePeer> for Error {
    fn from(reason: NotThePeer) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
    }
}

/// The TLS with which a node dials peers.
#[derive(Debug, Clone)]
pub struct PeerClientTls {
    template: ClientConfig,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl PeerClientTls {
    /// Returns the TLS with which to dial one peer, and nobody else.
    #[must_use]
    pub fn dialling(&self, peer: NodeId) -> Arc<ClientConfig> {
        let mut config = self.template.clone();
        config.dangerous().set_certificate_verifier(Arc::new(OnePeer {
            peer,
            roots: self.roots.clone(),
            provider: self.provider.clone(),
        }));
        Arc::new(config)
    }
}

impl NodeIdentity {
    /// Returns the TLS with which this node dials peers.
    ///
    /// # Panics
    /// Never: what could fail was checked by [`NodeIdentity::load`].
    #[must_use]
    pub fn peer_client_tls(&self, clock: DomainClock) -> PeerClientTls {
        let (provider, roots) = (peer_provider(&self.provider), self.roots.clone());
        // Until `dialling` says whom, nobody but this node itself is accepted.
        let nobody = OnePeer { peer: self.identity.id, roots: roots.clone(), provider: provider.clone() };
        let mut template =
            ClientConfig::builder_with_details(provider.clone(), Arc::new(CertificateTime(clock)))
                .with_protocol_versions(&[&version::TLS13])
                .expect("the provider has suites for TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(nobody))
                .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
                .expect("certificate and key belong together");
        template.alpn_protocols = vec![PEER_ALPN.to_vec()];
        template.resumption = Resumption::disabled();
        template.enable_sni = false;
        PeerClientTls { template, roots, provider }
    }

    /// Returns the TLS with which this node serves peers.
    ///
    /// # Panics
    /// Never: what could fail was checked by [`NodeIdentity::load`].
    #[must_use]
    pub fn peer_server_tls(&self, clock: DomainClock) -> Arc<ServerConfig> {
        let provider = peer_provider(&self.provider);
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(CertificateTime(clock)))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .with_client_cert_verifier(Arc::new(AnyEdge(self.clients.clone())))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![PEER_ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Arc::new(config)
    }
}

/// Prefers AES with keys of 128 bits: for bytes that cross a LAN, speed counts more than the longer key.
fn peer_provider(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let mut provider = provider.clone();
    let preferred = cipher_suite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| *suite != preferred);
    Arc::new(provider)
}

/// Accepts the edge with one key.
#[derive(Debug)]
struct OnePeer {
    peer: NodeId,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnePeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match edge_id(end_entity)? {
            id if id == self.peer => Ok(ServerCertVerified::assertion()),
            other => Err(NotThePeer::OtherNode(other).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts every edge of the authority.
#[derive(Debug)]
struct AnyEdge(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyEdge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        edge_id(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Returns the id of an edge's certificate.
fn edge_id(certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    match peer_identity(certificate) {
        Ok(identity) if identity.roles.edge => Ok(identity.id),
        Ok(_) | Err(_) => Err(NotThePeer::NotAnEdge.into()),
    }
}

/// The time that certificates are held against.
struct CertificateTime(DomainClock);

impl TimeProvider for CertificateTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some((self.0)().unwrap_or_else(UnixTime::now))
    }
}

impl fmt::Debug for CertificateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateTime")
    }
}

#[cfg(test)]
mod tests;
