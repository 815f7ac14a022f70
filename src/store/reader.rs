//! The reading side of the disk: a place, one read, one seal opened. Shared by the store's handles and its owner.
//!
//! Blocking, except where it says otherwise: callers keep it off the threads that carry flows. The owner publishes
//! here what can be read: segments, the places in them and the names of those. A segment may vanish between a lookup
//! and its read, because eviction waits for nobody: that is a miss.
//!
//! Who asks by name ([`Reader::find_name`]) causes no block to be read: manifests say whole references.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use quick_cache::sync::Cache;

use super::disk::{Disk, DiskFile, SegmentId};
use super::name::Name;
use super::names::{Adopted, Names, NamesRow, adopted_at, entry_at};
use super::seal::{SegmentKey, SegmentSecret};
use super::segment::{Entry, Manifest, Record, decode_record, record_bytes};
use super::table::{Place, Table};
use crate::block::{Block, Digest, KeyId, Reference};
use crate::metrics::StoreMetrics;

mod walk;

pub use walk::Cursor;

/// Reads blocks from the disk.
pub(super) struct Reader {
    disk: Arc<dyn Disk>,
    pub(super) table: Table,
    pub(super) names: Names,
    segments: RwLock<BTreeMap<SegmentId, SegmentSecret>>,
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
    secret: SegmentSecret,
    key: SegmentKey,
}

/// Whether a lookup may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It may not.
    Memory,
    /// It may, on a thread for that.
    Disk,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look<T> {
    /// This.
    Here(T),
    /// Nothing.
    Unknown,
    /// To know takes the disk.
    OnDisk,
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
            names: Names::new(),
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
        self.names.forget_segment(id);
    }

    /// Forgets every segment and block.
    pub(super) fn clear(&self) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.table.clear();
        self.names.clear();
        self.files.clear();
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Returns whether reads fail one after the other: the disk is gone rather than a block.
    pub(super) fn is_failing(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    /// Reads a block. One that is not what was written, or can't be read, is forgotten and counted.
    pub(super) fn read(&self, wanted: &Reference) -> Option<Block> {
        let hint = Name::of(wanted).hint();
        let mut tried = None;
        loop {
            let place = self.table.find(&hint)?;
            if tried == Some(place) {
                return None;
            }
            match self.read_at(wanted, place) {
                Ok(block) => return Some(block),
                // Eviction may have moved the block meanwhile: look once more.
                Err(Miss::Gone) => tried = Some(place),
                Err(miss) => {
                    self.count(&miss, place);
                    self.table.remove(&hint, place);
                    self.table.remove_digest(&wanted.digest, place);
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

    /// Returns what has the name, secret and all. No use of it, and no promise that the block is still good.
    ///
    /// Reaching for memory it doesn't wait.
    pub(super) fn find_name(&self, name: &Name, reach: Reach) -> Look<Reference> {
        let mut tried = None;
        loop {
            let place = self.table.peek(&name.hint());
            // Eviction may have moved the block meanwhile: look once more.
            let Some(place) = place.filter(|place| tried != Some(*place)) else { return Look::Unknown };
            match self.named_at(place, name, reach) {
                Look::Unknown => tried = Some(place),
                found => return found,
            }
        }
    }

    /// Returns the reference that a block with the digest and length was written under. No use of it, and no promise
    /// that the block is still good.
    pub(super) fn find_digest(&self, digest: &Digest, len: u32) -> Option<Reference> {
        let mut tried = None;
        loop {
            let place = self.table.peek_digest(digest);
            // Eviction may have moved the block meanwhile: look once more.
            let place = place.filter(|place| tried != Some(*place))?;
            match self.entry_at(place, Reach::Disk) {
                Look::Here(Entry { reference, .. })
                    if reference.digest == *digest && reference.len == len =>
                {
                    return Some(reference);
                }
                _ => tried = Some(place),
            }
        }
    }

    /// Returns whether the block at the place has this reference, be it adopted.
    pub(super) fn has(&self, wanted: &Reference, place: Place) -> bool {
        self.named_at(place, &Name::of(wanted), Reach::Disk) == Look::Here(*wanted)
    }

    fn named_at(&self, place: Place, name: &Name, reach: Reach) -> Look<Reference> {
        let entry = match self.entry_at(place, reach) {
            Look::Here(entry) => entry,
            Look::Unknown => return Look::Unknown,
            Look::OnDisk => return Look::OnDisk,
        };
        let reference = if entry.reference.key == name.key {
            entry.reference
        } else {
            match self.adopted_at(place, name.key, reach) {
                Look::Here(adopted) => Reference { key: name.key, secret: adopted.secret, ..entry.reference },
                Look::Unknown => return Look::Unknown,
                Look::OnDisk => return Look::OnDisk,
            }
        };
        // The place was a hint; the whole tag decides.
        if name.is_of(&reference) { Look::Here(reference) } else { Look::Unknown }
    }

    fn entry_at(&self, place: Place, reach: Reach) -> Look<Entry> {
        let found = match (self.names.entry(place), reach) {
            (Some(found), _) => found,
            (None, Reach::Memory) => return Look::OnDisk,
            (None, Reach::Disk) => match self.load_manifest(place.segment) {
                Ok(entries) => {
                    let found = entry_at(&entries, place.offset);
                    self.names.keep_manifest(place.segment, entries);
                    found
                }
                Err(miss) => {
                    self.count(&miss, place);
                    None
                }
            },
        };
        found.map_or(Look::Unknown, Look::Here)
    }

    fn adopted_at(&self, place: Place, key: KeyId, reach: Reach) -> Look<Adopted> {
        let found = match (self.names.adopted(place, key), reach) {
            (Some(found), _) => found,
            (None, Reach::Memory) => return Look::OnDisk,
            (None, Reach::Disk) => {
                let changes = self.names.changes();
                // Without an index nothing is known to be adopted, but that may change.
                let Some(row) = self.load_row(place.segment, key) else { return Look::Unknown };
                let found = adopted_at(&row, place.offset);
                self.names.keep_row(place.segment, key, row, changes);
                found
            }
        };
        found.map_or(Look::Unknown, Look::Here)
    }

    /// Reads a segment's manifest: its footer, or the index's row of one that has none. One that is rotten is empty.
    fn load_manifest(&self, id: SegmentId) -> Result<Arc<[Entry]>, Miss> {
        let segment = self.opened(id)?;
        let footer = Manifest::read(|_| segment.secret, id, &*segment.file).map_err(Miss::Failed)?;
        self.failures.store(0, Ordering::Relaxed);
        let manifest = match footer {
            Some(manifest) => Some(manifest),
            None => {
                let row = self.names.ask_index(|index| index.row(id)).and_then(|row| self.believed(row));
                row.flatten().and_then(|row| Manifest::decode_with(|_| segment.secret, id, &row))
            }
        };
        Ok(manifest.map_or_else(Vec::new, |manifest| manifest.entries).into())
    }

    /// Reads what the blocks of a segment were adopted under; `None` without an index.
    fn load_row(&self, id: SegmentId, key: KeyId) -> Option<Arc<[Adopted]>> {
        let secret = self.secret(id)?;
        let row = self.names.ask_index(|index| index.names(id, key)).and_then(|row| self.believed(row))?;
        let names = row.and_then(|row| NamesRow::decode(&secret, id, key, &row));
        Some(names.map_or_else(Vec::new, |names| names.entries).into())
    }

    fn believed<T>(&self, answer: Result<T, redb::Error>) -> Option<T> {
        answer
            .inspect_err(|error| {
                self.metrics.errors.inc();
                tracing::debug!(%error, "the index could not be read");
            })
            .ok()
    }

    fn read_at(&self, wanted: &Reference, place: Place) -> Result<Block, Miss> {
        match self.record_at(wanted, place)? {
            Record::Found(block) => Ok(block),
            Record::Other(block) if self.was_adopted(&block, wanted, place) => {
                Ok(Block::from_seal(*wanted, block.bytes().clone()))
            }
            Record::Other(_) => Err(Miss::Gone),
        }
    }

    fn record_at(&self, wanted: &Reference, place: Place) -> Result<Record, Miss> {
        let segment = self.opened(place.segment)?;
        let mut record = vec![0; record_bytes(wanted.len)];
        let bad = || match self.entry_at(place, Reach::Disk) {
            // A name says nothing of the length: what was asked for is not what is there.
            Look::Here(entry) if entry.reference.len != wanted.len => Miss::Gone,
            _ => Miss::Bad,
        };
        match segment.file.read_at(u64::from(place.offset), &mut record) {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(bad()),
            Err(error) => return Err(Miss::Failed(error)),
        }
        decode_record(&segment.key, place.segment, place.offset, wanted, record).map_err(|_| bad())
    }

    fn was_adopted(&self, block: &Block, wanted: &Reference, place: Place) -> bool {
        let sealed = block.reference();
        let same = sealed.digest == wanted.digest && sealed.len == wanted.len && sealed.key != wanted.key;
        same && matches!(
            self.adopted_at(place, wanted.key, Reach::Disk),
            Look::Here(adopted) if adopted.secret == wanted.secret
        )
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
        let segment = Arc::new(OpenSegment { file, secret, key: secret.key() });
        self.files.insert(id, segment.clone());
        if self.secret(id).is_none() {
            // Evicted since: a file left in this cache would hold its disk space.
            self.files.remove(&id);
        }
        Ok(segment)
    }

    /// Returns what the keys of a segment are made of.
    pub(super) fn secret(&self, id: SegmentId) -> Option<SegmentSecret> {
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
