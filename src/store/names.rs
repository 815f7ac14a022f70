//! What is known in memory of who lies where on disk, secrets included; and the access to the rest.
//!
//! A block is written once, under one reference. When the secret that made it is rotated, the block is *adopted*: it
//! gets another reference, of the same digest and length, under another key. So a place has up to [`KEYS_MAX`] names
//! more, in rows of the index beside the manifests (`names/row.rs`).
//!
//! In memory are the manifest of the open segment and the adoptions that no row has yet, both published by the owner
//! as they come, and bounded caches of manifests and rows that were read. What is in none of them has to be read,
//! which is the reader's business (see [`super::reader`]): the caches here are asked from threads that must not wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::disk::SegmentId;
use super::index::Index;
use super::segment::Entry;
use super::table::Place;
use crate::block::KeyId;

mod row;

pub(super) use row::{Adopted, NamesRow};

/// Keys that blocks of one segment may be adopted under: more would be rotations within each other's grace.
pub(super) const KEYS_MAX: usize = 4;

/// What is known of the blocks on disk.
pub(super) struct Names {
    open: RwLock<Option<(SegmentId, Vec<Entry>)>>,
    fresh: RwLock<Fresh>,
    /// There while the disk is in use. Whoever reads holds the lock, so that who takes the index away is the last to
    /// have it.
    index: RwLock<Option<Arc<Index>>>,
    manifests: Cache<SegmentId, Arc<[Entry]>, Bytes>,
    rows: Cache<(SegmentId, KeyId), Arc<[Adopted]>, Bytes>,
    /// Grows with every change of rows, so that who has read one notices that it was an old one.
    changes: AtomicU64,
}

/// Adoptions that no row has yet, by place.
pub(super) type Fresh = HashMap<(SegmentId, KeyId), BTreeMap<u32, Adopted>>;

impl Names {
    pub(super) fn new() -> Self {
        Self {
            open: RwLock::default(),
            fresh: RwLock::default(),
            index: RwLock::default(),
            manifests: cache(MANIFESTS_BYTES),
            rows: cache(ROWS_BYTES),
            changes: AtomicU64::new(0),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *write(&self.open) = None;
        write(&self.fresh).clear();
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.manifests.clear();
        self.rows.clear();
    }

    /// Gives access to the index, or takes it away; on return nobody is reading it.
    pub(super) fn set_index(&self, index: Option<Arc<Index>>) {
        *write(&self.index) = index;
    }

    /// Asks the index, if the disk is in use.
    pub(super) fn ask_index<T>(
        &self,
        ask: impl FnOnce(&Index) -> Result<T, redb::Error>,
    ) -> Option<Result<T, redb::Error>> {
        read(&self.index).as_deref().map(ask)
    }

    /// Notes that a segment was opened for writing.
    pub(super) fn start(&self, id: SegmentId) {
        *write(&self.open) = Some((id, Vec::new()));
    }

    /// Notes a block of the open segment.
    pub(super) fn push(&self, entry: Entry) {
        if let Some((_, entries)) = &mut *write(&self.open) {
            entries.push(entry);
        }
    }

    /// Notes that the open segment is written no more.
    pub(super) fn seal(&self) {
        let mut open = write(&self.open);
        if let Some((id, entries)) = open.take() {
            // While the lock is held, so that nobody finds neither.
            self.manifests.insert(id, entries.into());
        }
    }

    /// Returns the blocks of a segment if they are in memory; a copy for the open one.
    pub(super) fn manifest(&self, id: SegmentId) -> Option<Arc<[Entry]>> {
        match &*read(&self.open) {
            Some((open, entries)) if *open == id => Some(entries.as_slice().into()),
            _ => self.manifests.get(&id),
        }
    }

    /// Returns the block at a place if its segment's are in memory: `Some(None)` when none begins there.
    pub(super) fn entry(&self, place: Place) -> Option<Option<Entry>> {
        match &*read(&self.open) {
            Some((open, entries)) if *open == place.segment => Some(entry_at(entries, place.offset)),
            _ => self.manifests.get(&place.segment).map(|entries| entry_at(&entries, place.offset)),
        }
    }

    /// Keeps a manifest that was read.
    pub(super) fn keep_manifest(&self, id: SegmentId, entries: Arc<[Entry]>) {
        self.manifests.insert(id, entries);
    }

    /// Notes an adoption that no row has yet.
    pub(super) fn adopt(&self, id: SegmentId, key: KeyId, adopted: Adopted) {
        write(&self.fresh).entry((id, key)).or_default().insert(adopted.offset, adopted);
    }

    /// Returns the adoptions that no row has yet.
    pub(super) fn fresh(&self) -> Fresh {
        read(&self.fresh).clone()
    }

    /// Returns how many adoptions no row has yet.
    pub(super) fn fresh_len(&self) -> usize {
        read(&self.fresh).values().map(BTreeMap::len).sum()
    }

    /// Returns the adoptions of a segment that no row has yet.
    pub(super) fn fresh_of(&self, id: SegmentId, key: KeyId) -> BTreeMap<u32, Adopted> {
        read(&self.fresh).get(&(id, key)).cloned().unwrap_or_default()
    }

    /// Returns what a block was adopted under, if that is in memory: `Some(None)` when it was not.
    pub(super) fn adopted(&self, place: Place, key: KeyId) -> Option<Option<Adopted>> {
        let at = (place.segment, key);
        if let Some(adopted) = read(&self.fresh).get(&at).and_then(|fresh| fresh.get(&place.offset)) {
            return Some(Some(*adopted));
        }
        self.rows.get(&at).map(|entries| adopted_at(&entries, place.offset))
    }

    /// Returns a row's entries if they are in memory.
    pub(super) fn row(&self, id: SegmentId, key: KeyId) -> Option<Arc<[Adopted]>> {
        self.rows.get(&(id, key))
    }

    /// Returns what to show to [`Names::keep_row`] for a row that is read from here on.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Keeps a row that was read, unless rows changed meanwhile.
    pub(super) fn keep_row(&self, id: SegmentId, key: KeyId, entries: Arc<[Adopted]>, changes: u64) {
        self.rows.insert((id, key), entries);
        if self.changes() != changes {
            self.rows.remove(&(id, key));
        }
    }

    /// Notes that the rows have all that was fresh.
    pub(super) fn settle(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let mut fresh = write(&self.fresh);
        for at in fresh.keys() {
            self.rows.remove(at);
        }
        fresh.clear();
    }

    /// Forgets the names of a segment under a key.
    pub(super) fn forget(&self, id: SegmentId, key: KeyId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.rows.remove(&(id, key));
        write(&self.fresh).remove(&(id, key));
    }

    /// Forgets a segment.
    pub(super) fn forget_segment(&self, id: SegmentId) {
        self.manifests.remove(&id);
    }
}

/// Returns the block that begins at `offset`.
pub(super) fn entry_at(entries: &[Entry], offset: u32) -> Option<Entry> {
    entries.binary_search_by_key(&offset, |entry| entry.offset).ok().map(|at| entries[at])
}

/// Returns what the block at `offset` was adopted under.
pub(super) fn adopted_at(entries: &[Adopted], offset: u32) -> Option<Adopted> {
    entries.binary_search_by_key(&offset, |entry| entry.offset).ok().map(|at| entries[at])
}

fn cache<K, T>(bytes_max: u64) -> Cache<K, Arc<[T]>, Bytes>
where
    K: Clone + Eq + std::hash::Hash,
{
    let options = OptionsBuilder::new()
        .weight_capacity(bytes_max)
        .estimated_items_capacity(64)
        // One, so that the largest item is a small share of it.
        .shards(1)
        .build()
        .expect("weight and items are set");
    Cache::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

#[derive(Clone)]
struct Bytes;

impl<K, T> Weighter<K, Arc<[T]>> for Bytes {
    fn weight(&self, _: &K, entries: &Arc<[T]>) -> u64 {
        size_of_val::<[T]>(entries) as u64 + OVERHEAD_BYTES
    }
}

// What is guarded is whole at every moment, so a panic of another holder leaves nothing to fear.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Some 180 manifests of full segments of 64 KiB blocks, or eleven of the longest.
const MANIFESTS_BYTES: u64 = 8 << 20;
/// Some 180 rows of such segments, or eleven of the longest.
const ROWS_BYTES: u64 = 4 << 20;
const OVERHEAD_BYTES: u64 = 256;
