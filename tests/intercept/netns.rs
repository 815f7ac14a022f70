//! Three namespaces, client, gateway and server, in a row; and a server that tells each client what it sees.
//!
//! Threads enter a namespace for good; sockets they open, and processes they start, belong to it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

pub(crate) const CLIENT: [&str; 2] = ["10.71.1.2", "fd71:1::2"];
/// A core that happens to be on the client's side.
pub(crate) const CORE: [&str; 2] = ["10.71.1.9", "fd71:1::9"];
pub(crate) const GATEWAY: [&str; 2] = ["10.71.1.1", "fd71:1::1"];
/// The gateway's address towards the servers.
pub(crate) const FAR_GATEWAY: [&str; 2] = ["10.71.2.1", "fd71:2::1"];
pub(crate) const SERVER: [&str; 2] = ["10.71.2.2", "fd71:2::2"];
pub(crate) const UNROUTED: [&str; 2] = ["10.71.3.2", "fd71:3::2"];
/// Echoes until the client ends.
pub(crate) const ECHO_PORT: u16 = 445;
/// Ends first, after its greeting.
pub(crate) const CURT_PORT: u16 = 80;
/// An echo on the port that the gateway's listener has too.
pub(crate) const LISTENER_PORT: u16 = 7445;

/// The namespaces, removed on drop.
pub(crate) struct Net {
    pub(crate) client: String,
    pub(crate) gateway: String,
    pub(crate) server: String,
}

impl Net {
    /// Builds the namespaces and starts the servers. Without root: `None`, visibly.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip(test);
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:x}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = |place: &str| format!("wi{place}{id}");
        let net = Self { client: name("c"), gateway: name("g"), server: name("s") };
        let Self { client: c, gateway: g, server: s } = &net;
        for ns in [c, g, s] {
            ip(&format!("netns add {ns}"));
            ip(&format!("-n {ns} link set lo up"));
        }
        ip(&format!("-n {c} link add up0 type veth peer name c0 netns {g}"));
        ip(&format!("-n {s} link add up0 type veth peer name s0 netns {g}"));
        let (routes4, routes6) = ("10.71.3.2 via 10.71.2.2", "fd71:3::2 via fd71:2::2");
        let links: [(&str, &str, &[&str]); 5] = [
            (c, "up0", &["10.71.1.2/24", "10.71.1.9/24", "fd71:1::2/64", "fd71:1::9/64"]),
            (g, "c0", &["10.71.1.1/24", "fd71:1::1/64"]),
            (g, "s0", &["10.71.2.1/24", "fd71:2::1/64"]),
            (s, "up0", &["10.71.2.2/24", "fd71:2::2/64"]),
            (s, "lo", &["10.71.3.2/32", "fd71:3::2/128"]),
        ];
        for (ns, link, addresses) in links {
            for address in addresses {
                let nodad = if address.contains("::") { "nodad" } else { "" };
                ip(&format!("-n {ns} addr add {address} dev {link} {nodad}"));
            }
            ip(&format!("-n {ns} link set {link} up"));
        }
        for (ns, via4, via6) in [(c, "10.71.1.1", "fd71:1::1"), (s, "10.71.2.1", "fd71:2::1")] {
            ip(&format!("-n {ns} route add default via {via4}"));
            ip(&format!("-n {ns} route add default via {via6}"));
        }
        ip(&format!("-n {g} route add {routes4}"));
        ip(&format!("-n {g} route add {routes6}"));
        for sysctl in
            ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=1"]
        {
            assert!(net.run(g, &format!("sysctl -qw {sysctl}")).0);
        }
        net.enter(s, || {
            serve(ECHO_PORT, true);
            serve(LISTENER_PORT, true);
            serve(CURT_PORT, false);
        })
        .join()
        .unwrap();
        Some(net)
    }

    /// Runs a function in a namespace, on a thread of its own.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        ns: &str,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{ns}")).unwrap();
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            run()
        })
    }

    /// Runs a program in a namespace; returns whether it succeeded, and what it said.
    pub(crate) fn run(&self, ns: &str, command: &str) -> (bool, String) {
        let output =
            Command::new("ip").args(["netns", "exec", ns]).args(command.split_whitespace()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Connects from a client address, and returns what the server sees.
    pub(crate) fn connect(&self, from: &str, to: &str, port: u16) -> io::Result<Connection> {
        self.connect_from(from, 0, to, port)
    }

    pub(crate) fn connect_from(
        &self,
        from: &str,
        from_port: u16,
        to: &str,
        port: u16,
    ) -> io::Result<Connection> {
        let from = SocketAddr::new(from.parse().unwrap(), from_port);
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.enter(&self.client, move || Connection::open(from, to)).join().unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.client, &self.gateway, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// A client's connection, after the server's greeting.
pub(crate) struct Connection {
    pub(crate) stream: BufReader<TcpStream>,
    /// The client's own address.
    pub(crate) client: SocketAddr,
    /// Whom the server sees.
    pub(crate) seen: SocketAddr,
}

impl Connection {
    pub(crate) fn open(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let client = stream.local_addr()?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting)?;
        let seen =
            greeting.trim().parse().map_err(|_| io::Error::other(format!("greeted with {greeting:?}")))?;
        Ok(Self { stream, client, seen })
    }

    /// Whether no proxy is between client and server.
    pub(crate) fn is_direct(&self) -> bool {
        self.seen == self.client
    }

    /// Sends bytes and has them back.
    pub(crate) fn exchange(&mut self, len: usize) -> io::Result<()> {
        let sent: Vec<u8> = (0..len).map(|i| (i / 253 + i) as u8).collect();
        let mut writer = self.stream.get_ref().try_clone()?;
        let mut back = vec![0; len];
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&sent));
            self.stream.read_exact(&mut back)?;
            writing.join().unwrap()
        })?;
        assert!(back == sent, "the bytes that came back are those that were sent");
        Ok(())
    }

    /// Half-closes, and sees the server's end.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        assert!(rest.is_empty());
        Ok(())
    }
}

pub(crate) fn serve(port: u16, echo: bool) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || greet(stream, echo));
        }
    });
}

fn greet(mut stream: TcpStream, echo: bool) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let ip: IpAddr = peer.ip().to_canonical();
    stream.write_all(format!("{}\n", SocketAddr::new(ip, peer.port())).as_bytes())?;
    if echo {
        io::copy(&mut stream.try_clone()?, &mut stream)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn skip(test: &str) {
    println!("skipped: {test} needs root, for network namespaces");
    if let Some(path) = std::env::var_os("WANIGAN_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}").unwrap();
    }
}
