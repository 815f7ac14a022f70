//! One TLS connection to a peer over TCP, driven by the task that owns it.
//!
//! Nothing here waits but [`Channel::ready`] and the handshake: reading and writing take what the socket gives at this
//! moment, so the owner can attend to other things in one `select!` without losing bytes. What is sent goes from
//! where it lies through one encryption into the socket; what arrives is decrypted in place and lent to the owner.
//!
//! It knows no frame. What can go wrong: the socket breaks, or the other side breaks TLS or is not who it should be.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use crate::metrics::PeerMetrics;
use crate::pki::{PEER_ALPN, PeerIdentity, PeerIdentityError, peer_identity};
use crate::proof::{EXPORTER_LABEL, Exporter};

/// A connection to a peer whose certificate was accepted.
#[derive(Debug)]
pub(super) struct Channel {
    tcp: TcpStream,
    tls: Connection,
    tally: Tally,
}

/// Bytes that the socket carried.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    received: u64,
    /// Where they are counted, once it is known that they are to be.
    counted: Option<(IntCounter, IntCounter)>,
}

impl Tally {
    fn add(&mut self, sent: usize, received: usize) {
        let (sent, received) = (sent as u64, received as u64);
        match &self.counted {
            Some(counted) => {
                counted.0.inc_by(sent);
                counted.1.inc_by(received);
            }
            None => {
                self.sent += sent;
                self.received += received;
            }
        }
    }
}

/// Why there is no channel, or none any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The socket's word.
    #[error("socket")]
    Io(#[from] io::Error),
    /// The other side broke TLS, refused this one, or is refused itself.
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    /// The other side speaks another protocol.
    #[error("no peer's protocol was agreed on")]
    Protocol,
    /// The certificate is not a node's.
    #[error("certificate")]
    Certificate(#[from] PeerIdentityError),
    /// The other side closed the connection.
    #[error("closed")]
    Closed,
}

impl Channel {
    /// Shakes hands as the side that dialled.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(super) async fn connect(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<Self, ChannelError> {
        // It is not sent: the verifier knows the peer by its key.
        let name = ServerName::try_from("peer.wanigan.internal").expect("the name is a valid one");
        Self::handshake(tcp, ClientConnection::new(config, name)?.into()).await
    }

    /// Shakes hands as the side that was dialled.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub(super) async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, ChannelError> {
        Self::handshake(tcp, ServerConnection::new(config)?.into()).await
    }

    async fn handshake(tcp: TcpStream, tls: Connection) -> Result<Self, ChannelError> {
        let mut channel = Self { tcp, tls, tally: Tally::default() };
        while channel.tls.is_handshaking() || channel.tls.wants_write() {
            if let Err(error) = channel.advance().await {
                channel.refuse().await;
                return Err(error);
            }
        }
        if channel.tls.alpn_protocol() == Some(PEER_ALPN) { Ok(channel) } else { Err(ChannelError::Protocol) }
    }

    async fn advance(&mut self) -> Result<(), ChannelError> {
        self.flush()?;
        if !self.tls.is_handshaking() && !self.tls.wants_write() {
            return Ok(());
        }
        if self.ready(self.tls.wants_read()).await?.is_readable() {
            match self.tls.read_tls(&mut Now(&self.tcp)) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(count) => self.tally.add(0, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    /// Sends the alert that says why, and leaves the other side a moment to read it: if the socket were closed over
    /// bytes that were not read, the kernel would drop the alert.
    async fn refuse(&mut self) {
        let _ = self.flush();
        let drained = async {
            let mut buffer = [0; 1_024];
            while self.tcp.readable().await.is_ok() {
                match self.tcp.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(REFUSE_LINGER, drained).await;
    }

    /// Returns what binds proofs to this connection.
    ///
    /// # Errors
    /// TLS's, which a whole handshake does not give.
    pub(super) fn exporter(&self) -> Result<Exporter, ChannelError> {
        Ok(self.tls.export_keying_material([0; 32], EXPORTER_LABEL, None)?)
    }

    /// Has the bytes that the socket carried, and will carry, counted: the other side is at another site.
    pub(super) fn count_off_site(&mut self, metrics: &PeerMetrics) {
        let counted = (metrics.off_site_sent_bytes.clone(), metrics.off_site_received_bytes.clone());
        counted.0.inc_by(std::mem::take(&mut self.tally.sent));
        counted.1.inc_by(std::mem::take(&mut self.tally.received));
        self.tally.counted = Some(counted);
    }

    /// Returns what the other side's certificate says.
    ///
    /// # Errors
    /// When it is not a node's, which the handshake has checked.
    pub(super) fn identity(&self) -> Result<PeerIdentity, ChannelError> {
        let certificate = self.tls.peer_certificates().and_then(|chain| chain.first());
        Ok(peer_identity(certificate.ok_or(PeerIdentityError::Malformed)?)?)
    }

    /// Encrypts bytes that stand in two places as one run of records. They go with [`Channel::flush`].
    ///
    /// The ciphertext is held until then: whoever sends much waits for [`Channel::is_flushed`] in between.
    ///
    /// # Errors
    /// TLS's, when the connection is closed.
    pub(super) fn send(&mut self, head: &[u8], bytes: &[u8]) -> Result<(), ChannelError> {
        self.tls.set_buffer_limit(None);
        let mut parts = [IoSlice::new(head), IoSlice::new(bytes)];
        let mut rest = &mut parts[..];
        while rest.iter().any(|part| !part.is_empty()) {
            match self.tls.writer().write_vectored(rest)? {
                0 => return Err(ChannelError::Closed),
                written => IoSlice::advance_slices(&mut rest, written),
            }
        }
        Ok(())
    }

    /// Returns whether all that was sent is with the kernel.
    #[must_use]
    pub(super) fn is_flushed(&self) -> bool {
        !self.tls.wants_write()
    }

    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Now(&self.tcp)) {
                Ok(count) => self.tally.add(count, 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until there are bytes to receive, if they are `wanted`, or the socket takes some, if there are any to write.
    ///
    /// # Errors
    /// The socket's.
    pub(super) async fn ready(&self, wanted: bool) -> io::Result<Ready> {
        if wanted && !self.tls.wants_read() {
            // They are here already, read together with the end of the handshake.
            return Ok(Ready::READABLE);
        }
        match (wanted, self.tls.wants_write()) {
            (true, true) => self.tcp.ready(Interest::READABLE | Interest::WRITABLE).await,
            (true, false) => self.tcp.ready(Interest::READABLE).await,
            (false, true) => self.tcp.ready(Interest::WRITABLE).await,
            (false, false) => std::future::pending().await,
        }
    }

    /// Hands `take` what has arrived: so many reads from the socket at most, of one TLS record or somewhat more each.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] at the end of the connection, other variants when it broke, and what `take` says.
    pub(super) fn receive<E: From<ChannelError>>(
        &mut self,
        reads: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.hand_over(&mut take)?;
        for _ in 0..reads {
            match self.tls.read_tls(&mut Now(&self.tcp)) {
                Ok(0) => return Err(ChannelError::Closed.into()),
                Ok(count) => self.tally.add(0, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(ChannelError::from(error).into()),
            }
            self.tls.process_new_packets().map_err(ChannelError::from)?;
            self.hand_over(&mut take)?;
        }
        Ok(())
    }

    /// Hands over what is decrypted.
    fn hand_over<E: From<ChannelError>>(
        &mut self,
        take: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.tls.reader();
        loop {
            match reader.fill_buf() {
                Ok([]) => return Err(ChannelError::Closed.into()),
                Ok(bytes) => {
                    let len = bytes.len();
                    take(bytes)?;
                    reader.consume(len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(ChannelError::from(error).into()),
            }
        }
    }
}

/// A socket as `std::io` sees one that never waits.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long a refused node has to read why.
const REFUSE_LINGER: Duration = Duration::from_millis(200);
