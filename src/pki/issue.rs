//! The authority: makes its own certificate once, and one for each node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::{CORE_NAME, EDGE_NAME, NodeName, Roles, SiteName, URI_SCHEME};
use crate::secret_file::{self, SecretFileError};

/// The directory of the authority: `ca.pem`, and `ca.key`, whose owner can make nodes.
#[derive(Debug, Clone)]
pub struct Authority {
    dir: PathBuf,
}

/// Where [`Authority`] put what it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file is in the way. Nothing was written.
    #[error("write {}: it exists, and is never overwritten", .0.display())]
    Exists(PathBuf),
    /// There is no authority in the directory.
    #[error("read {}: make an authority with `wanigan pki init` first", .path.display())]
    NoAuthority {
        /// The file that is missing or unreadable.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The authority's certificate or key is damaged, or of a kind that cannot sign.
    #[error("use the authority in {}", .dir.display())]
    BadAuthority {
        /// The directory.
        dir: PathBuf,
        /// The reason.
        source: rcgen::Error,
    },
    /// A certificate could not be made: our bug.
    #[error("make the certificate")]
    Make(#[from] rcgen::Error),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] SecretFileError),
}

impl Authority {
    /// Names the directory; touches nothing.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the authority's key and certificate, and the directory where it is missing.
    ///
    /// # Errors
    /// [`IssueError`]; an authority that exists is never overwritten.
    pub fn init(&self) -> Result<Issued, IssueError> {
        let mut params = params("Wanigan CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        secret_file::create_private_dir(&self.dir)?;
        self.write("ca", &certificate.pem(), &key.serialize_pem())
    }

    /// Issues a node its certificate.
    ///
    /// # Errors
    /// [`IssueError`]; files that exist are never overwritten.
    pub fn issue(&self, name: &NodeName, site: &SiteName, roles: Roles) -> Result<Issued, IssueError> {
        let bad = |source| IssueError::BadAuthority { dir: self.dir.clone(), source };
        let ca_key = KeyPair::from_pem(&self.read("ca.key")?).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_pem(&self.read("ca.pem")?, ca_key).map_err(bad)?;
        let key = KeyPair::generate()?;
        let certificate = node_params(name, site, roles)?.signed_by(&key, &issuer)?;
        self.write(name.as_str(), &certificate.pem(), &key.serialize_pem())
    }

    fn read(&self, name: &str) -> Result<String, IssueError> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).map_err(|source| IssueError::NoAuthority { path, source })
    }

    /// The key goes first: a certificate without a key is of no use to anyone.
    fn write(&self, stem: &str, certificate: &str, key: &str) -> Result<Issued, IssueError> {
        let issued = Issued {
            certificate: self.dir.join(format!("{stem}.pem")),
            key: self.dir.join(format!("{stem}.key")),
        };
        for path in [&issued.key, &issued.certificate] {
            if path.symlink_metadata().is_ok() {
                return Err(IssueError::Exists(path.clone()));
            }
        }
        secret_file::write_new(&issued.key, 0o600, key.as_bytes())?;
        secret_file::write_new(&issued.certificate, 0o644, certificate.as_bytes())?;
        Ok(issued)
    }
}

fn node_params(name: &NodeName, site: &SiteName, roles: Roles) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::URI(format!("{URI_SCHEME}{site}/{name}").try_into()?)];
    for (role, dns_name) in [(roles.edge, EDGE_NAME), (roles.core, CORE_NAME)] {
        if role {
            params.subject_alt_names.push(SanType::DnsName(dns_name.try_into()?));
        }
    }
    Ok(params)
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::super::peer_identity;
    use super::*;

    #[test]
    fn what_is_issued_reads_back_as_the_identity_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::at(dir.path());
        authority.init().unwrap();
        for (name, roles) in [("gw", Roles::EDGE), ("hq.example", Roles::CORE), ("b-0", Roles::BOTH)] {
            let (name, site) = (name.parse().unwrap(), "lisbon".parse().unwrap());
            let issued = authority.issue(&name, &site, roles).unwrap();
            let der = CertificateDer::from_pem_file(issued.certificate).unwrap();
            let identity = peer_identity(&der).unwrap();
            assert_eq!((identity.name, identity.site, identity.roles), (name, site, roles));
        }
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::at(&dir.path().join("pki"));
        let name = "gw".parse().unwrap();
        for issued in
            [authority.init().unwrap(), authority.issue(&name, &SiteName::from(&name), Roles::EDGE).unwrap()]
        {
            assert_eq!(fs::metadata(&issued.key).unwrap().mode() & 0o7777, 0o600);
        }
        assert_eq!(fs::metadata(dir.path().join("pki")).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::at(dir.path());
        let key = fs::read(authority.init().unwrap().key).unwrap();
        assert!(matches!(authority.init(), Err(IssueError::Exists(_))));
        let ca = "ca".parse().unwrap();
        assert!(matches!(
            authority.issue(&ca, &SiteName::from(&ca), Roles::EDGE),
            Err(IssueError::Exists(_))
        ));
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), key);
    }

    #[test]
    fn issuing_without_an_authority_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let name = "gw".parse().unwrap();
        let error = Authority::at(dir.path()).issue(&name, &SiteName::from(&name), Roles::EDGE).unwrap_err();
        assert!(error.to_string().contains("wanigan pki init"), "{error}");
    }
}
