//! Programs: run to their end with a time limit, or kept running until dropped.
//!
//! Everything a program prints is captured, so that a failed test can show it. A program that outlives its time limit is
//! killed and reported as an error, never waited for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Returns standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns itself where the program succeeded, else an error that shows what it printed.
    ///
    /// # Errors
    /// If the exit status is not zero.
    pub fn ok(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        Err(anyhow!(
            "{} after {:.2} s\nstdout: {}\nstderr: {}",
            self.status,
            self.took.as_secs_f64(),
            tail(&self.stdout),
            tail(&self.stderr)
        ))
    }
}

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started, or runs longer than `limit` and is killed. A failing exit status is not an error here.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let started = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    finish(child, started, limit).with_context(|| format!("run {command:?}"))
}

/// Waits for a child whose output is piped.
///
/// # Errors
/// As [`run`].
pub fn finish(mut child: Child, started: Instant, limit: Duration) -> Result<Finished> {
    let stdout = child.stdout.take().map(gather);
    let stderr = child.stderr.take().map(gather);
    let status = wait(&mut child, started + limit)?;
    let took = started.elapsed();
    let stdout = stdout.map(joined).transpose()?.unwrap_or_default();
    let stderr = stderr.map(joined).transpose()?.unwrap_or_default();
    let Some(status) = status else {
        bail!("killed after {limit:?}\nstdout: {}\nstderr: {}", tail(&stdout), tail(&stderr));
    };
    Ok(Finished { status, stdout, stderr, took })
}

/// A program that runs until it is killed or dropped. Its output goes to a log file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program, its output appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("open the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Returns an error that shows the log unless the program still runs.
    ///
    /// # Errors
    /// If it ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("look at a child")? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, tail(self.log().as_bytes())),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the program is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.nix_pid()?, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills the program as a crash would (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// Asks the program to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        wait(&mut self.child, Instant::now() + limit)?
            .ok_or_else(|| anyhow!("{} did not end within {limit:?} of SIGTERM", self.name))
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// If it is still there after `limit`; it is killed then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, Instant::now() + limit)?
            .ok_or_else(|| anyhow!("{} killed after {limit:?}\n{}", self.name, tail(self.log().as_bytes())))
    }

    /// Returns the peak of the program's resident memory in bytes (`VmHWM` of proc_pid_status(5)).
    ///
    /// # Errors
    /// If the program is gone.
    pub fn peak_memory(&self) -> Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).context("read its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("find VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read VmHWM")?;
        Ok(kib * 1024)
    }

    /// Returns the processor time the program used so far, user and system (proc_pid_stat(5)).
    ///
    /// # Errors
    /// If the program is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("read its stat")?;
        let (_, fields) = stat.rsplit_once(')').context("find the fields of stat")?;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux of the platforms Debian 12 runs on.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Writes what the program has in memory of its own to a file (proc_pid_maps(5), proc_pid_mem(5)).
    ///
    /// # Errors
    /// If the program is gone, or the file cannot be written.
    pub fn dump_memory(&self, path: &Path) -> Result<()> {
        let directory = PathBuf::from(format!("/proc/{}", self.pid()));
        let maps = std::fs::read_to_string(directory.join("maps")).context("read its maps")?;
        let memory = File::open(directory.join("mem")).context("open its memory")?;
        let mut dump = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut bytes = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let (from, to) = range.with_context(|| format!("find a range in {line:?}"))?;
            let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).context("read an address"));
            let (from, to) = (from?, to?);
            bytes.resize(usize::try_from(to - from).context("a range fits memory")?, 0);
            // A range that went since the maps were read held nothing that is in use.
            if memory.read_exact_at(&mut bytes, from).is_ok() {
                dump.write_all(&bytes).context("write a dump")?;
            }
        }
        Ok(())
    }

    fn nix_pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.pid()).context("a process id fits an i32")?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL too. Errors mean that it is gone already.
        let _ = self.kill();
    }
}

/// Calls `done` until it returns true.
///
/// # Errors
/// If it does not within `limit`, or fails.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if done().with_context(|| format!("wait until {what}"))? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain until {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the end of a program's output, enough to see what went wrong.
#[must_use]
pub fn tail(output: &[u8]) -> String {
    const SHOWN: usize = 6000;
    let start = output.len().saturating_sub(SHOWN);
    String::from_utf8_lossy(&output[start..]).into_owned()
}

fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait().context("look at a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill().context("kill a child")?;
            child.wait().context("wait for a child")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn gather(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<std::io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    })
}

fn joined(thread: thread::JoinHandle<std::io::Result<Vec<u8>>>) -> Result<Vec<u8>> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread that reads output panicked"))?
        .context("read a program's output")
}
