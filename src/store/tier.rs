//! The disk as the store's handles see it: blocks go into its queue, and come back by reads on threads for that.
//!
//! Blocks and manifests are read by turns, a bounded number of each at a time. A disk that hangs gives no turn: see
//! `watch.rs`. What can go wrong is then told by what is not found.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::queue::Queue;
use super::reader::Reader;
use super::watch::Watch;

/// The disk, its queue and its reads.
pub(super) struct DiskTier {
    pub(super) queue: Arc<Queue>,
    pub(super) reader: Arc<Reader>,
    reads: Arc<Semaphore>,
    /// For reading manifests, so that nobody's questions take the place of reads.
    look_ups: Arc<Semaphore>,
    watch: Arc<Watch>,
    skipped: IntCounter,
}

/// A read's turn. Nothing is read until [`Turn::read`].
pub(super) struct Turn<'a> {
    tier: &'a DiskTier,
    permit: OwnedSemaphorePermit,
}

impl DiskTier {
    /// Makes a tier whose reads take less than that unless the disk hangs; those which it then skips are counted.
    pub(super) fn new(
        queue: Arc<Queue>,
        reader: Arc<Reader>,
        slow_after: Duration,
        skipped: IntCounter,
    ) -> Self {
        let (reads, look_ups) = (Arc::new(Semaphore::new(READS_MAX)), Arc::new(Semaphore::new(LOOK_UPS_MAX)));
        Self { queue, reader, reads, look_ups, watch: Arc::new(Watch::new(slow_after)), skipped }
    }

    /// Waits for the turn to read a block; none comes while the disk hangs.
    pub(super) async fn turn(&self) -> Option<Turn<'_>> {
        self.turn_of(&self.reads).await
    }

    /// Looks manifests up, when their turn has come; none comes while the disk hangs.
    pub(super) async fn look_up<T: Send + 'static>(
        &self,
        look_up: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Option<T> {
        self.turn_of(&self.look_ups).await?.read(look_up).await
    }

    /// Looks many manifests up, however long it takes.
    pub(super) async fn walk<T: Send + 'static>(
        &self,
        walk: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.look_ups.clone().acquire_owned().await.ok()?;
        self.on_thread(permit, walk).await
    }

    async fn turn_of(&self, turns: &Arc<Semaphore>) -> Option<Turn<'_>> {
        if !self.answers() {
            return None;
        }
        let permit = turns.clone().acquire_owned().await.ok()?;
        // Others may have found out meanwhile that it hangs.
        self.answers().then_some(Turn { tier: self, permit })
    }

    /// Returns whether the disk does not answer.
    pub(super) fn hangs(&self) -> bool {
        !self.watch.answers(Instant::now())
    }

    fn answers(&self) -> bool {
        let answers = !self.hangs();
        if !answers {
            self.skipped.inc();
        }
        answers
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        read: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Option<T> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&reader)
        });
        // It fails only when the runtime shuts down.
        let found = read.await.ok();
        if self.reader.is_failing() {
            self.queue.report_reads();
        }
        found
    }
}

impl Turn<'_> {
    /// Reads, on a thread for that.
    pub(super) async fn read<T: Send + 'static>(
        self,
        read: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Option<T> {
        let watch = self.tier.watch.clone();
        let watched = move |reader: &Reader| {
            let _under_way = watch.begin();
            read(reader)
        };
        self.tier.on_thread(self.permit, watched).await
    }
}

/// Enough to keep a solid-state disk busy, few enough to bound the memory of reads to 16 MiB.
const READS_MAX: usize = 16;
/// Manifests that are read at once for peers and for walks: 704 KiB each at most.
const LOOK_UPS_MAX: usize = 4;
