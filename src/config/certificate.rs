//! Whether a certificate is the one for the node that a configuration describes.

use super::Config;
use crate::pki::{NodeName, PeerIdentity, Roles, SiteName};

/// Why a certificate is not for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It names another node or site: cores would take this node for that one.
    #[error("run as {name} of {site}: the certificate is for {} of {}", .found.0, .found.1)]
    OtherNode {
        /// The configured name.
        name: NodeName,
        /// The configured site.
        site: SiteName,
        /// The name and site of the certificate.
        found: Box<(NodeName, SiteName)>,
    },
    /// It lacks a role: the nodes at the other ends of links would refuse this one.
    #[error("take the role of {role}: the certificate is for {found}")]
    Role {
        /// The role.
        role: &'static str,
        /// The roles of the certificate.
        found: Roles,
    },
}

impl Config {
    /// Checks that a certificate is for this node and the roles it is to play.
    ///
    /// # Errors
    /// [`CertificateError`] when links made with it would be refused or misjudged.
    pub fn accepts_certificate(&self, certificate: &PeerIdentity) -> Result<(), CertificateError> {
        let PeerIdentity { name, site, roles, .. } = certificate;
        if (name, site) != (&self.node.name, &self.node.site) {
            let found = Box::new((name.clone(), site.clone()));
            let (name, site) = (self.node.name.clone(), self.node.site.clone());
            return Err(CertificateError::OtherNode { name, site, found });
        }
        match (self.edge.is_some() && !roles.edge, self.core.is_some() && !roles.core) {
            (true, _) => Err(CertificateError::Role { role: "edge", found: *roles }),
            (false, true) => Err(CertificateError::Role { role: "core", found: *roles }),
            (false, false) => Ok(()),
        }
    }
}
