//! Who nodes are to each other: certificates of one authority, made by `wanigan pki`.
//!
//! An operator makes an authority once ([`Authority::init`]) and issues each node a certificate ([`Authority::issue`]). It says
//! the node's name (common name), its site (URI `wanigan:SITE/NAME`) and its roles (DNS names `edge.wanigan.internal` and
//! `core.wanigan.internal`). A link is TLS 1.3 with certificates on both sides: the edge accepts only a core's, by the
//! ordinary check of the DNS name; the core accepts any of the authority's and then reads the roles with
//! [`peer_identity`]. A node's address plays no part, so nodes move freely.
//!
//! What this module refuses to know: configuration, sockets, QUIC. What it keeps from others: the TLS provider is
//! passed explicitly everywhere, so no process-wide default is ever looked at.
//!
//! Certificates do not expire and cannot be revoked one by one: a lost key means a new authority.

pub use self::identity::{PeerIdentity, PeerIdentityError, Roles, peer_identity};
pub use self::issue::{Authority, IssueError, Issued};
pub use self::name::{NameError, NodeName, SiteName};
pub use self::tls::{
    ALPN, CORE_SERVER_NAME, DomainClock, IdentityError, NodeIdentity, NotThePeer, PEER_ALPN, PeerClientTls,
};

mod identity;
mod issue;
mod name;
mod tls;

/// The DNS name in the certificate of a node with the core's role.
const CORE_NAME: &str = "core.wanigan.internal";
/// The DNS name in the certificate of a node with the edge's role.
const EDGE_NAME: &str = "edge.wanigan.internal";
/// Begins the URI `wanigan:SITE/NAME`.
const URI_SCHEME: &str = "wanigan:";
