//! The reading side of the disk: a place, one read, one seal opened. Shared by the store's handles and its owner.
//!
//! Blocking: callers keep it off the threads that carry flows. The owner publishes here what can be read: segments
//! and the places in them. A segment may vanish between a lookup and its read, because eviction waits for nobody:
//! that is a miss.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quick_cache::sync::Cache;

use super::disk::{Disk, DiskFile, SegmentId};
use super::seal::{SegmentKey, SegmentSecret};
use super::segment::{Record, decode_record, record_bytes};
use super::table::{Place, Table};
use crate::block::{Block, Reference};
use crate::metrics::StoreMetrics;

/// Reads blocks from the disk.
pub(super) struct Reader {
    disk: Arc<dyn Disk>,
    pub(super) table: Table,
    segments: RwLock<HashMap<SegmentId, SegmentSecret>>,
    /// Open segments. Their number bounds the file descriptors, whatever the store's size.
    files: Cache<SegmentId, Arc<OpenSegment>>,
    store_id: RwLock<[u8; 16]>,
    /// Failed reads since the last that worked.
    failures: AtomicU32,
    warned: AtomicBool,
    metrics: StoreMetrics,
}

struct OpenSegment {
    file: Box<dyn DiskFile>,
    key: SegmentKey,
}

/// Why a place gave no block.
enum Miss {
    /// The segment was evicted, or another block is there.
    Gone,
    /// The bytes are not what was written.
    Bad,
    Failed(io::Error),
}

impl Reader {
    /// Makes a reader that knows no segment.
    pub(super) fn new(disk: Arc<dyn Disk>, store_id: [u8; 16], metrics: StoreMetrics) -> Self {
        Self {
            disk,
            table: Table::new(metrics.blocks.clone()),
            segments: RwLock::default(),
            files: Cache::new(OPEN_FILES_MAX),
            store_id: RwLock::new(store_id),
            failures: AtomicU32::new(0),
            warned: AtomicBool::new(false),
            metrics,
        }
    }

    /// Returns the id of the store that is on the disk.
    pub(super) fn store_id(&self) -> [u8; 16] {
        *self.store_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the id of the store that is on the disk.
    pub(super) fn set_store_id(&self, id: [u8; 16]) {
        *self.store_id.write().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Makes a segment readable; its places go into the table.
    pub(super) fn add(&self, id: SegmentId, secret: SegmentSecret) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(id, secret);
    }

    /// Ends reading from a segment.
    pub(super) fn remove(&self, id: SegmentId) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.files.remove(&id);
    }

    /// Forgets every segment and block.
    pub(super) fn clear(&self) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.table.clear();
        self.files.clear();
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Returns whether reads fail one after the other: the disk is gone rather than a block.
    pub(super) fn is_failing(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    /// Reads a block. One that is not what was written, or can't be read, is forgotten and counted.
    pub(super) fn read(&self, wanted: &Reference) -> Option<Block> {
        let mut tried = None;
        loop {
            let place = self.table.find(wanted)?;
            if tried == Some(place) {
                return None;
            }
            match self.read_at(wanted, place) {
                Ok(block) => return Some(block),
                // Eviction may have moved the block meanwhile: look once more.
                Err(Miss::Gone) => tried = Some(place),
                Err(miss) => {
                    self.count(&miss, place);
                    self.table.remove(wanted, place);
                    return None;
                }
            }
        }
    }

    /// Reads a block for eviction, which removes what does not read.
    pub(super) fn read_to_keep(&self, wanted: &Reference, place: Place) -> Option<Block> {
        match self.read_at(wanted, place) {
            Ok(block) => Some(block),
            Err(miss) => {
                self.count(&miss, place);
                None
            }
        }
    }

    fn read_at(&self, wanted: &Reference, place: Place) -> Result<Block, Miss> {
        let segment = self.opened(place.segment)?;
        let mut record = vec![0; record_bytes(wanted.len)];
        match segment.file.read_at(u64::from(place.offset), &mut record) {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Miss::Bad),
            Err(error) => return Err(Miss::Failed(error)),
        }
        match decode_record(&segment.key, place.segment, place.offset, wanted, record) {
            Ok(Record::Found(block)) => Ok(block),
            Ok(Record::Other) => Err(Miss::Gone),
            Err(_) => Err(Miss::Bad),
        }
    }

    fn opened(&self, id: SegmentId) -> Result<Arc<OpenSegment>, Miss> {
        if let Some(segment) = self.files.get(&id) {
            return Ok(segment);
        }
        let secret = self.secret(id).ok_or(Miss::Gone)?;
        let file = self.disk.open(id).map_err(|error| match self.secret(id) {
            Some(_) => Miss::Failed(error),
            None => Miss::Gone,
        })?;
        let segment = Arc::new(OpenSegment { file, key: secret.key() });
        self.files.insert(id, segment.clone());
        if self.secret(id).is_none() {
            // Evicted since: a file left in this cache would hold its disk space.
            self.files.remove(&id);
        }
        Ok(segment)
    }

    fn secret(&self, id: SegmentId) -> Option<SegmentSecret> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    fn count(&self, miss: &Miss, place: Place) {
        match miss {
            Miss::Gone => {}
            Miss::Bad => {
                self.metrics.bad_blocks.inc();
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "a stored block was not what was written and is fetched again; more are only counted"
                    );
                }
                tracing::debug!(?place, "bad block");
            }
            Miss::Failed(error) => {
                self.metrics.errors.inc();
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, ?place, "read failed");
            }
        }
    }
}

const OPEN_FILES_MAX: usize = 256;
const FAILURES_MAX: u32 = 8;
