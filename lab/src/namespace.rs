//! One network namespace: made and named here, removed with everything in it when dropped.
//!
//! Programs enter through `ip netns exec`, which also shows them the namespace's own `/sys`; threads of this process
//! through setns(2), for sockets and `/proc/sys/net`.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::process::{Finished, Process, finish, run, wait_until};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    logs: PathBuf,
}

/// What an interface counted (`/sys/class/net/*/statistics`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes the kernel sent into the interface.
    pub sent_bytes: u64,
    /// Bytes the kernel took from the interface.
    pub received_bytes: u64,
    /// Packets the kernel sent into the interface.
    pub sent_packets: u64,
    /// Packets it could not send.
    pub dropped_packets: u64,
}

impl Namespace {
    /// Makes a namespace whose loopback is up. Logs of programs started in it go to the directory `logs`.
    ///
    /// # Errors
    /// Without root, or if the name is taken.
    pub fn create(name: &str, logs: &Path) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]), SOON)?
            .ok()
            .with_context(|| format!("add {name}"))?;
        let namespace = Self { name: name.to_owned(), logs: logs.to_owned() };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that will run inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program inside to its end.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        let (program, arguments) = words.split_first().context("a command has a program")?;
        run(self.command(program).args(arguments), limit)
    }

    /// Starts a program inside that runs until dropped; its log is `NAME.log`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(name, command, &self.logs.join(format!("{name}.log")))
    }

    /// Runs a closure on a thread inside. Sockets it opens stay in the namespace, wherever they are used.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the closure fails.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = File::open(Path::new("/run/netns").join(&self.name)).context("open the namespace")?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", self.name))?;
                inside()
            });
            thread.join().map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Carries out lines of `ip` commands, without the word `ip`.
    ///
    /// # Errors
    /// At the first line that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let started = Instant::now();
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        child.stdin.take().context("ip has an input")?.write_all(lines.as_bytes()).context("write to ip")?;
        finish(child, started, SOON)?.ok().with_context(|| format!("set up {}:\n{lines}", self.name))?;
        Ok(())
    }

    /// Sets kernel parameters of this namespace, by their path below `/proc/sys/net`.
    ///
    /// # Errors
    /// If one does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                std::fs::write(Path::new("/proc/sys/net").join(key), value)
                    .with_context(|| format!("set net/{key} to {value}"))?;
            }
            Ok(())
        })
    }

    /// Reads the kernel's counters of an interface.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn interface(&self, interface: &str) -> Result<InterfaceCounters> {
        let names = ["tx_bytes", "rx_bytes", "tx_packets", "tx_dropped"];
        let mut command = self.command("cat");
        command.args(names.map(|name| format!("/sys/class/net/{interface}/statistics/{name}")));
        let text = run(&mut command, SOON)?.ok()?.text();
        let numbers: Vec<u64> =
            text.lines().map(|line| line.trim().parse().context("read a counter")).collect::<Result<_>>()?;
        match numbers[..] {
            [sent_bytes, received_bytes, sent_packets, dropped_packets] => {
                Ok(InterfaceCounters { sent_bytes, received_bytes, sent_packets, dropped_packets })
            }
            _ => Err(anyhow!("unexpected counters {text:?}")),
        }
    }

    /// Opens a TCP connection from inside.
    ///
    /// # Errors
    /// If it is refused or takes longer than `limit`.
    pub fn connect(&self, address: SocketAddr, limit: Duration) -> Result<TcpStream> {
        self.enter(|| {
            TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))
        })
    }

    /// Waits until something listens at an address, seen from inside.
    ///
    /// # Errors
    /// If nothing does within `limit`.
    pub fn wait_for_port(&self, address: SocketAddr, limit: Duration) -> Result<()> {
        wait_until(&format!("{address} listens"), limit, || {
            Ok(self.connect(address, Duration::from_millis(500)).is_ok())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody can be told, and the next lab looks for leftovers.
        let _ = remove(&self.name);
    }
}

/// Kills what runs in a namespace and removes it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let inside = run(Command::new("ip").args(["netns", "pids", name]), SOON)?.ok()?.text();
    for pid in inside.lines().filter_map(|line| line.trim().parse().ok()) {
        // Gone already is as good.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    run(Command::new("ip").args(["netns", "del", name]), SOON)?.ok()?;
    Ok(())
}

const SOON: Duration = Duration::from_secs(20);
