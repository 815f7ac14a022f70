//! A reader of our own, for what `curl` does not tell: when each piece of a file arrived, and how far it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::content::Digest;
use crate::namespace::Namespace;
use crate::topology::Family;

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    progress: Arc<AtomicU64>,
    thread: JoinHandle<Result<Arrived>>,
}

/// A file that was read.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// What it is.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// The longest time in which not a byte of it arrived, the time up to the first one included.
    pub longest_gap: Duration,
    /// From the request to the last byte.
    pub took: Duration,
}

impl Reading {
    /// Asks the web server for a path, from inside of a namespace.
    ///
    /// # Errors
    /// If no connection can be made.
    pub fn start(namespace: &Namespace, family: Family, path: &str, limit: Duration) -> Result<Self> {
        let stream = namespace.connect(SocketAddr::from((family.server(), 80)), limit)?;
        let progress = Arc::new(AtomicU64::new(0));
        let (path, shared) = (path.to_owned(), Arc::clone(&progress));
        let read = move || read(stream, &path, limit, &shared).with_context(|| format!("read {path}"));
        let thread = std::thread::Builder::new().spawn(read).context("start a reader")?;
        Ok(Self { progress, thread })
    }

    /// Waits until this many bytes have arrived.
    ///
    /// # Errors
    /// If the read ends before.
    pub fn wait_for(&self, bytes: u64) -> Result<()> {
        // Finer than `wait_until`: the file must not pass by.
        while self.progress.load(Ordering::Relaxed) < bytes {
            ensure!(!self.thread.is_finished(), "the read ended before {bytes} bytes had arrived");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Returns how many bytes have arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If the file did not arrive whole.
    pub fn finish(self) -> Result<Arrived> {
        self.thread.join().map_err(|_| anyhow!("a reader panicked"))?
    }
}

fn read(stream: TcpStream, path: &str, limit: Duration, progress: &AtomicU64) -> Result<Arrived> {
    stream.set_read_timeout(Some(limit)).context("limit the time to read")?;
    let started = Instant::now();
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    write!(reader.get_mut(), "GET /{path} HTTP/1.1\r\nHost: content\r\nConnection: close\r\n\r\n")
        .context("ask")?;
    let length = read_head(&mut reader)?;
    let mut bytes = Vec::new();
    let (mut last, mut longest_gap) = (started, Duration::ZERO);
    while (bytes.len() as u64) < length {
        let piece = reader.fill_buf().context("receive")?;
        if piece.is_empty() {
            bail!("ended after {} of {length} bytes", bytes.len());
        }
        bytes.extend_from_slice(piece);
        let (taken, now) = (piece.len(), Instant::now());
        reader.consume(taken);
        longest_gap = longest_gap.max(now - last);
        last = now;
        progress.store(bytes.len() as u64, Ordering::Relaxed);
    }
    // Beyond its length there is nothing.
    ensure!(bytes.len() as u64 == length && reader.read(&mut [0])? == 0, "more than {length} bytes came");
    Ok(Arrived { digest: Digest::of(&bytes), bytes: length, longest_gap, took: last - started })
}

/// Reads the head of the answer and returns the length of its body.
fn read_head(reader: &mut impl BufRead) -> Result<u64> {
    let mut length = None;
    for number in 0..100 {
        let mut line = String::new();
        reader.read_line(&mut line).context("receive the head")?;
        let line = line.trim_end().to_ascii_lowercase();
        ensure!(number > 0 || line.contains(" 200 "), "the answer is {line:?}");
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().context("read the length")?);
        }
        if line.is_empty() {
            return length.context("find the length");
        }
    }
    bail!("the head does not end")
}
