//! A client that fetches one file over HTTP and keeps its hash, not its bytes.
//!
//! It reads heads with the parsers' own framing rules and bodies by `Content-Length` or chunks, as an ordinary client
//! does; a body that ends early is an error, never a shorter file.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wanigan_parsers::http1::{Body, Fault, HeadReader, MessageKind, Method, Piece, ResponseHead};

use super::Fetched;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The connection could not be made, or broke.
    #[error("talk to {server}")]
    Io {
        /// Where the client connected to.
        server: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The response is not HTTP/1, or of a length that one cannot tell.
    #[error("read the response")]
    Response(#[from] Fault),
    /// The server did not send the file.
    #[error("get the file: the server answered {0:?}")]
    Status(String),
}

/// Fetches `path`, which begins with a slash, over a new connection to `server`.
///
/// # Errors
/// [`FetchError`] unless the whole file came.
pub async fn fetch(server: SocketAddr, path: &str) -> Result<Fetched, FetchError> {
    let start = Instant::now();
    let (bytes, sha256) = Exchange::open(server, path).await?.read_file().await?;
    Ok(Fetched { bytes, sha256, elapsed: start.elapsed() })
}

struct Exchange {
    server: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of `buffer` is read and not taken.
    unread: std::ops::Range<usize>,
}

impl Exchange {
    async fn open(server: SocketAddr, path: &str) -> Result<Self, FetchError> {
        let io = |source| FetchError::Io { server, source };
        let mut stream = TcpStream::connect(server).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: wanigan-demo\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(io)?;
        Ok(Self { server, stream, buffer: vec![0; 256 << 10], unread: 0..0 })
    }

    async fn read_file(mut self) -> Result<(u64, [u8; 32]), FetchError> {
        let mut body = self.read_head().await?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        while !body.is_done() {
            if self.unread.is_empty() && self.fill().await? == 0 {
                // The connection's end is this body's end, or the file is cut short.
                if matches!(body, Body::UntilClose) {
                    break;
                }
                return Err(self.cut_short());
            }
            let input = &self.buffer[self.unread.clone()];
            let taken = match body.advance(input)? {
                Piece::Framing(len) => len,
                Piece::Content { len, .. } => {
                    hash.update(&input[..len]);
                    bytes += len as u64;
                    len
                }
            };
            self.unread.start += taken;
        }
        Ok((bytes, hash.finalize().into()))
    }

    /// Reads heads up to the final one and returns the body that follows.
    async fn read_head(&mut self) -> Result<Body, FetchError> {
        let mut reader = HeadReader::new(MessageKind::Response);
        loop {
            if self.unread.is_empty() && self.fill().await? == 0 {
                return Err(self.cut_short());
            }
            let (taken, stands) = reader.advance(&self.buffer[self.unread.clone()])?;
            self.unread.start += taken;
            if !stands {
                continue;
            }
            match ResponseHead::parse(reader.head(), Method::Other)? {
                ResponseHead::Final { framing, .. } if is_ok(reader.head()) => return Ok(Body::new(framing)),
                ResponseHead::Final { .. } | ResponseHead::Switched => {
                    return Err(FetchError::Status(status_line(reader.head())));
                }
                ResponseHead::Interim => reader.clear(),
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, FetchError> {
        let server = self.server;
        let len =
            self.stream.read(&mut self.buffer).await.map_err(|source| FetchError::Io { server, source })?;
        self.unread = 0..len;
        Ok(len)
    }

    fn cut_short(&self) -> FetchError {
        FetchError::Io { server: self.server, source: io::ErrorKind::UnexpectedEof.into() }
    }
}

fn is_ok(head: &[u8]) -> bool {
    head.get(b"HTTP/1.1 ".len()..).is_some_and(|status| status.starts_with(b"200"))
}

fn status_line(head: &[u8]) -> String {
    String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::demo::content_server::ContentServer;

    #[tokio::test]
    async fn a_file_comes_with_its_hash() {
        let server = ContentServer::bind().await.unwrap();
        let content: Vec<u8> = (0..1_000_000u32).map(|n| (n % 253).to_le_bytes()[0]).collect();
        server.put("/f", content.clone());
        let fetched = fetch(server.address(), "/f").await.unwrap();
        assert_eq!(fetched.bytes, 1_000_000);
        assert_eq!(fetched.sha256[..], Sha256::digest(&content)[..]);
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_status() {
        let server = ContentServer::bind().await.unwrap();
        let error = fetch(server.address(), "/f").await.unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
    }

    #[tokio::test]
    async fn interim_responses_and_chunks_are_read_as_any_client_does() {
        let response = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let fetched = fetch(once(response).await, "/").await.unwrap();
        assert_eq!((fetched.bytes, &fetched.sha256[..]), (3, &Sha256::digest("abc")[..]));
        let until_close = fetch(once("HTTP/1.0 200 OK\r\n\r\nabcd").await, "/").await.unwrap();
        assert_eq!(until_close.bytes, 4);
    }

    #[tokio::test]
    async fn a_body_cut_short_is_no_file() {
        for response in
            ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Le", ""]
        {
            let error = fetch(once(response).await, "/").await.unwrap_err();
            assert!(matches!(error, FetchError::Io { .. }), "{response:?}: {error}");
        }
    }

    /// A server that answers one request with these bytes and closes.
    async fn once(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        address
    }
}
