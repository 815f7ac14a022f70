//! The `wanigan` command from outside: exit codes, what is printed, and a node that starts and ends.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;
use wanigan::admin::{Admin, PeerReport};

#[test]
fn a_usage_that_cannot_be_ends_with_64_and_help_with_0() {
    for arguments in
        [&["fly"][..], &[], &["pki", "issue", "Bad_Name", "--dir", "x"], &["run", "--no-such-option"]]
    {
        assert_eq!(code(&wanigan(arguments)), 64, "{arguments:?}");
    }
    assert_eq!(code(&wanigan(&["--help"])), 0);
    assert_eq!(code(&wanigan(&["--version"])), 0);
    assert_eq!(code(&wanigan(&["check", "--log", "inof", "-c", "x"])), 64);
}

#[test]
fn a_configuration_that_cannot_be_ends_with_64_and_all_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "[node]\n[[edge.intercept]]\nmode = 'x'\n[[edge.route]]\ncore = '10.0.0'\n").unwrap();
    for command in ["check", "run"] {
        let output = wanigan(&[command, "-c", file.to_str().unwrap()]);
        assert_eq!(code(&output), 64);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.lines().all(|line| line.starts_with(&format!("{}: ", file.display()))), "{text}");
        assert!(text.contains("w.toml: edge.route[0].core: \"10.0.0\" is not host:port\n"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}

#[test]
fn a_missing_or_broken_file_ends_with_64_and_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    let missing = wanigan(&["check", "-c", file.to_str().unwrap()]);
    fs::write(&file, "[node\n").unwrap();
    for output in [missing, wanigan(&["check", "-c", file.to_str().unwrap()])] {
        assert_eq!(code(&output), 64);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with(&format!("wanigan: failed to read {}", file.display())), "{text}");
    }
}

#[test]
fn a_node_that_cannot_start_ends_with_1_and_the_causes() {
    let dir = tempfile::tempdir().unwrap();
    let file = configure(dir.path(), "off");
    let output = wanigan(&["run", "-c", &file]);
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("wanigan: failed to load this node's identity: read a certificate from "),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
}

#[test]
fn an_authority_and_a_node_are_made_and_the_node_runs_until_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().to_str().unwrap();
    assert_eq!(code(&wanigan(&["pki", "init", "--dir", pki])), 0);
    assert_eq!(code(&wanigan(&["pki", "init", "--dir", pki])), 1);
    let issue = ["pki", "issue", "hq", "--dir", pki, "--role", "core", "--site", "lisbon"];
    assert_eq!(code(&wanigan(&issue)), 0);
    let listen = free_address();
    let file = configure(dir.path(), &listen.to_string());
    let check = wanigan(&["check", "-c", &file]);
    assert_eq!((code(&check), String::from_utf8(check.stderr).unwrap().as_str()), (0, ""));
    let node = Node::start(&file);
    assert!(get(listen, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get(listen, "/metrics").contains("\nprocess_resident_memory_bytes "));
    assert!(dir.path().join("state").is_dir());
    assert_eq!(node.terminate(), Some(0));
    assert!(TcpStream::connect(listen).is_err());
}

#[test]
fn a_server_secret_is_rotated_once_within_its_grace_and_again_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let file = configure(dir.path(), "off");
    let rotate = |more: &[&str]| wanigan(&[&["rotate-secret", "-c", &file], more].concat());
    let before_any = rotate(&[]);
    assert_eq!(code(&before_any), 1, "a core makes its first secret");
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let secret = state.join("server-secret");
    fs::write(&secret, [7; 32]).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let rotated = rotate(&[]);
    assert_eq!(code(&rotated), 0);
    assert_eq!(fs::read(state.join("server-secret.previous")).unwrap(), [7; 32]);
    let new = fs::read(&secret).unwrap();
    assert!(new.len() == 32 && new != [7; 32]);
    let said = text(&rotated.stdout);
    assert!(said.contains("stay good for 7 d\n") && said.contains("server-secret.previous"), "{said}");
    assert!(!said.contains("lost"), "{said}");
    let refused = rotate(&[]);
    let why = text(&refused.stderr);
    assert_eq!(code(&refused), 1);
    assert!(why.starts_with("wanigan: failed to rotate without --force: give up the server secret"), "{why}");
    assert_eq!(fs::read(&secret).unwrap(), new);
    let forced = rotate(&["--force"]);
    assert_eq!(code(&forced), 0);
    let said = text(&forced.stdout);
    assert!(said.contains("\nlost: ") && said.contains("of its grace left"), "{said}");
    assert_eq!(fs::read(state.join("server-secret.previous")).unwrap(), new);
}

#[test]
fn a_node_without_a_server_secret_has_none_to_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let plain = configure(dir.path(), "off");
    let text_of_plain = fs::read_to_string(&plain).unwrap().replace("[core]", "[core]\nproofs = 'plain'");
    fs::write(&plain, text_of_plain).unwrap();
    let edge = configure_edge(dir.path(), "off");
    for (file, why) in [(plain, "with core.proofs = \"plain\" there is none"), (edge, "this node is no core")]
    {
        let output = wanigan(&["rotate-secret", "-c", &file, "--force"]);
        assert_eq!(code(&output), 1);
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
}

#[test]
fn peers_are_listed_as_the_node_tells_them() {
    let report = PeerReport {
        id: "0a0b".into(),
        name: "porto-gw".into(),
        site: "porto".into(),
        address: "10.1.5.7:7747".into(),
        connected: true,
        blocks_received: 16,
        bytes_received: 1 << 20,
        blocks_served: 0,
        bytes_served: 0,
        wrong: 0,
        lost: 0,
        latency_seconds: Some(0.002),
        shunned_seconds: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serve = |peers: Option<PeerReport>| {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut admin = runtime.block_on(Admin::bind(listen, prometheus::Registry::new())).unwrap();
        let address = admin.local_addr().unwrap();
        if let Some(report) = peers {
            admin = admin.with_peers(move || vec![report.clone()]);
        }
        runtime.spawn(admin.serve(CancellationToken::new()));
        address.to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = configure_edge(dir.path(), &serve(Some(report.clone())));
    let table = wanigan(&["peers", "-c", &file]);
    assert_eq!((code(&table), text(&table.stderr).as_str()), (0, ""));
    let lines: Vec<Vec<String>> = text(&table.stdout).lines().map(words).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1][..5], ["porto-gw", "porto", "10.1.5.7:7747", "connected", "2.0"]);
    let json = wanigan(&["peers", "-c", &file, "--json"]);
    assert_eq!(serde_json::from_str::<Vec<PeerReport>>(&text(&json.stdout)).unwrap(), [report]);
    let without = configure_edge(dir.path(), &serve(None));
    let output = wanigan(&["peers", "-c", &without]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("peers.enabled = false"), "{}", text(&output.stderr));
}

#[test]
fn peers_cannot_be_listed_where_no_node_tells_them() {
    let dir = tempfile::tempdir().unwrap();
    let free = free_address().to_string();
    let off = configure_edge(dir.path(), "off");
    let said = |file: &str| {
        let output = wanigan(&["peers", "-c", file]);
        assert_eq!(code(&output), 1);
        text(&output.stderr)
    };
    assert!(said(&off).contains("failed to list the peers: admin.listen is \"off\""), "{}", said(&off));
    let alone = configure_edge(dir.path(), &free);
    let expected = format!("failed to ask the node at {free}, is it running?: ");
    assert!(said(&alone).contains(&expected), "{}", said(&alone));
    let core = configure(dir.path(), &free);
    assert!(said(&core).contains("this node is no edge"), "{}", said(&core));
    fs::write(&alone, fs::read_to_string(&alone).unwrap() + "[peers]\nenabled = false\n").unwrap();
    assert!(said(&alone).contains("peers.enabled is false"), "{}", said(&alone));
}

/// A running node, killed when the test ends without having ended it.
struct Node(Child);

impl Node {
    /// Starts a node and waits until it says that it runs.
    fn start(file: &str) -> Self {
        let mut child = command(&["run", "-c", file]).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let node = Self(child);
        let mut lines = log.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("running") && line.contains("name=hq")), "it never ran");
        // The rest is read, so that the node never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        node
    }

    fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the configuration of a core named hq, whose certificates are beside it, and returns its path.
fn configure(dir: &Path, admin: &str) -> String {
    let file = dir.join("wanigan.toml");
    let text = format!(
        "[node]\nname = 'hq'\nsite = 'lisbon'\nstate-dir = 'state'\n\
         ca = 'ca.pem'\ncertificate = 'hq.pem'\nkey = 'hq.key'\n\
         [core]\nlisten = '127.0.0.1:0'\nallow-servers = ['127.0.0.1:80']\n\
         [admin]\nlisten = '{admin}'\n"
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Writes the configuration of an edge that is never started, and returns its path.
fn configure_edge(dir: &Path, admin: &str) -> String {
    let file = dir.join("edge.toml");
    let text = format!(
        "[node]\nname = 'gw'\nstate-dir = 'state'\n\
         [[edge.intercept]]\nmode = 'listen'\nlisten = '127.0.0.1:0'\nserver = '127.0.0.1:80'\n\
         [[edge.route]]\nservers = ['127.0.0.1']\ncore = '127.0.0.1:1'\n\
         [admin]\nlisten = '{admin}'\n"
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wanigan"));
    command.args(arguments).env_remove("WANIGAN_LOG");
    command
}

fn wanigan(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the command ends by itself")
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
