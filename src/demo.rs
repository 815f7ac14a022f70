//! The demo's parts: what `make demo` puts around an edge and a core to show the main job on one machine.
//!
//! ```text
//!  http_client ── edge ── wan::UdpWan ── core ── content_server
//!  smbclient  ──/                            \── smbd (samba)
//!  http_client ────────── wan::TcpWan ────────── content_server        the direct row
//! ```
//!
//! All of it stays on loopback, needs no root and no configuration, and is gone with its handles: tasks, the private
//! `smbd` and its directory. The WAN counts its bytes itself, so that the figures do not rest on Wanigan's own. The
//! clients hash what they got; [`Fetched`] is what a row of the [`table`] is made of.
//!
//! What can go wrong: Samba is not installed, which [`samba::SambaError::Missing`] tells from a failure, so that the
//! demo can go on without its rows.

pub mod content_server;
pub mod http_client;
pub mod samba;
pub mod table;
pub mod wan;

use std::time::Duration;

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// From before the connection to the last byte.
    pub elapsed: Duration,
}
