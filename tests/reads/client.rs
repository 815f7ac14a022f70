//! A client of either protocol, what it does in one visit, and how bytes are written.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::http::Http;
use crate::smb::Smb;
use crate::truth::{Answer, Ask, Truth};

/// How long anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Smb,
}

/// A client's connection, through an edge.
pub(crate) enum Connection {
    Http(Http),
    Smb(Smb),
}

/// What a client does with its connection.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    pub(crate) path: String,
    /// What is asked for, in this order; `None` is the whole file.
    pub(crate) asks: Vec<Option<std::ops::Range<usize>>>,
    /// Requests at a time.
    pub(crate) depth: usize,
    /// Whether an SMB client opens the file although it has it open.
    pub(crate) anew: bool,
    /// After so many bytes of an answer the client is gone; with a reset, or in good order.
    pub(crate) hangs_up: Option<(usize, bool)>,
}

/// A visit on which all else is built.
pub(crate) const WHOLE: Visit =
    Visit { path: String::new(), asks: Vec::new(), depth: 1, anew: true, hangs_up: None };

impl Visit {
    /// The visit that asks for the file in whole.
    pub(crate) fn of_all(self) -> Self {
        Self { asks: vec![None], ..self }
    }
}

impl Connection {
    pub(crate) async fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(match protocol {
            Protocol::Http => Self::Http(Http::new(stream)),
            Protocol::Smb => Self::Smb(Smb::new(stream).await?),
        })
    }

    /// Asks for everything and checks every answer. Returns whether the connection is good for more, or how it broke.
    pub(crate) async fn visit(&mut self, truth: &Truth, visit: &Visit) -> io::Result<bool> {
        if let Self::Smb(smb) = self {
            smb.open(&visit.path, visit.anew).await?;
        }
        let (mut asked, mut answered) = (0, 0);
        while answered < visit.asks.len() {
            while asked < visit.asks.len() && asked - answered < visit.depth {
                let since = truth.now(&visit.path).0;
                let ask = Ask { path: visit.path.clone(), range: visit.asks[asked].clone(), since };
                match self {
                    Self::Http(http) => http.ask(ask).await?,
                    Self::Smb(smb) => smb.ask(ask).await?,
                }
                asked += 1;
            }
            let limit = visit.hangs_up.map_or(usize::MAX, |(limit, _)| limit);
            let mut answer = Answer::default();
            let (ask, ended) = match self {
                Self::Http(http) => http.answer(&mut answer, limit).await,
                Self::Smb(smb) => smb.answer(&mut answer, limit).await,
            };
            if let Some(ask) = &ask {
                truth.check(ask, &answer);
            }
            ended?;
            answered += 1;
            if let Some((_, resets)) = visit.hangs_up.filter(|_| !answer.whole) {
                if resets {
                    self.stream().set_zero_linger()?;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn stream(&self) -> &TcpStream {
        match self {
            Self::Http(http) => http.stream(),
            Self::Smb(smb) => smb.stream(),
        }
    }
}

/// Reads more than there is. The servers never close first, so an end in good order is never right: a flow that cannot be
/// completed has to be reset.
pub(crate) async fn read_more(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Writes bytes as they come from disks: whole, or in pieces with a little time between some of them.
pub(crate) async fn trickle(stream: &mut TcpStream, mut bytes: &[u8], dice: &mut Dice) -> io::Result<()> {
    let size = dice.pick(&[usize::MAX / 2, usize::MAX / 2, 200_000, 30_000]);
    while !bytes.is_empty() {
        let piece = bytes.split_off(..(1 + dice.below(size)).min(bytes.len())).expect("it is not longer");
        stream.write_all(piece).await?;
        if dice.chance(30) {
            sleep(dice.micros(100..40_000)).await;
        }
    }
    Ok(())
}

/// Fails if something takes too long.
pub(crate) async fn in_time<T>(what: &str, done: impl Future<Output = T>) -> T {
    timeout(LIMIT, done).await.unwrap_or_else(|_| panic!("{what} hangs"))
}
