//! Why bytes were not saved, why a connection went direct, why a flow was reset: closed sets, each value a metric label.

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
