//! Uploads through an edge and a core on loopback: what crosses the link the second time, what an edge has a right to
//! refer to, and what becomes of one that lies.
#![expect(clippy::unwrap_used, reason = "a panic is how a test and its helpers fail")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use wanigan::block::{KeyId, Reference, Secret, ServerSecret, digest};
use wanigan::config::Config;
use wanigan::demo::server::content;
use wanigan::drain::Drain;
use wanigan::metrics::{Metrics, Source};
use wanigan::node::{self, Running};
use wanigan::pki::{Authority, CORE_SERVER_NAME, NodeIdentity, Roles};
use wanigan::wan::frames::{FrameReader, read_frame, read_kind};
use wanigan::wan::transport::{TransportSettings, bind_client, transport_config};
use wanigan::wan::{FlowPort, FlowStream, Hello, Link, code};
use wanigan_parsers::wan::{Frame, StreamKind};

#[path = "support/nodes.rs"]
mod nodes;

use nodes::{configure, free_udp_address};

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

const FILE_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn the_second_upload_of_the_same_content_crosses_as_references() {
    let mut office = Office::start("").await;
    let file = content(FILE_BYTES, 1);
    let cold = office.upload("/one", &file).await;
    assert!(cold > FILE_BYTES as u64, "what the core does not have crosses in full: {cold}");
    assert_eq!(office.core().metrics().block_bytes(Source::Core), FILE_BYTES as u64);
    let warm = office.upload("/two", &file).await;
    assert!(warm <= FILE_BYTES as u64 / 50, "{warm} bytes crossed the second time");
    assert_eq!(office.core().metrics().block_bytes(Source::Store), FILE_BYTES as u64);
    assert!(office.server.file("/one") == file && office.server.file("/two") == file);
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_downloaded_is_uploaded_by_reference_and_what_was_uploaded_is_downloaded_so() {
    let mut office = Office::start("").await;
    let (down, up) = (content(FILE_BYTES, 2), content(FILE_BYTES, 3));
    office.server.put("/down", &down);
    assert!(office.download("/down").await.0 == down);
    let crossed = office.upload("/copy", &down).await;
    assert!(crossed <= FILE_BYTES as u64 / 50, "{crossed} bytes of a downloaded file crossed");
    office.upload("/up", &up).await;
    let (got, crossed) = office.download("/up").await;
    assert!(got == up && crossed <= FILE_BYTES as u64 / 50, "{crossed} bytes of an uploaded file crossed");
    assert_eq!(office.edge.metrics().block_bytes(Source::Store), FILE_BYTES as u64);
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_lost_its_store_fetches_from_the_edge_and_no_upload_fails() {
    let mut office = Office::start("").await;
    let (named, bare) = (content(FILE_BYTES, 4), content(FILE_BYTES, 5));
    office.server.put("/named", &named);
    office.download("/named").await;
    office.upload("/bare", &bare).await;
    office.restart_core().await;
    // The core told the names of what it gave: they hold across its restarts.
    office.upload("/named-again", &named).await;
    assert!(office.server.file("/named-again") == named);
    let fetched = office.core().metrics().block_bytes(Source::Fetch);
    assert!(fetched >= BLOCK_BYTES as u64, "nothing was fetched from the edge");
    // A digest alone holds on the link that it crossed.
    let before = office.core().metrics().block_bytes(Source::Core);
    office.upload("/bare-again", &bare).await;
    assert!(office.server.file("/bare-again") == bare);
    assert_eq!(office.core().metrics().block_bytes(Source::Core) - before, FILE_BYTES as u64);
    assert_eq!(office.core().metrics().refused_references.get(), 0);
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_without_room_gets_the_right_bytes_all_the_same() {
    let mut office = Office::start("[store]\nsize = '9 MiB'\nmemory = '0 B'\n").await;
    let files = [content(2 * FILE_BYTES, 6), content(2 * FILE_BYTES, 16)];
    for round in 0..3 {
        for file in &files {
            let path = format!("/{round}");
            office.upload(&path, file).await;
            assert!(office.server.file(&path) == *file);
        }
    }
    assert!(office.core().metrics().block_bytes(Source::Fetch) > 0, "it had room for all");
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_plain_mode_a_second_upload_crosses_as_references_too() {
    let mut office = Office::start("proofs = 'plain'\n").await;
    let file = content(FILE_BYTES, 7);
    office.upload("/one", &file).await;
    let warm = office.upload("/two", &file).await;
    assert!(warm <= FILE_BYTES as u64 / 50, "{warm} bytes crossed the second time");
    assert!(office.server.file("/two") == file);
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_knows_a_digest_alone_is_reset_and_nothing_of_the_block_reaches_the_server() {
    for settings in ["", "proofs = 'plain'\n"] {
        let mut office = Office::start(settings).await;
        let file = content(BLOCK_BYTES, 8);
        // The core has the block: another edge sent it.
        office.upload("/secret", &file).await;
        let rogue = Rogue::connect(&office).await;
        let bare = Reference {
            digest: digest(&file),
            secret: Secret([0; 32]),
            key: KeyId::PLAIN,
            len: BLOCK_BYTES as u32,
        };
        let guessed = *ServerSecret::new([9; 32]).mint(Bytes::from(file.clone())).reference();
        let core_key = rogue.key().await;
        let forged = Reference { key: core_key, ..guessed };
        let zeros = Reference { key: core_key, ..bare };
        for reference in [bare, guessed, forged, zeros] {
            let mut flow = rogue.open(&office).await;
            flow.say(Frame::Literal(put_head("/stolen", BLOCK_BYTES).into())).await;
            office.server.heard(put_head("/stolen", BLOCK_BYTES).len()).await;
            flow.refer(reference).await;
            // A wrong secret is plain enough. A digest alone may be an honest edge's: let it show the bytes.
            let is_forged = reference.key == core_key && reference != bare;
            if !is_forged {
                let (_, mut send) = rogue.asked(&flow).await;
                let mut bytes = Vec::new();
                Frame::<Bytes>::Gone(0).encode(&mut bytes);
                send.write_all(&bytes).await.unwrap();
                let _ = send.finish();
            }
            let expected = if is_forged { code::PROTOCOL } else { code::UNRESOLVED };
            let ended = timeout(LIMIT, flow.stream.recv.read_chunk(1 << 16, true)).await.unwrap();
            assert!(
                matches!(ended, Err(quinn::ReadError::Reset(reset)) if reset == expected),
                "{reference:?}: {ended:?}"
            );
            let (heard, reset) = office.server.ended().await;
            assert!(reset, "the server must not take it for the end");
            assert_eq!(heard, put_head("/stolen", BLOCK_BYTES));
        }
        assert!(office.core().metrics().refused_references.get() >= 1);
        assert_eq!(office.core().metrics().block_bytes(Source::Store), 0, "the store was asked");
        office.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_has_sent_a_block_may_refer_to_it_by_its_digest() {
    let office = Office::start("").await;
    let file = content(BLOCK_BYTES, 10);
    let bare = Reference {
        digest: digest(&file),
        secret: Secret([0; 32]),
        key: KeyId::PLAIN,
        len: BLOCK_BYTES as u32,
    };
    for (path, by_reference) in [("/sent", false), ("/referred", true)] {
        // The core remembers for longer than an honest edge relies on.
        let rogue = Rogue::connect(&office).await;
        let mut flow = rogue.open(&office).await;
        flow.say(Frame::Literal(put_head(path, BLOCK_BYTES).into())).await;
        if by_reference {
            flow.refer(bare).await;
        } else {
            flow.say(Frame::Data { reference: bare, number: flow.number(), bytes: file.clone().into() })
                .await;
        }
        office.server.has(path).await;
        assert!(office.server.file(path) == file);
    }
    assert_eq!(office.core().metrics().refused_references.get(), 0);
    office.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_asked_gives_the_bytes_or_is_reset() {
    let mut office = Office::start("").await;
    let (file, other) = (content(BLOCK_BYTES, 11), content(BLOCK_BYTES, 12));
    let bare = Reference {
        digest: digest(&file),
        secret: Secret([0; 32]),
        key: KeyId::PLAIN,
        len: BLOCK_BYTES as u32,
    };
    let rogue = Rogue::connect(&office).await;
    for given in [&other, &file] {
        let mut flow = rogue.open(&office).await;
        let head = put_head("/asked", BLOCK_BYTES);
        flow.say(Frame::Literal(head.clone().into())).await;
        office.server.heard(head.len()).await;
        flow.refer(bare).await;
        let (numbers, mut send) = rogue.asked(&flow).await;
        assert_eq!(numbers, [0]);
        let mut bytes = Vec::new();
        Frame::Block(0, Bytes::from(given.clone())).encode(&mut bytes);
        send.write_all(&bytes).await.unwrap();
        let _ = send.finish();
        if given == &file {
            office.server.has("/asked").await;
            assert!(office.server.file("/asked") == file);
            continue;
        }
        let ended = timeout(LIMIT, flow.stream.recv.read_chunk(1 << 16, true)).await.unwrap();
        assert!(
            matches!(ended, Err(quinn::ReadError::Reset(reset)) if reset == code::UNRESOLVED),
            "{ended:?}"
        );
        assert_eq!(office.server.ended().await, (head, true));
    }
    assert_eq!(office.core().metrics().wrong_blocks.get(), 1);
    office.stop().await;
}

/// A web server, a core and an edge.
struct Office {
    server: FileServer,
    core: Option<Running>,
    core_config: PathBuf,
    edge: Running,
    directory: tempfile::TempDir,
}

impl Office {
    /// `core` are settings of the core's `[core]`, and tables after it.
    async fn start(core: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let authority = Authority::at(dir);
        authority.init().unwrap();
        let server = FileServer::bind().await;
        let core_address = free_udp_address();
        let allow = server.address;
        let tables = format!("[core]\nlisten = '{core_address}'\nallow-servers = ['{allow}']\n{core}");
        let core_config = configure(&authority, dir, ("hq", "hq"), Roles::CORE, &tables);
        let core = node::start(&Config::load(&core_config).unwrap()).await.unwrap();
        let tables = format!(
            "[peers]\nenabled = false\n[store]\nsize = '64 MiB'\n[[edge.route]]\nservers = ['127.0.0.0/8']\n\
             core = '{core_address}'\n[[edge.intercept]]\nmode = 'listen'\nlisten = '127.0.0.1:0'\nserver = '{allow}'\n"
        );
        let edge_config = configure(&authority, dir, ("gw", "branch"), Roles::EDGE, &tables);
        configure(&authority, dir, ("rogue", "branch"), Roles::EDGE, &tables);
        let edge = node::start(&Config::load(&edge_config).unwrap()).await.unwrap();
        let office = Self { server, core: Some(core), core_config, edge, directory };
        office.link_up().await;
        office
    }

    fn core(&self) -> &Running {
        self.core.as_ref().expect("it runs")
    }

    async fn link_up(&self) {
        eventually(|| self.edge.metrics().links_up.get() == 1).await;
    }

    /// Starts the core anew with an empty store and the same secrets.
    async fn restart_core(&mut self) {
        self.core.take().expect("it runs").stop().await;
        eventually(|| self.edge.metrics().links_up.get() == 0).await;
        std::fs::remove_dir_all(self.directory.path().join("hq/store")).expect("the core has a store");
        self.core = Some(node::start(&Config::load(&self.core_config).unwrap()).await.unwrap());
        self.link_up().await;
    }

    /// Uploads a file and returns the bytes that the edge sent over its link meanwhile.
    async fn upload(&mut self, path: &str, file: &[u8]) -> u64 {
        let before = self.edge.metrics().wan_sent_bytes.get();
        let mut client = TcpStream::connect(self.edge.edge_addresses()[0]).await.unwrap();
        client.write_all(&put_head(path, file.len())).await.unwrap();
        client.write_all(file).await.unwrap();
        let mut answer = Vec::new();
        timeout(LIMIT, client.read_to_end(&mut answer)).await.expect("in time").unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 201"), "{:?}", String::from_utf8_lossy(&answer));
        // What was sent is known to be there only with the last acknowledgements.
        sleep(Duration::from_millis(300)).await;
        self.edge.metrics().wan_sent_bytes.get() - before
    }

    /// Downloads a file and returns it with the bytes that came over the edge's link meanwhile.
    async fn download(&mut self, path: &str) -> (Vec<u8>, u64) {
        let before = self.edge.metrics().wan_received_bytes.get();
        let mut client = TcpStream::connect(self.edge.edge_addresses()[0]).await.unwrap();
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(LIMIT, client.read_to_end(&mut answer)).await.expect("in time").unwrap();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        sleep(Duration::from_millis(300)).await;
        (answer.split_off(head), self.edge.metrics().wan_received_bytes.get() - before)
    }

    async fn stop(self) {
        self.edge.stop().await;
        if let Some(core) = self.core {
            core.stop().await;
        }
    }
}

/// An edge with a good certificate that says what a test wants.
struct Rogue {
    link: Link,
    next: std::sync::atomic::AtomicU64,
}

struct RogueFlow {
    stream: FlowStream,
    port: FlowPort,
    next: u64,
}

impl Rogue {
    async fn connect(office: &Office) -> Self {
        let config = Config::load(&office.directory.path().join("rogue.toml")).unwrap();
        let files = &config.node;
        let identity = NodeIdentity::load(&files.ca, &files.certificate, &files.key).unwrap();
        let crypto = QuicClientConfig::try_from(identity.edge_tls()).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport_config(&TransportSettings::of_edge(&config)));
        let endpoint = bind_client(false, &Metrics::new()).unwrap();
        let core = office.core().core_address().unwrap();
        let connection = endpoint.connect_with(client, core, CORE_SERVER_NAME).unwrap().await.unwrap();
        let hello = Hello { store: [1; 16], stores: true, shares: false, asks: false };
        let link = Link::greet(connection, hello, &Drain::new()).await.unwrap();
        Self { link, next: 0.into() }
    }

    /// Returns the key id of the core's server secret.
    async fn key(&self) -> KeyId {
        let mut keys = self.link.keys();
        let keys = timeout(LIMIT, keys.wait_for(Option::is_some)).await.unwrap().unwrap();
        keys.unwrap().key
    }

    async fn open(&self, office: &Office) -> RogueFlow {
        let server = office.server.address;
        let open =
            |flow| Frame::Open { flow, client: "10.1.1.1:1".parse().unwrap(), server, credit: 1 << 20 };
        let (mut stream, port) = self.link.open_flow(open).await.unwrap();
        let opened = timeout(LIMIT, read_frame(&mut stream.recv, &mut stream.reader)).await.unwrap().unwrap();
        assert!(matches!(opened, Frame::Opened { .. }), "{opened:?}");
        let next = self.next.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
        RogueFlow { stream, port, next }
    }

    /// Waits for the core's FETCH; what it is to be answered with goes into the stream.
    async fn asked(&self, flow: &RogueFlow) -> (Vec<u64>, SendStream) {
        let (send, mut recv): (SendStream, RecvStream) =
            timeout(LIMIT, self.link.accept()).await.unwrap().unwrap();
        assert_eq!(read_kind(&mut recv).await.unwrap(), Some(StreamKind::Fetch));
        let asked = read_frame(&mut recv, &mut FrameReader::default()).await.unwrap();
        let Frame::Fetch { flow: of, refer, numbers } = asked else { panic!("{asked:?}") };
        assert_eq!((of, refer), (flow.port.flow(), false));
        (numbers, send)
    }
}

impl RogueFlow {
    async fn say(&mut self, frame: Frame<Bytes>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.send.write_all(&bytes).await.unwrap();
    }

    fn number(&self) -> u64 {
        self.next
    }

    async fn refer(&mut self, reference: Reference) {
        let len = reference.len;
        self.say(Frame::Ref { reference, number: self.next, older: None, skip: 0, len }).await;
    }
}

/// A web server that takes what is put, gives it back, and tells what each connection brought.
struct FileServer {
    address: SocketAddr,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// Bytes of the latest connection so far.
    hearing: Arc<Mutex<usize>>,
    ends: mpsc::Receiver<(Vec<u8>, bool)>,
}

impl FileServer {
    async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (files, hearing) = (Arc::<Mutex<HashMap<_, _>>>::default(), Arc::<Mutex<usize>>::default());
        let (sender, ends) = mpsc::channel(64);
        let (kept, heard) = (Arc::clone(&files), Arc::clone(&hearing));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *heard.lock().unwrap() = 0;
                tokio::spawn(serve(stream, Arc::clone(&kept), Arc::clone(&heard), sender.clone()));
            }
        });
        Self { address, files, hearing, ends }
    }

    fn put(&self, path: &str, file: &[u8]) {
        self.files.lock().unwrap().insert(path.to_owned(), file.to_vec());
    }

    fn file(&self, path: &str) -> Vec<u8> {
        self.files.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    async fn has(&self, path: &str) {
        eventually(|| self.files.lock().unwrap().contains_key(path)).await;
    }

    async fn heard(&self, count: usize) {
        eventually(|| *self.hearing.lock().unwrap() == count).await;
    }

    /// Returns what the next connection that ends without an answer has brought, and whether it was reset.
    async fn ended(&mut self) -> (Vec<u8>, bool) {
        timeout(LIMIT, self.ends.recv()).await.expect("in time").unwrap()
    }
}

/// Serves one request; a connection that ends before its request is whole, or is kept open behind it, is told of.
async fn serve(
    mut stream: TcpStream,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    hearing: Arc<Mutex<usize>>,
    ends: mpsc::Sender<(Vec<u8>, bool)>,
) {
    let mut bytes = Vec::new();
    let reset = loop {
        match stream.read_buf(&mut bytes).await {
            Ok(0) => break false,
            Ok(_) => *hearing.lock().unwrap() = bytes.len(),
            Err(_) => break true,
        }
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
            continue;
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if bytes.len() < head + length {
            continue;
        }
        let answer = if text.starts_with("PUT") {
            files.lock().unwrap().insert(path, bytes[head..].to_vec());
            b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
        } else {
            let file = files.lock().unwrap().get(&path).cloned().unwrap();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", file.len());
            [head.into_bytes(), file].concat()
        };
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        // A client that is done says so; a rogue edge is gone one way or the other.
        let told = stream.read(&mut [0; 16]).await.is_err();
        if told {
            let _ = ends.send((bytes, true)).await;
        }
        return;
    };
    let _ = ends.send((bytes, reset)).await;
}

fn put_head(path: &str, length: usize) -> Vec<u8> {
    format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came");
}
