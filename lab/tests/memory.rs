//! Memory stays within what was configured, whatever the clients do.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Node, Pair};
use wanigan_lab::process::{finish, wait_until};
use wanigan_lab::scenario;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

const FLOWS: usize = 200;
/// smbclient asks for this much in one READ where the server offers it.
const READ: usize = 8 << 20;
/// Far below the 1600 MiB that the clients ask for at once.
const MEMORY: Memory = Memory { store: 64, limits: 128 };
const LIMIT: Duration = Duration::from_secs(240);
const WAN: Shape = Shape::new(400, Duration::from_millis(20));

#[test]
fn two_hundred_flows_with_large_reads_and_a_client_that_stops_reading_stay_within_the_limits() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 1, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Tproxy, MEMORY)?;
        let readers = (0..FLOWS)
            .map(|number| {
                let digest =
                    content::write(&smbd.share().join(format!("file{number}")), number as u64, READ)?;
                Reader::log_in(lab, number, digest)
            })
            .collect::<Result<Vec<_>>>()?;
        wait_until("all are logged in", LIMIT, || {
            Ok(pair.edge.metric("wanigan_flows_active", "")? >= FLOWS as u64)
        })?;
        // A client that is stopped while it logs in gives up by itself; from here on only keepalives pass.
        let mut said = 0;
        wait_until("all logins are over", LIMIT, || {
            let before = std::mem::replace(&mut said, pair.edge.metric("wanigan_lan_bytes_total", "")?);
            std::thread::sleep(Duration::from_secs(1));
            Ok(said > 0 && said - before < 20_000)
        })?;
        read_with_one_that_stops(readers)?;
        within_limits("edge", &pair.edge)?;
        within_limits("core", &pair.core)?;
        let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(direct == 0, "{direct} connections went direct, past the limits under test");
        Ok(())
    });
}

fn read_with_one_that_stops(mut readers: Vec<Reader>) -> Result<()> {
    let started = Instant::now();
    for reader in &mut readers {
        reader.read()?;
    }
    let stopped = readers.pop().context("there are readers")?;
    std::thread::sleep(Duration::from_millis(500));
    stopped.signal(Signal::SIGSTOP)?;
    let received = stopped.output.metadata().map_or(0, |file| file.len());
    ensure!(received < READ as u64, "the client to be stopped was done already");
    for reader in readers {
        reader.finish(started)?;
    }
    stopped.signal(Signal::SIGCONT)?;
    stopped.finish(started)
}

fn within_limits(name: &str, node: &Node<'_>) -> Result<()> {
    let peak = node.peak_memory()? >> 20;
    let limit = MEMORY.store + MEMORY.limits + 128;
    eprintln!("{name}: peak {peak} MiB of {limit} MiB");
    ensure!(peak <= limit, "{name} used {peak} MiB, more than {limit} MiB");
    Ok(())
}

/// An smbclient that is logged in and waits for a word.
struct Reader {
    child: Child,
    name: String,
    output: PathBuf,
    log: PathBuf,
    digest: Digest,
}

impl Reader {
    fn log_in(lab: &Lab, number: usize, digest: Digest) -> Result<Self> {
        let name = format!("file{number}");
        let output = lab.path(&format!("received{number}"));
        let path = lab.path(&format!("smbclient{number}.out"));
        let log = File::create(&path)?;
        let child = SmbClient::new(lab.client(0), lab.directory())
            .interactive()
            // With this many readers a READ of 8 MiB takes longer than the 20 s that smbclient gives it.
            .args(["--timeout", "240"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start smbclient")?;
        Ok(Self { child, name, output, log: path, digest })
    }

    fn read(&mut self) -> Result<()> {
        let mut input = self.child.stdin.take().context("smbclient has an input")?;
        write!(input, "get {} {}\nquit\n", self.name, self.output.display()).context("ask smbclient")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("signal smbclient")
    }

    fn finish(self, started: Instant) -> Result<()> {
        finish(self.child, started, LIMIT)?.ok().with_context(|| format!("read {}", self.name))?;
        // In this mode smbclient's exit status does not tell.
        let right = Digest::of_file(&self.output).is_ok_and(|digest| digest == self.digest);
        ensure!(right, "{} differs: {}", self.name, std::fs::read_to_string(&self.log)?);
        std::fs::remove_file(&self.output).context("make room")
    }
}
