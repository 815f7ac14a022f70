//! The `wanigan` command from outside: exit codes, what is printed, and a node that starts and ends.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
