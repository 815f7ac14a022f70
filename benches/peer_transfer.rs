//! Edge to edge against nginx to curl: the same bytes over TLS 1.3 on loopback, in turns, in one run.
//!
//! One process serves blocks from memory, another gets and verifies them over four connections; nothing is written to
//! disk. Then nginx serves a file of the same bytes to four curls at once over HTTPS with the same cipher. Printed are
//! MB/s, CPU seconds a GB of each side, and the ratio of the medians. The processes are started by this one:
//!
//! ```text
//! cargo bench --bench peer_transfer
//! ```
//!
//! It needs `nginx` and `curl`; without nginx only the first half is measured. `CONNECTIONS=1` in the environment makes
//! it one connection where it would be four.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan::addr::NodeId;
use wanigan::block::{Block, KeyId, Reference, ServerSecret, Tag, tag};
use wanigan::drain::Drain;
use wanigan::metrics::Metrics;
use wanigan::peer::requests::Patience;
use wanigan::peer::{Blocks, Lookup, Peers, PeersSettings, Serving, ServingSettings, Waiting, marked_dial};
use wanigan::pki::{Authority, DomainClock, NodeIdentity, Roles};

const BLOCK_BYTES: usize = 64 << 10;
/// The content, 256 MiB, is moved so many times.
const BLOCKS: usize = 4_096;
const TIMES: usize = 4;
const CONNECTIONS: usize = 4;
/// Requests that are open at once.
const OPEN: usize = 64;
const ROUNDS: usize = 5;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [_, "serve", dir] => runtime()?.block_on(serve(Path::new(dir))),
        [_, "get", dir, address] => runtime()?.block_on(get(Path::new(dir), address.parse()?)),
        _ => compare(),
    }
}

fn compare() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::at(dir.path());
    authority.init()?;
    for name in ["has", "asks"] {
        authority.issue(&name.parse()?, &"bench".parse()?, Roles::EDGE)?;
    }
    let mut server = Program::start(&["serve", &dir.path().to_string_lossy()])?;
    let address = server.line()?;
    let mut client = Program::start(&["get", &dir.path().to_string_lossy(), &address])?;
    client.line()?;
    let nginx = Nginx::start(dir.path())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(report("wanigan", measure_peers(&server, &mut client)?));
        if let Some(nginx) = &nginx {
            theirs.push(report("nginx", nginx.measure()?));
        }
    }
    if !theirs.is_empty() {
        println!("ratio of the medians: {:.2}", median(ours) / median(theirs));
    }
    Ok(())
}

/// What one transfer took.
struct Taken {
    wall: f64,
    server_cpu: f64,
    client_cpu: f64,
}

/// Prints one transfer and returns its MB/s.
fn report(name: &str, taken: Taken) -> f64 {
    let gb = (BLOCK_BYTES * BLOCKS * TIMES) as f64 / 1e9;
    let speed = gb * 1e3 / taken.wall;
    let (server, client) = (taken.server_cpu / gb, taken.client_cpu / gb);
    println!("{name:8} {speed:6.0} MB/s   CPU s/GB: server {server:.2}, client {client:.2}");
    speed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure_peers(server: &Program, client: &mut Program) -> Result<Taken, Failure> {
    let (server_before, client_before) = (cpu(server.id())?, cpu(client.id())?);
    let began = Instant::now();
    client.tell("go")?;
    client.line()?;
    let wall = began.elapsed().as_secs_f64();
    let (server_cpu, client_cpu) = (cpu(server.id())? - server_before, cpu(client.id())? - client_before);
    Ok(Taken { wall, server_cpu, client_cpu })
}

async fn serve(dir: &Path) -> Result<(), Failure> {
    let blocks = contents().map(|block| ((block.reference().key, tag(block.reference())), block)).collect();
    let (identity, drain) = (identity(dir, "has")?, Drain::new());
    let serving = Serving::bind("127.0.0.1:0".parse()?)?;
    println!("{}", serving.local_addr()?);
    let settings = ServingSettings {
        tls: identity.peer_server_tls(system()),
        connections: 64,
        rate: None,
        blocks: Arc::new(Held(blocks)),
        waiting: Waiting::new(),
    };
    drain.spawn("serving", serving.run(settings, peers(&identity, &drain), drain.clone()));
    // Until the other end of standard input is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    drain.stop(Duration::ZERO).await;
    Ok(())
}

async fn get(dir: &Path, address: SocketAddr) -> Result<(), Failure> {
    let references: Arc<Vec<Reference>> = Arc::new(contents().map(|block| *block.reference()).collect());
    let (has, drain) = (identity(dir, "has")?.identity().id, Drain::new());
    let peers = peers(&identity(dir, "asks")?, &drain);
    println!("ready");
    for line in std::io::stdin().lines() {
        line?;
        get_all(&peers, has, address, &references).await?;
        println!("done");
    }
    drain.stop(Duration::ZERO).await;
    Ok(())
}

async fn get_all(
    peers: &Peers,
    has: NodeId,
    address: SocketAddr,
    references: &Arc<Vec<Reference>>,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks = (0..OPEN).map(|_| {
        let (peers, references, next) = (peers.clone(), references.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= BLOCKS * TIMES {
                    return Ok(());
                }
                peers.get(has, address, &references[number % BLOCKS], Duration::ZERO).await?;
            }
        })
    });
    for task in tasks.collect::<Vec<tokio::task::JoinHandle<Result<(), Failure>>>>() {
        task.await??;
    }
    Ok(())
}

struct Held(HashMap<(KeyId, Tag), Block>);

impl Blocks for Held {
    fn find(&self, key: KeyId, tag: Tag) -> Lookup<'_, Reference> {
        Box::pin(async move { self.0.get(&(key, tag)).map(|block| *block.reference()) })
    }

    fn block(&self, reference: Reference) -> Lookup<'_, Block> {
        Box::pin(async move { self.0.get(&(reference.key, tag(&reference))).cloned() })
    }
}

/// The blocks: no two the same, and nothing to compress.
fn contents() -> impl Iterator<Item = Block> {
    let secret = ServerSecret::new([7; 32]);
    (0..BLOCKS as u64).map(move |number| secret.mint(bytes(number)))
}

fn bytes(number: u64) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    while bytes.len() < BLOCK_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.into()
}

fn identity(dir: &Path, name: &str) -> Result<NodeIdentity, Failure> {
    let file = |end: &str| dir.join(format!("{name}.{end}"));
    Ok(NodeIdentity::load(&dir.join("ca.pem"), &file("pem"), &file("key"))?)
}

fn peers(identity: &NodeIdentity, drain: &Drain) -> Peers {
    let settings = PeersSettings {
        site: identity.identity().site.clone(),
        tls: identity.peer_client_tls(system()),
        dial: marked_dial(),
        connections_a_peer: std::env::var("CONNECTIONS")
            .map_or(CONNECTIONS, |n| n.parse().expect("a number")),
        patience: Patience::default(),
        metrics: Metrics::new(),
    };
    Peers::new(settings, drain.clone())
}

fn system() -> DomainClock {
    Arc::new(|| None)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// This program again, in another role.
struct Program {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(args: &[&str]) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, lines })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err("a process of the benchmark ended".into());
        }
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.child.stdin.as_mut().expect("it is piped"), "{line}")?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

struct Nginx {
    master: Child,
    url: String,
}

impl Nginx {
    /// Starts nginx, or returns `None` where it is not installed.
    fn start(dir: &Path) -> Result<Option<Self>, Failure> {
        let mut file = fs::File::create(dir.join("content"))?;
        for block in contents() {
            file.write_all(block.bytes())?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = dir.display();
        let config = format!(
            "daemon off; user root; worker_processes auto; pid {at}/nginx.pid; error_log {at}/error.log;
             events {{}}
             http {{
                 access_log off;
                 server {{
                     listen 127.0.0.1:{port} ssl; root {at};
                     ssl_certificate {at}/has.pem; ssl_certificate_key {at}/has.key;
                     ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
                 }}
             }}"
        );
        fs::write(dir.join("nginx.conf"), config)?;
        let started = Command::new("nginx").arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir).spawn();
        let Ok(master) = started else {
            println!("nginx is not installed: nothing to compare with");
            return Ok(None);
        };
        let nginx = Self { master, url: format!("https://127.0.0.1:{port}/content") };
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(Some(nginx));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("nginx does not listen".into())
    }

    fn measure(&self) -> Result<Taken, Failure> {
        let (server_before, client_before) = (self.cpu()?, cpu_of_ended_children()?);
        let began = Instant::now();
        let curl =
            |_| Command::new("curl").args(["-sSkf", "--http1.1", "-o", "/dev/null", &self.url]).spawn();
        for curl in (0..TIMES).map(curl).collect::<Vec<_>>() {
            if !curl?.wait()?.success() {
                return Err("curl failed".into());
            }
        }
        let wall = began.elapsed().as_secs_f64();
        let (server_cpu, client_cpu) =
            (self.cpu()? - server_before, cpu_of_ended_children()? - client_before);
        Ok(Taken { wall, server_cpu, client_cpu })
    }

    /// The master's and its workers'.
    fn cpu(&self) -> Result<f64, Failure> {
        let master = self.master.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        let mut sum = cpu(master)?;
        for child in children.split_whitespace() {
            sum += cpu(child.parse()?)?;
        }
        Ok(sum)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its own word for an orderly end; a killed master would leave its workers behind.
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let _ = self.master.wait();
    }
}

/// CPU seconds of a process.
fn cpu(id: u32) -> Result<f64, Failure> {
    Ok(ticks(&id.to_string(), [14, 15])? / TICKS_A_SECOND)
}

/// CPU seconds of children that ended and were waited for.
fn cpu_of_ended_children() -> Result<f64, Failure> {
    Ok(ticks("self", [16, 17])? / TICKS_A_SECOND)
}

/// Sums fields of `/proc/PID/stat`, counted from 1 as proc(5) does.
fn ticks(id: &str, fields: [usize; 2]) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, field 2, is in parentheses and may hold anything.
    let rest = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?.1;
    let values: Vec<&str> = rest.split_whitespace().collect();
    let mut sum = 0.0;
    for field in fields {
        sum += values[field - 3].parse::<f64>()?;
    }
    Ok(sum)
}

/// `USER_HZ`, the same on every Linux that runs this.
const TICKS_A_SECOND: f64 = 100.0;
