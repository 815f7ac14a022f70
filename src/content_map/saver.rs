//! The thread that keeps the map on disk: it takes what changed, a bounded batch at a time, and rests in proportion to
//! what it wrote, so that a large object that changes all the time does not keep the disk busy.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shared;
use super::file::{FileFault, MapFile, Row};
use crate::metrics::ContentMapMetrics;
use crate::store::Store;

/// Owns the map's file.
pub(super) struct Saver {
    shared: Arc<Shared>,
    file: MapFile,
    store: Store,
}

/// Why the map is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The file.
    #[error(transparent)]
    File(#[from] FileFault),
    /// The system gave no thread.
    #[error("start the thread that keeps the content map")]
    Start(#[from] io::Error),
}

impl Saver {
    pub(super) fn new(shared: Arc<Shared>, file: MapFile, store: Store) -> Self {
        Self { shared, file, store }
    }

    /// Starts the thread. It ends when it is told to, or when nobody can tell it any more.
    pub(super) fn start(self, closing: Receiver<oneshot::Sender<()>>) -> Result<(), Fault> {
        let run = move || {
            let metrics = self.shared.metrics.clone();
            match self.run(&closing) {
                // Whoever asked may have gone meanwhile.
                Ok(Some(done)) => drop(done.send(())),
                Ok(None) => {}
                Err(fault) => give_up(&fault.into(), &metrics),
            }
        };
        thread::Builder::new().name("wanigan-map".to_owned()).spawn(run)?;
        Ok(())
    }

    /// Returns whom to tell that the file is closed.
    fn run(
        mut self,
        closing: &Receiver<oneshot::Sender<()>>,
    ) -> Result<Option<oneshot::Sender<()>>, FileFault> {
        let mut rest = REST;
        loop {
            match closing.recv_timeout(rest) {
                Err(RecvTimeoutError::Timeout) => {
                    let bytes = self.save()?;
                    rest = REST.max(Duration::from_secs(1).mul_f64(bytes as f64 / BYTES_PER_SECOND));
                }
                ended => {
                    while self.save()? > 0 {}
                    return Ok(ended.ok());
                }
            }
        }
    }

    /// Writes a batch of what changed; returns its bytes, and zero when there was nothing.
    fn save(&mut self) -> Result<usize, FileFault> {
        let (mut rows, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            // For each object anew, so that flows get in between.
            && let Some((place, extents)) = self.shared.with(|map| map.poll_dirty())
        {
            bytes += ROW_BYTES + extents.as_ref().map_or(0, Vec::len);
            rows.push((place, extents));
        }
        if !rows.is_empty() {
            self.file.write(self.store.id(), rows)?;
        }
        Ok(bytes)
    }
}

/// Says why the map is in memory only from here on.
pub(super) fn give_up(fault: &Fault, metrics: &ContentMapMetrics) {
    metrics.errors.inc();
    let error: &dyn Error = fault;
    tracing::warn!(error, "the content map is kept in memory only until the next start");
}

/// From one batch to the next at least.
const REST: Duration = Duration::from_secs(3);
/// What is written in the long run, where flows change more than that.
const BYTES_PER_SECOND: f64 = (1 << 20) as f64;
const BATCH_BYTES: usize = 4 << 20;
/// What an object costs beside its extents.
const ROW_BYTES: usize = 100;
