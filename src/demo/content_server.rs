//! A small web server whose files are held in memory, so that one can be changed in place.
//!
//! It serves GET and HEAD, one `Range` (RFC 9110 section 14), `If-Range` and `If-None-Match`, with the file's SHA-256 as
//! strong `ETag`. It knows nothing of Wanigan and is only for the demo and tests: no TLS, no directory, no upload.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct ContentServer {
    address: SocketAddr,
    files: Files,
    _running: DropGuard,
}

type Files = Arc<RwLock<HashMap<String, File>>>;

/// One version of a file.
#[derive(Debug, Clone)]
struct File {
    content: Bytes,
    /// With its quotes.
    etag: String,
}

impl ContentServer {
    /// Starts a server without files on a loopback port of its own.
    ///
    /// # Errors
    /// If no socket can be had.
    pub async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let files = Files::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&files));
        let running = CancellationToken::new();
        let stop = running.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(async { axum::serve(listener, router).await }).await;
        });
        Ok(Self { address, files, _running: running.drop_guard() })
    }

    /// Returns where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a file at `path`, which begins with a slash, in place of what was there. Responses under way keep the
    /// version that they began with.
    pub fn put(&self, path: &str, content: impl Into<Bytes>) {
        let file = File::new(content.into());
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), file);
    }
}

impl File {
    fn new(content: Bytes) -> Self {
        let digest = Sha256::digest(&content);
        let etag = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self { content, etag: format!("\"{etag}\"") }
    }
}

async fn answer(State(files): State<Files>, method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let file = files.read().unwrap_or_else(PoisonError::into_inner).get(uri.path()).cloned();
    let Some(file) = file else { return empty(StatusCode::NOT_FOUND) };
    let mut response = represent(&file, &headers);
    if let Ok(etag) = file.etag.parse() {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    if method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Answers GET with the file, a part of it, or the news that nothing changed.
fn represent(file: &File, headers: &HeaderMap) -> Response<Body> {
    if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',').any(|tag| matches!(tag.trim(), tag if tag == "*" || tag == file.etag))
    }) {
        return empty(StatusCode::NOT_MODIFIED);
    }
    let same = text(headers, header::IF_RANGE).is_none_or(|etag| etag == file.etag);
    match text(headers, header::RANGE).filter(|_| same).map(|range| part(range, file.content.len())) {
        None | Some(Part::All) => with_body(StatusCode::OK, file.content.clone(), None),
        Some(Part::Bytes { first, end }) => {
            let range = format!("bytes {first}-{}/{}", end - 1, file.content.len());
            with_body(StatusCode::PARTIAL_CONTENT, file.content.slice(first..end), Some(range))
        }
        Some(Part::Unsatisfiable) => {
            let range = format!("bytes */{}", file.content.len());
            with_body(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(range))
        }
    }
}

/// What a `Range` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Not understood, so ignored (RFC 9110 section 14.2); several ranges among it.
    All,
    /// These bytes, without `end`.
    Bytes {
        first: usize,
        end: usize,
    },
    Unsatisfiable,
}

fn part(range: &str, len: usize) -> Part {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::All;
    };
    let (first, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(len)),
        (Ok(first), Err(_)) if last.is_empty() => (first, len),
        (Err(_), Ok(suffix)) if first.is_empty() => (len.saturating_sub(suffix), len),
        _ => return Part::All,
    };
    if first < end { Part::Bytes { first, end } } else { Part::Unsatisfiable }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn with_body(status: StatusCode, content: Bytes, range: Option<String>) -> Response<Body> {
    let len = content.len();
    let mut response = Response::new(Body::from(content));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, len.into());
    if let Some(range) = range.and_then(|range| range.parse().ok()) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_file_is_served_whole_and_after_a_change_as_it_is_then() {
        let server = ContentServer::bind().await.unwrap();
        server.put("/a/f", "hello");
        let (head, body) = ask(&server, "GET /a/f", "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!((field(&head, "content-length"), &*body), (Some("5"), &b"hello"[..]));
        let before = field(&head, "etag").unwrap().to_owned();
        server.put("/a/f", "hallo");
        let (head, body) = ask(&server, "GET /a/f", "").await;
        assert_eq!(body, b"hallo");
        assert_ne!(field(&head, "etag"), Some(&*before));
    }

    #[tokio::test]
    async fn a_head_announces_the_body_that_a_get_would_bring() {
        let server = ContentServer::bind().await.unwrap();
        server.put("/f", "hello");
        let (head, body) = ask(&server, "HEAD /f", "").await;
        assert_eq!((field(&head, "content-length"), &*body), (Some("5"), &b""[..]));
    }

    #[tokio::test]
    async fn ranges_are_served_at_their_offset() {
        let server = ContentServer::bind().await.unwrap();
        server.put("/f", "0123456789");
        for (range, status, content_range, content) in [
            ("bytes=2-4", "206", Some("bytes 2-4/10"), "234"),
            ("bytes=8-", "206", Some("bytes 8-9/10"), "89"),
            ("bytes=-3", "206", Some("bytes 7-9/10"), "789"),
            ("bytes=0-99", "206", Some("bytes 0-9/10"), "0123456789"),
            ("bytes=10-", "416", Some("bytes */10"), ""),
            ("bytes=0-1,4-5", "200", None, "0123456789"),
            ("lines=0-1", "200", None, "0123456789"),
            ("bytes=4-2", "200", None, "0123456789"),
        ] {
            let (head, body) = ask(&server, "GET /f", &format!("Range: {range}\r\n")).await;
            assert_eq!(head.split(' ').nth(1), Some(status), "{range}");
            assert_eq!(field(&head, "content-range"), content_range, "{range}");
            assert_eq!(body, content.as_bytes(), "{range}");
        }
    }

    #[tokio::test]
    async fn conditions_compare_the_etag() {
        let server = ContentServer::bind().await.unwrap();
        server.put("/f", "hello");
        let (head, _) = ask(&server, "GET /f", "").await;
        let etag = field(&head, "etag").unwrap();
        let (head, body) = ask(&server, "GET /f", &format!("If-None-Match: \"x\", {etag}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
        assert_eq!(body, b"");
        let range = "Range: bytes=0-0\r\nIf-Range: ";
        assert_eq!(ask(&server, "GET /f", &format!("{range}{etag}\r\n")).await.1, b"h");
        assert_eq!(ask(&server, "GET /f", &format!("{range}\"other\"\r\n")).await.1, b"hello");
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_served_is_refused() {
        let server = ContentServer::bind().await.unwrap();
        server.put("/f", "hello");
        assert!(ask(&server, "GET /g", "").await.0.starts_with("HTTP/1.1 404 "));
        assert!(ask(&server, "DELETE /f", "").await.0.starts_with("HTTP/1.1 405 "));
    }

    async fn ask(server: &ContentServer, request: &str, fields: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let body = response.split_off(end);
        (String::from_utf8(response).unwrap(), body)
    }

    fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}
