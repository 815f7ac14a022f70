//! The content map of a node: shared by its flows, kept on disk across restarts.
//!
//! [`ContentMap`] decides, this is its shell. Flows look and learn through [`SharedMap::with`], briefly and never over
//! a wait. A thread of its own (`saver.rs`) writes what changed every few seconds, and at [`SharedMap::close`], to a
//! file beside the store's (`file.rs`, drawn there); [`SharedMap::open`] reads it, the latest first.
//!
//! # What a crash may lose
//!
//! The last seconds; an object that was written is whole, or as it was before. The file is a cache of hints about
//! blocks: it is disposable, and dropped when the store is another than at the last write, since then the blocks are
//! gone. All of it is sealed with a key derived from the store's: digests and paths are what the store hides as well,
//! and the versions in it are what slices are named by.
//!
//! # What can go wrong
//!
//! A file that is no good is made anew. A disk that fails is told of once and counted, and the map lives in memory
//! until the next start; nothing else depends on it.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::matching::{ContentMap, MapHandle};
use crate::metrics::ContentMapMetrics;
use crate::store::{Store, StoreConfig};

mod file;
mod saver;
#[cfg(test)]
mod tests;

use file::MapFile;
use saver::Saver;

/// What a node keeps of the content that went through it. Clones are the same.
#[derive(Clone)]
pub struct Kept {
    /// The blocks.
    pub store: Store,
    /// Where they are in the servers' content.
    pub map: SharedMap,
}

/// Where a map is kept and how much it knows.
#[derive(Debug, Clone)]
pub struct MapConfig {
    /// The file; its directory is the store's, or has to exist.
    pub file: PathBuf,
    /// The store's key.
    pub key_file: PathBuf,
    /// Extents at most, some 150 bytes of memory each, and as much again for an object of one.
    pub extents_max: usize,
    /// Keys at most, some 40 bytes each.
    pub keys_max: usize,
}

/// A handle of the map; clones are the same map. It is written once more when the last one is dropped.
#[derive(Clone)]
pub struct SharedMap {
    shared: Arc<Shared>,
    /// Tells the saver to end; `None` where nothing is saved.
    saver: Option<SyncSender<oneshot::Sender<()>>>,
}

struct Shared {
    map: Arc<Mutex<ContentMap>>,
    metrics: ContentMapMetrics,
}

impl MapConfig {
    /// Sizes a map for a store: an extent for each 64 KiB that the store can keep.
    ///
    /// Maps of one node that are to know nothing of each other differ in their name.
    #[must_use]
    pub fn beside(store: &StoreConfig, name: &str) -> Self {
        let blocks = usize::try_from(store.size / EXTENT_BYTES).unwrap_or(usize::MAX);
        Self {
            file: store.dir.join(format!("{name}.redb")),
            key_file: store.key_file.clone(),
            extents_max: blocks.clamp(EXTENTS_MIN, EXTENTS_MAX),
            keys_max: KEYS_MAX,
        }
    }
}

impl SharedMap {
    /// Reads the map that was kept for this store, if any, and starts the thread that keeps it. A map that can't be
    /// kept is in memory only.
    ///
    /// Blocks the caller while the file is read: about a second for a million extents.
    #[must_use]
    pub fn open(config: &MapConfig, store: &Store, metrics: ContentMapMetrics) -> Self {
        let mut map = ContentMap::new(config.extents_max, config.keys_max);
        let file = MapFile::open(config, store.id()).and_then(|mut file| {
            file.load(&mut map)?;
            Ok(file)
        });
        let shared = Arc::new(Shared { map: Arc::new(Mutex::new(map)), metrics });
        shared.with(|_| ());
        let started = file.map_err(saver::Fault::from).and_then(|file| {
            let (sender, closing) = sync_channel(1);
            Saver::new(shared.clone(), file, store.clone()).start(closing)?;
            Ok(sender)
        });
        let saver = started.map_err(|fault| saver::give_up(&fault, &shared.metrics)).ok();
        Self { shared, saver }
    }

    /// Makes a map that is kept nowhere.
    #[must_use]
    pub fn memory_only(map: ContentMap, metrics: ContentMapMetrics) -> Self {
        Self { shared: Arc::new(Shared { map: Arc::new(Mutex::new(map)), metrics }), saver: None }
    }

    /// Returns the map itself. Calls are to be short: others wait for them, on threads that carry flows.
    #[must_use]
    pub fn handle(&self) -> MapHandle {
        Arc::clone(&self.shared.map)
    }

    /// Looks or learns.
    pub fn with<T>(&self, call: impl FnOnce(&mut ContentMap) -> T) -> T {
        self.shared.with(call)
    }

    /// Writes what changed and ends the saver. Handles go on in memory.
    pub async fn close(&self) {
        let Some(saver) = &self.saver else { return };
        let (done, ended) = oneshot::channel();
        // A saver that is ending, or has, was told before.
        if saver.try_send(done).is_ok() {
            let _ = ended.await;
        }
    }
}

impl Shared {
    fn with<T>(&self, call: impl FnOnce(&mut ContentMap) -> T) -> T {
        // The map is whole between calls; after a panic within one it is at worst a wrong hint.
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let result = call(&mut map);
        self.metrics.extents.set(i64::try_from(map.extents()).unwrap_or(i64::MAX));
        self.metrics.objects.set(i64::try_from(map.objects()).unwrap_or(i64::MAX));
        result
    }
}

/// A cell of the matcher's grid.
const EXTENT_BYTES: u64 = 64 << 10;
const EXTENTS_MIN: usize = 4096;
/// 64 GiB of content, some 150 MiB of memory when full.
const EXTENTS_MAX: usize = 1 << 20;
/// What fills the two hash tables of the keys to the brim: 17 MiB, and 25 while they grow.
const KEYS_MAX: usize = 2 * 7 * (1 << 15);
