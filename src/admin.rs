//! The address for operators: `/metrics` in the text format of Prometheus, `/healthz`, and `/peers`, which `wanigan
//! peers` reads.
//!
//! It tells figures, and names and addresses of peers, never what is in files or who reads them, and it takes no
//! commands. It has no access control, so it belongs on loopback or on a management network. Connections are few and short-lived by force: beyond [`CONNECTIONS_MAX`] the next waits, and
//! one that lives longer than [`CONNECTION_SECONDS_MAX`] is closed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::listener::Bounded;

mod listener;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long one may live: a scrape takes milliseconds, and a client that dawdles must not keep others out.
const CONNECTION_SECONDS_MAX: u64 = 60;

/// Why the address does not serve.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not this machine's.
    #[error("listen on {listen} for operators")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The listener broke.
    #[error("serve operators")]
    Serve(#[source] io::Error),
}

/// The listener for operators, bound.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    registry: Registry,
    peers: Option<PeerSource>,
}

/// One peer of an edge, as `/peers` tells it: a list of these in JSON, with these names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// What tells it from all others, in hexadecimal.
    pub id: String,
    /// The name in its certificate, empty while it has shown none.
    pub name: String,
    /// The site in its certificate, empty while it has shown none.
    pub site: String,
    /// Where it was reached last.
    pub address: String,
    /// Whether a connection to it stands.
    pub connected: bool,
    /// Blocks it gave.
    pub blocks_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Blocks it was given.
    pub blocks_served: u64,
    /// Their bytes.
    pub bytes_served: u64,
    /// Blocks that were not what it said they were.
    pub wrong: u64,
    /// Requests that a broken connection or silence ended.
    pub lost: u64,
    /// From a request to the whole block, as it has been taking; `None` before it gave one.
    pub latency_seconds: Option<f64>,
    /// How long it is still not asked because of what it did; `None` while it is.
    pub shunned_seconds: Option<f64>,
}

/// Tells the peers of this moment.
#[derive(Clone)]
struct PeerSource(Arc<dyn Fn() -> Vec<PeerReport> + Send + Sync>);

impl fmt::Debug for PeerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSource")
    }
}

impl Admin {
    /// Binds the address; nothing is answered before [`Admin::serve`].
    ///
    /// # Errors
    /// [`AdminError::Bind`].
    pub async fn bind(listen: SocketAddr, registry: Registry) -> Result<Self, AdminError> {
        let listener =
            TcpListener::bind(listen).await.map_err(|source| AdminError::Bind { listen, source })?;
        Ok(Self { listener, registry, peers: None })
    }

    /// Has `/peers` tell what `source` returns; it is called for each request and must not wait. Without, there is no
    /// such page: the node has no peers.
    #[must_use]
    pub fn with_peers(mut self, source: impl Fn() -> Vec<PeerReport> + Send + Sync + 'static) -> Self {
        self.peers = Some(PeerSource(Arc::new(source)));
        self
    }

    /// Returns the address, with its port where the system chose it.
    ///
    /// # Errors
    /// The system's word.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped.
    ///
    /// While the node stops, `/healthz` says so, and figures can still be read.
    ///
    /// # Errors
    /// [`AdminError::Serve`].
    pub async fn serve(self, stopping: CancellationToken) -> Result<(), AdminError> {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/peers", get(peers))
            .with_state(Node { registry: self.registry, stopping, peers: self.peers });
        let age = Duration::from_secs(CONNECTION_SECONDS_MAX);
        axum::serve(Bounded::new(self.listener, CONNECTIONS_MAX, age), routes)
            .await
            .map_err(AdminError::Serve)
    }
}

/// What the answers are made of.
#[derive(Clone)]
struct Node {
    registry: Registry,
    stopping: CancellationToken,
    peers: Option<PeerSource>,
}

async fn metrics(State(node): State<Node>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&node.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(node): State<Node>) -> (StatusCode, &'static str) {
    if node.stopping.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn peers(State(node): State<Node>) -> impl IntoResponse {
    let Some(PeerSource(source)) = node.peers else {
        return (StatusCode::NOT_FOUND, "this node has no peers\n").into_response();
    };
    match serde_json::to_string(&source()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn metrics_are_served_as_text() {
        let (address, _) = start().await;
        let answer = get(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        let version = env!("CARGO_PKG_VERSION");
        assert!(answer.contains(&format!("\nwanigan_build_info{{version=\"{version}\"}} 1\n")), "{answer}");
        assert!(answer.contains("\nprocess_resident_memory_bytes "), "{answer}");
        assert!(answer.contains("\nwanigan_opaque_bytes_total{reason=\"framing\"} 0\n"), "{answer}");
    }

    #[tokio::test]
    async fn health_is_ok_until_the_node_stops() {
        let (address, stopping) = start().await;
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        stopping.cancel();
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("stopping\n"), "{answer}");
    }

    #[tokio::test]
    async fn peers_are_told_as_they_are_at_each_request() {
        let (address, _) = start().await;
        assert!(get(address, "/peers").await.starts_with("HTTP/1.1 404 "), "a node without peers");
        let requests = AtomicU64::new(0);
        let admin = bind().await.with_peers(move || {
            vec![PeerReport {
                id: "0a".into(),
                name: "porto-gw".into(),
                site: "porto".into(),
                address: "[fd00::7]:7747".into(),
                connected: true,
                blocks_received: requests.fetch_add(1, Ordering::Relaxed),
                bytes_received: 0,
                blocks_served: 0,
                bytes_served: u64::MAX,
                wrong: 0,
                lost: 0,
                latency_seconds: Some(0.5),
                shunned_seconds: None,
            }]
        });
        let address = admin.local_addr().unwrap();
        tokio::spawn(admin.serve(CancellationToken::new()));
        for request in 0..2 {
            let answer = get(address, "/peers").await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("content-type: application/json"), "{head}");
            let peers: Vec<PeerReport> = serde_json::from_str(body).unwrap();
            assert_eq!((peers[0].blocks_received, peers[0].bytes_served), (request, u64::MAX));
            assert!(body.contains(r#""latency_seconds":0.5,"shunned_seconds":null"#), "{body}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_not_found() {
        let (address, _) = start().await;
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn an_address_in_use_is_an_error_that_names_it() {
        let (address, _) = start().await;
        let error = Admin::bind(address, Registry::new()).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    async fn start() -> (SocketAddr, CancellationToken) {
        let admin = bind().await;
        let (address, stopping) = (admin.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(admin.serve(stopping.clone()));
        (address, stopping)
    }

    async fn bind() -> Admin {
        let listen = "127.0.0.1:0".parse().unwrap();
        Admin::bind(listen, Metrics::new().registry().clone()).await.unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
