//! The TCP legs of a connection: dial a server, copy both ways, reset.
//!
//! [`relay`] is the plain two-way copy of connections that take no link. It knows no protocol. A half close is passed
//! on as one, a reset as a reset, never as the FIN that an application might take for the end of a message. A reader
//! that stops stops the writer, through TCP's own windows: at most 64 KiB a direction are held here. Nothing times
//! out: an idle connection lasts as long as both ends want it, and keepalive finds ends that are gone.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};
use wanigan_parsers::Direction;

use crate::addr::ServerAddr;
use crate::fault::ResetReason;

/// The firewall mark (`SO_MARK`) of every connection Wanigan dials, so that its interception rules never catch them.
/// The low byte is not compared.
pub const MARK: u32 = 0x7761_6e00;

/// What became of a relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes written to the server.
    pub to_server: u64,
    /// Bytes written to the client.
    pub to_client: u64,
    /// The leg that broke, if both directions did not end with a FIN. The other leg was reset.
    pub reset: Option<ResetReason>,
}

/// Connects to a server, with [`MARK`] where this process may set it, so that no rule of ours catches the
/// connection.
///
/// # Errors
/// What connect(2) says, and `TimedOut` when the server does not answer in time.
pub async fn dial(server: ServerAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server.0), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match socket.set_mark(MARK) {
        // Without the capability there are no rules of ours either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        result => result?,
    }
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(server.0);
    let stream = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    prepare(&stream)?;
    Ok(stream)
}

/// Sets what every leg has: no delay of small segments, and keepalive.
///
/// # Errors
/// When the connection is already gone.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Closes a connection with RST. Unsent bytes are dropped.
pub fn reset(stream: TcpStream) {
    // It fails only on a connection that is gone.
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Copies both ways until both directions ended or a leg broke; `first` goes to the server before anything else.
///
/// `count` is told of bytes as they are written, by direction. A relay that is dropped resets both legs.
pub async fn relay(
    client: TcpStream,
    server: TcpStream,
    first: Bytes,
    count: impl Fn(Direction, u64) + Send + Sync,
) -> Relayed {
    let (mut to_server, mut to_client) = (0, 0);
    // From here on every exit but the orderly one resets, a panic and a killed process included.
    let _ = client.set_zero_linger();
    let _ = server.set_zero_linger();
    let ended = {
        let upward =
            Copy { from: Leg::client(&client), to: Leg::server(&server), direction: Direction::ToServer };
        let downward =
            Copy { from: Leg::server(&server), to: Leg::client(&client), direction: Direction::ToClient };
        tokio::select! {
            ended = async { tokio::try_join!(
                upward.run(&first, &mut to_server, &count),
                downward.run(&[], &mut to_client, &count),
            ) } => ended.map(|_| ()),
            reason = broken(&client, &server) => Err(reason),
        }
    };
    let reset = ended.err();
    match reset {
        None => {
            let _ = SockRef::from(&client).set_linger(None);
            let _ = SockRef::from(&server).set_linger(None);
        }
        // What came before the reset is on its way to the other leg; without this it would be dropped here.
        Some(_) => tokio::time::sleep(SETTLE).await,
    }
    Relayed { to_server, to_client, reset }
}

/// A stream and the blame for its failures.
#[derive(Clone, Copy)]
struct Leg<'a> {
    stream: &'a TcpStream,
    blame: ResetReason,
}

impl<'a> Leg<'a> {
    fn client(stream: &'a TcpStream) -> Self {
        Self { stream, blame: ResetReason::ClientLeg }
    }

    fn server(stream: &'a TcpStream) -> Self {
        Self { stream, blame: ResetReason::ServerLeg }
    }

    async fn write_all(self, mut bytes: &[u8]) -> Result<(), ResetReason> {
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(|_| self.blame)?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.blame),
            }
        }
        Ok(())
    }
}

/// One direction.
struct Copy<'a> {
    from: Leg<'a>,
    to: Leg<'a>,
    direction: Direction,
}

impl Copy<'_> {
    async fn run(
        self,
        first: &[u8],
        total: &mut u64,
        count: &(impl Fn(Direction, u64) + Sync),
    ) -> Result<(), ResetReason> {
        self.write(first, total, count).await?;
        loop {
            self.from.stream.readable().await.map_err(|_| self.from.blame)?;
            // Taken when bytes are there and given back when they are through: ten thousand idle connections hold
            // no buffers.
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            loop {
                match self.from.stream.try_read_buf(&mut buffer) {
                    Ok(0) => {
                        return SockRef::from(self.to.stream)
                            .shutdown(Shutdown::Write)
                            .map_err(|_| self.to.blame);
                    }
                    Ok(_) => self.write(&buffer, total, count).await?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Err(self.from.blame),
                }
                buffer.clear();
            }
        }
    }

    async fn write(
        &self,
        bytes: &[u8],
        total: &mut u64,
        count: &(impl Fn(Direction, u64) + Sync),
    ) -> Result<(), ResetReason> {
        if !bytes.is_empty() {
            self.to.write_all(bytes).await?;
            let len = bytes.len() as u64;
            *total += len;
            count(self.direction, len);
        }
        Ok(())
    }
}

/// Ends when a leg broke while nobody reads from it, because the other leg does not take what came before.
async fn broken(client: &TcpStream, server: &TcpStream) -> ResetReason {
    let reason = tokio::select! {
        _ = client.ready(Interest::ERROR) => ResetReason::ClientLeg,
        _ = server.ready(Interest::ERROR) => ResetReason::ServerLeg,
    };
    // Otherwise the copy itself meets the error, after the bytes before it.
    tokio::time::sleep(BROKEN_GRACE).await;
    reason
}

const BUFFER_BYTES: usize = 64 * 1024;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 8;
/// How long bytes that were written have to leave before a reset would drop them.
pub const SETTLE: Duration = Duration::from_millis(50);
const BROKEN_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A client and a server with a relay between them.
    struct Relay {
        client: TcpStream,
        server: TcpStream,
        relay: JoinHandle<Relayed>,
    }

    impl Relay {
        async fn start(first: &'static [u8]) -> Self {
            let (client, client_leg) = pair().await;
            let (server, server_leg) = pair().await;
            let relay = tokio::spawn(relay(client_leg, server_leg, Bytes::from_static(first), |_, _| {}));
            Self { client, server, relay }
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = dial(ServerAddr(listener.local_addr().unwrap()), Duration::from_secs(5)).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn read_kind(stream: &mut TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
        read.await.expect("the relay passes the end on").map(|_| bytes).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_half_close_leaves_the_other_direction_open() {
        let mut r = Relay::start(b"").await;
        r.client.write_all(b"request").await.unwrap();
        r.client.shutdown().await.unwrap();
        assert_eq!(read_kind(&mut r.server).await.unwrap(), b"request");
        r.server.write_all(b"response").await.unwrap();
        r.server.shutdown().await.unwrap();
        assert_eq!(read_kind(&mut r.client).await.unwrap(), b"response");
        assert_eq!(r.relay.await.unwrap(), Relayed { to_server: 7, to_client: 8, reset: None });
    }

    #[tokio::test]
    async fn first_bytes_reach_the_server_before_the_clients() {
        let mut r = Relay::start(b"first ").await;
        r.client.write_all(b"then").await.unwrap();
        r.client.shutdown().await.unwrap();
        assert_eq!(read_kind(&mut r.server).await.unwrap(), b"first then");
    }

    #[tokio::test]
    async fn a_reset_of_the_server_resets_the_client_after_the_bytes_before_it() {
        let mut r = Relay::start(b"").await;
        r.server.write_all(b"early answer").await.unwrap();
        reset(r.server);
        let mut bytes = [0; 12];
        r.client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"early answer");
        assert_eq!(read_kind(&mut r.client).await, Err(io::ErrorKind::ConnectionReset));
        assert_eq!(r.relay.await.unwrap().reset, Some(ResetReason::ServerLeg));
    }

    #[tokio::test]
    async fn a_reset_of_the_client_resets_the_server() {
        let mut r = Relay::start(b"").await;
        reset(r.client);
        assert_eq!(read_kind(&mut r.server).await, Err(io::ErrorKind::ConnectionReset));
        assert_eq!(r.relay.await.unwrap().reset, Some(ResetReason::ClientLeg));
    }

    #[tokio::test]
    async fn a_reset_is_noticed_while_the_other_leg_takes_nothing() {
        let mut r = Relay::start(b"").await;
        let flood = async { while r.client.write_all(&[7; 65536]).await.is_ok() {} };
        assert!(
            tokio::time::timeout(Duration::from_millis(500), flood).await.is_err(),
            "the server reads nothing"
        );
        reset(r.client);
        let relayed = tokio::time::timeout(Duration::from_secs(10), r.relay).await.unwrap().unwrap();
        assert_eq!(relayed.reset, Some(ResetReason::ClientLeg));
        assert_eq!(read_kind(&mut r.server).await, Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_dropped_relay_resets_both_legs() {
        let mut r = Relay::start(b"").await;
        r.client.write_all(b"x").await.unwrap();
        r.server.read_exact(&mut [0]).await.unwrap();
        r.relay.abort();
        assert_eq!(read_kind(&mut r.server).await, Err(io::ErrorKind::ConnectionReset));
        assert_eq!(read_kind(&mut r.client).await, Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn megabytes_arrive_whole_both_ways_and_are_counted_as_they_go() {
        static COUNTED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
        const LEN: usize = 8 << 20;
        let (mut client, client_leg) = pair().await;
        let (mut server, server_leg) = pair().await;
        let relay = tokio::spawn(relay(client_leg, server_leg, Bytes::new(), |direction, bytes| {
            COUNTED[usize::from(direction == Direction::ToClient)].fetch_add(bytes, Ordering::Relaxed);
        }));
        let sent: Vec<u8> = (0..LEN).map(|i| (i / 251 + i) as u8).collect();
        let half = sent[..LEN / 2].to_vec();
        let echo = tokio::spawn(async move {
            let mut bytes = vec![0; LEN / 2];
            server.read_exact(&mut bytes).await.unwrap();
            assert!(COUNTED[0].load(Ordering::Relaxed) > 0, "counted before the end");
            server.write_all(&bytes).await.unwrap();
            let rest = read_kind(&mut server).await.unwrap();
            server.write_all(&rest).await.unwrap();
        });
        client.write_all(&sent[..LEN / 2]).await.unwrap();
        let mut back = vec![0; LEN / 2];
        client.read_exact(&mut back).await.unwrap();
        assert!(back == half);
        let (mut read, mut write) = client.into_split();
        let rest = sent[LEN / 2..].to_vec();
        let writer = tokio::spawn(async move {
            write.write_all(&rest).await.unwrap();
            write.shutdown().await.unwrap();
            write
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        assert!(back == sent[LEN / 2..]);
        echo.await.unwrap();
        drop(writer.await.unwrap());
        let whole = Relayed { to_server: LEN as u64, to_client: LEN as u64, reset: None };
        assert_eq!(relay.await.unwrap(), whole);
        assert_eq!(COUNTED.each_ref().map(|counted| counted.load(Ordering::Relaxed)), [LEN as u64; 2]);
    }

    #[tokio::test]
    async fn a_dialled_connection_has_the_mark_where_permitted_and_what_every_leg_has() {
        let (stream, _peer) = pair().await;
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        let permitted = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().set_mark(1).is_ok();
        assert_eq!(socket.mark().unwrap(), if permitted { MARK } else { 0 });
    }

    #[tokio::test]
    async fn a_dial_reports_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = ServerAddr(listener.local_addr().unwrap());
        drop(listener);
        let error = dial(address, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
