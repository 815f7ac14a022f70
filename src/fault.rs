//! Why bytes were not saved, why a connection went direct, why a flow was reset: closed sets, each value a metric label.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use wanigan_parsers::wan::DialStatus;

/// What was warned of already, so that each is told once. Bounded: beyond [`Once::MAX`] nothing is told any more.
#[derive(Debug)]
pub struct Once<T> {
    seen: Mutex<HashSet<T>>,
}

impl<T: Eq + Hash> Once<T> {
    /// How many can be told.
    pub const MAX: usize = 256;

    /// Returns whether this is the first time, and remembers it.
    pub fn is_first(&self, what: T) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < Self::MAX && seen.insert(what)
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { seen: Mutex::default() }
    }
}

/// Declares a closed set of reasons whose snake-case names are metric labels.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, for metrics that export zeros from the start.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the metric label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

reasons! {
    /// What a flow speaks.
    Protocol {
        /// SMB 2.0.2 to 3.1.1.
        Smb2 = "smb2",
        /// CIFS.
        Smb1 = "smb1",
        /// HTTP/1.0 and 1.1.
        Http1 = "http1",
        /// TLS, HTTPS among it.
        Tls = "tls",
        /// Anything else, or not known yet.
        Other = "other",
    }
}

reasons! {
    /// Why bytes of a flow were passed on without a reference.
    OpaqueReason {
        /// Headers, requests, padding: bytes between content.
        Framing = "framing",
        /// A protocol without a shim.
        UnknownProtocol = "unknown_protocol",
        /// TLS records.
        Tls = "tls",
        /// SMB3 transform frames (MS-SMB2 2.2.41).
        SmbEncrypted = "smb_encrypted",
        /// SMB3 compressed frames (MS-SMB2 2.2.42).
        SmbCompressed = "smb_compressed",
        /// A READ response or WRITE request that failed a check of the shim: no pending READ, wrong sizes, RDMA.
        SmbUnmatched = "smb_unmatched",
        /// Data read from a named pipe.
        SmbPipe = "smb_pipe",
        /// SMB1.
        Smb1 = "smb1",
        /// The stream broke the protocol's framing; opaque from there on, or to the end of the frame if that is known.
        Malformed = "malformed",
        /// The shim's table of pending requests is full; opaque from there on.
        TooManyPending = "too_many_pending",
        /// An HTTP message whose framing is ambiguous (RFC 9112 section 6.3); opaque from there on.
        HttpAmbiguous = "http_ambiguous",
        /// HTTP after CONNECT or 101 Switching Protocols.
        HttpUpgraded = "http_upgraded",
        /// HTTP/2 with prior knowledge.
        Http2 = "http2",
        /// Content below the smallest block.
        TooSmall = "too_small",
        /// Content flushed before its block was whole, because the server paused.
        Stalled = "stalled",
        /// Content that was read in pieces smaller than a block; it is made a block when the rest has passed.
        Piecemeal = "piecemeal",
        /// The direction has no shim at work.
        NoShim = "no_shim",
    }
}

reasons! {
    /// Why a connection was relayed directly, outside the link.
    DirectReason {
        /// No route names the server.
        NoRoute = "no_route",
        /// The link to the core is down or does not answer.
        LinkDown = "link_down",
        /// No flow stream or no memory for another flow.
        Overload = "overload",
        /// The core may not dial that server for this edge.
        NotAllowed = "not_allowed",
        /// A dial by the core failed a moment ago.
        DialFailed = "dial_failed",
        /// The client is a core of this edge.
        FromCore = "from_core",
    }
}

reasons! {
    /// Why a core did not open a flow.
    FlowRefusal {
        /// The core may not dial that server for this edge.
        NotAllowed = "not_allowed",
        /// The connection was made by this core.
        Loop = "loop",
        /// No permit, memory or socket for another flow, or the core is stopping.
        Overload = "overload",
        /// The server refused the connection.
        Refused = "refused",
        /// The server did not answer in time.
        TimedOut = "timed_out",
        /// There is no way to the server.
        Unreachable = "unreachable",
    }
}

impl FlowRefusal {
    /// Returns the reason that a status tells the edge; `None` for one that is no refusal of this version's.
    #[must_use]
    pub fn of(status: DialStatus) -> Option<Self> {
        match status {
            DialStatus::NotAllowed => Some(Self::NotAllowed),
            DialStatus::Loop => Some(Self::Loop),
            DialStatus::Overloaded => Some(Self::Overload),
            DialStatus::Refused => Some(Self::Refused),
            DialStatus::TimedOut => Some(Self::TimedOut),
            DialStatus::Unreachable => Some(Self::Unreachable),
            DialStatus::Connected | DialStatus::Other(_) => None,
        }
    }
}

reasons! {
    /// Why a flow was reset on both legs.
    ResetReason {
        /// The client's leg was reset or broke.
        ClientLeg = "client_leg",
        /// The server's leg was reset or broke.
        ServerLeg = "server_leg",
        /// The core could not reach the server.
        DialFailed = "dial_failed",
        /// The link broke.
        LinkLost = "link_lost",
        /// The other node broke the protocol of the link.
        Protocol = "protocol",
        /// A reference could be resolved by nobody.
        Unresolved = "unresolved",
        /// The node is stopping.
        Stopping = "stopping",
    }
}

reasons! {
    /// Why a connection that arrived was not handed to a flow.
    AcceptFault {
        /// No file descriptor or no memory for it; the listener pauses briefly.
        Exhausted = "exhausted",
        /// The client was gone, or its network broke, before it was accepted.
        Aborted = "aborted",
        /// It was made to the listener itself: no packet filter sent it here.
        NotIntercepted = "not_intercepted",
        /// The name of the listener's fixed server has no address at this moment.
        Unresolved = "unresolved",
    }
}

reasons! {
    /// Why a datagram of discovery was met with silence.
    DiscoveryRefusal {
        /// From a source that is neither on the same link nor listed.
        OffLink = "off_link",
        /// More datagrams from this source, or from all, than the limits allow.
        Rate = "rate",
        /// Not a datagram of this protocol, or not of this version.
        Malformed = "malformed",
        /// An ask of our own that came back.
        Own = "own",
        /// A key id that no core of ours has told us, or an expired one.
        UnknownKey = "unknown_key",
        /// The domain's time is not known yet.
        NoTime = "no_time",
        /// A time outside the window, or from before this process began.
        Stale = "stale",
        /// A nonce that was seen.
        Replayed = "replayed",
        /// A table is full.
        Full = "full",
        /// This node shares nothing.
        NotSharing = "not_sharing",
        /// A tag was known and the proof beside it was wrong.
        WrongProof = "wrong_proof",
        /// An answer to nothing that was asked, or too late.
        Unexpected = "unexpected",
    }
}

reasons! {
    /// Why a peer was not served.
    ServeRefusal {
        /// The handshake failed, a stranger's certificate among the reasons.
        Handshake = "handshake",
        /// The certificate is not an edge's.
        NotAnEdge = "not_an_edge",
        /// As many connections or requests as are allowed.
        Busy = "busy",
        /// A frame that breaks the protocol.
        Malformed = "malformed",
        /// A tag that is not in the store, or of an expired key.
        UnknownTag = "unknown_tag",
        /// A proof that is not one for this tag on this connection.
        WrongProof = "wrong_proof",
    }
}

reasons! {
    /// What came of asking a peer for a block.
    GetOutcome {
        /// The block, verified.
        Block = "block",
        /// The peer does not have it, or says so.
        Gone = "gone",
        /// The peer has too much to do.
        Busy = "busy",
        /// The connection could not be made, broke, or fell silent.
        Lost = "lost",
        /// Bytes that are not the block. The peer is shunned.
        Wrong = "wrong",
        /// It came, but another source was faster.
        Late = "late",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_their_number_is_bounded() {
        let once = Once::default();
        assert_eq!([1, 2, 1].map(|n| once.is_first(n)), [true, true, false]);
        assert_eq!((0..1_000).filter(|n| once.is_first(*n)).count(), Once::<i32>::MAX - 2);
    }

    #[test]
    fn every_refusal_is_told_by_one_status() {
        let refusals = [
            DialStatus::NotAllowed,
            DialStatus::Loop,
            DialStatus::Overloaded,
            DialStatus::Refused,
            DialStatus::TimedOut,
            DialStatus::Unreachable,
        ];
        assert_eq!(refusals.map(|status| FlowRefusal::of(status).unwrap()), FlowRefusal::ALL);
        assert_eq!(FlowRefusal::of(DialStatus::Connected), None);
        assert_eq!(FlowRefusal::of(DialStatus::Other(7)), None);
    }
}
