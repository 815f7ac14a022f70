//! A node's own certificate, and the TLS it makes links with.
//!
//! TLS 1.3 alone, no session resumption: a link lives for hours, so a full handshake costs nothing, and each one
//! checks the certificate anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

pub use self::peer::{DomainClock, NotThePeer, PEER_ALPN, PeerClientTls};
use super::{CORE_NAME, PeerIdentity, PeerIdentityError, peer_identity};
use crate::secret_file::{self, SecretFileError};

mod peer;

/// The protocol of links in TLS (RFC 7301). The frames' version is negotiated inside it.
pub const ALPN: &[u8] = b"wanigan/1";

/// The name under which an edge asks for a core, whatever the core's address.
pub const CORE_SERVER_NAME: &str = CORE_NAME;

/// A node's certificate with its key, found to belong together and to the authority.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    identity: PeerIdentity,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

/// Why a node has no identity to run with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate file cannot be read, or has no certificate.
    #[error("read a certificate from {}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: pem::Error,
    },
    /// The key file cannot be read, or everyone can read it.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// The key file has no private key.
    #[error("read a private key from {}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: pem::Error,
    },
    /// The authority's certificate is not one.
    #[error("use {} as the authority", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The authority did not issue the certificate.
    #[error("use {}: not issued by the authority in {}", .path.display(), .ca.display())]
    NotIssued {
        /// The file of the node's certificate.
        path: PathBuf,
        /// The file of the authority's certificate.
        ca: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
    /// The certificate is not a node's.
    #[error("use {}", .path.display())]
    NotANode {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: PeerIdentityError,
    },
    /// The key is not the certificate's.
    #[error("use {}: not the key of {}", .path.display(), .certificate.display())]
    OtherKey {
        /// The file of the key.
        path: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
}

impl NodeIdentity {
    /// Reads the three files of a node and checks that they belong together.
    ///
    /// The key may be readable by a group, as systemd's credentials and `ssl-cert` are, but not by everyone.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and what is wrong with it.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(load_roots(ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| IdentityError::Authority { path: ca.to_owned(), reason: error.into() })?;
        let chain = load_certificates(certificate)?;
        let (own, intermediates) = chain.split_first().expect("a file without certificates is an error");
        clients.verify_client_cert(own, intermediates, UnixTime::now()).map_err(|source| {
            IdentityError::NotIssued { path: certificate.to_owned(), ca: ca.to_owned(), source }
        })?;
        let identity = peer_identity(own)
            .map_err(|source| IdentityError::NotANode { path: certificate.to_owned(), source })?;
        let private = load_key(key)?;
        CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider).map_err(|source| {
            IdentityError::OtherKey { path: key.to_owned(), certificate: certificate.to_owned(), source }
        })?;
        Ok(Self { identity, chain, key: Arc::new(private), roots, clients, provider })
    }

    /// Returns what the node's own certificate says.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// Returns the TLS of an edge: accepts a core's certificate under [`CORE_SERVER_NAME`], and shows its own.
    ///
    /// # Panics
    /// Never: what could fail was checked by [`NodeIdentity::load`].
    #[must_use]
    pub fn edge_tls(&self) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config
    }

    /// Returns the TLS of a core: accepts any certificate of the authority, and shows its own.
    ///
    /// Whoever accepts the connection reads the client's roles with [`peer_identity`].
    ///
    /// # Panics
    /// Never: what could fail was checked by [`NodeIdentity::load`].
    #[must_use]
    pub fn core_tls(&self) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .with_client_cert_verifier(self.clients.clone())
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }
}

fn load_roots(ca: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(ca)? {
        roots
            .add(certificate)
            .map_err(|error| IdentityError::Authority { path: ca.to_owned(), reason: error.into() })?;
    }
    Ok(roots)
}

/// Returns at least one certificate.
fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let error = |source| IdentityError::Certificate { path: path.to_owned(), source };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<_, _>>().map_err(error)?;
    if certificates.is_empty() { Err(error(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let file = secret_file::open_private(path, 0o007)?;
    PrivateKeyDer::from_pem_reader(file)
        .map_err(|source| IdentityError::Key { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
