//! The store: every block this node has seen and still has room for.
//!
//! # The story
//!
//! [`Store::put`] takes a block and never waits. The block is at once in the memory tier (`memory.rs`), and on its
//! way to disk in a bounded queue (`queue.rs`). The owner (`owner.rs`), a thread of its own, takes it from there and
//! appends it, sealed, to the open segment: an append-only file (`segment.rs`, drawn there) that ends with its
//! manifest when it is full. The index (`index.rs`, redb) has one row a segment: that manifest. A table in memory
//! (`table.rs`), rebuilt from the rows at start, says where a block may lie; [`Store::get`] reads that place, opens
//! the seal and compares the whole reference before it gives a byte (`reader.rs`). When the size limit comes near,
//! the oldest segment is dropped whole, a file and a row, after its used blocks moved to the open one (`writer.rs`).
//!
//! A block is known by its whole reference: digest, length, key id and secret. So a block of one domain is never
//! found for another, and who has a wrong secret finds nothing. The one exception is this node itself, which may
//! compare what it was just sent with what it has by the digest alone ([`Store::get_digest`], `by_digest.rs`): that
//! is no way to a block for anybody else. All other tables go by the tag within the domain
//! (`name.rs`), which follows from the reference: so a peer's question, [`Store::find_tag`], needs no table of its
//! own. It is answered out of manifests, and reads no block.
//!
//! When the server secret is rotated, [`Store::adopt`] gives a block that is here a further reference
//! (`adoption.rs`): a row of the index a segment and key, and nothing of the block is written again.
//! [`Store::references`] walks over what is to be adopted (`reader/walk.rs`), and [`Store::expire`] ends the old
//! key's tags (`expired.rs`).
//!
//! # What a crash may lose
//!
//! What was not yet checkpointed: the queue, and the blocks of the open segment since its last checkpoint, a few
//! seconds back at most ([`StoreConfig::checkpoint_after`]); [`Store::flush`] makes one at once. Adoptions go the same
//! way. Nothing that is lost or rotten is ever served: an unfinished segment without a row is deleted at the next
//! start (`recover.rs`), and each block proves itself when read. The whole store is a cache and always disposable; a
//! store that was wiped has a new [`Store::id`]. An index that is lost takes adoptions and expiries along: who knows
//! the keys of the domain should say at each start which have expired, and walk over what was not adopted.
//!
//! # What can go wrong
//!
//! A bad block is dropped from the table, counted, and not found. A disk that is full, read-only or broken turns the
//! disk tier off (`wanigan_store_up` 0, one warning); blocks that are already on it are served as long as they read;
//! the memory tier goes on, and the disk is tried again later. While a disk hangs its blocks are not found, and nobody
//! waits for it but those who asked before that was known (`watch.rs`). Only a key file that is no key stops a start, because
//! an operator has to say what it is.
//!
//! # Memory
//!
//! [`StoreConfig::memory`] bounds the memory tier and the queue together. On top come about 80 bytes for each block
//! on disk (bounded by one block for each 16 KiB of `size`) and 40 for each further reference that it was adopted
//! under (at most four), 140 bytes for each 32 KiB of `memory` (at most 4.5 MiB), the open segment's manifest twice (704 KiB each at most), 12 MiB of manifests and
//! adoptions that were read, 4,096 adoptions without a row (0.4 MiB), 4 MiB of redb's cache, and the blocks and
//! manifests being read.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::block::{Block, Reference};
use crate::metrics::StoreMetrics;

mod adoption;
mod beside;
mod by_digest;
mod disk;
mod expired;
mod index;
mod memory;
mod name;
mod names;
mod owner;
mod queue;
mod reader;
mod recover;
mod seal;
mod segment;
mod sharing;
mod table;
mod tier;
mod watch;
mod writer;

#[cfg(test)]
mod fault_disk;
#[cfg(test)]
mod tests;

pub(crate) use beside::BesideKey;
pub use reader::Cursor;
pub use seal::KeyFault;
pub use sharing::TagFound;

use by_digest::Recent;
use disk::{Directory, Disk};
use expired::Expired;
use memory::Memory;
use name::Name;
use owner::{Delays, Owner};
use queue::{Pushed, Queue};
use reader::Reader;
use table::SEGMENT_BYTES_MAX;
use tier::DiskTier;
use writer::{Fault, Limits};

/// Where the store lies and how large it may grow.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the segments and their index; made where there is none.
    pub dir: PathBuf,
    /// Bytes of all segment files. The index comes on top, a two-hundredth of it.
    pub size: u64,
    /// Bytes of blocks in memory, the queue to the disk included: a quarter of them, but at least 2.25 MiB, which is
    /// then all there is, and at most 16 MiB.
    pub memory: u64,
    /// The 32 random bytes that everything on disk is sealed with; made, with mode 0600, where there is none.
    pub key_file: PathBuf,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// How long a written block may wait until it would survive a power loss.
    pub checkpoint_after: Duration,
    /// How long after a fault the disk is tried again; doubles each time, up to ten minutes.
    pub retry_after: Duration,
    /// How long a read may take. While one takes longer no other is begun, nor for five times that after it.
    pub slow_after: Duration,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The size has no room for the segments that turning over takes.
    #[error("fit {SEGMENTS_MIN} segments of {segment_bytes} bytes into a store of {size}")]
    TooSmall {
        /// What was configured.
        size: u64,
        /// What was configured, or the least there is.
        segment_bytes: u64,
    },
    /// The key file is not a key.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The system gave no thread, or no randomness.
    #[error("start the store's owner")]
    Start(#[source] std::io::Error),
}

/// A handle of the store; clones are the same store.
///
/// The disk's owner ends when [`Store::close`] is called or the last handle is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    memory: Memory,
    recent: Recent,
    tier: Option<DiskTier>,
    expired: Arc<Expired>,
    /// The id of a store without a disk.
    id: [u8; 16],
    metrics: StoreMetrics,
}

impl StoreConfig {
    /// Returns a configuration with the defaults beside what everybody has to say.
    #[must_use]
    pub fn new(dir: PathBuf, key_file: PathBuf, size: u64, memory: u64) -> Self {
        Self {
            dir,
            size,
            memory,
            key_file,
            segment_bytes: (size / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES),
            checkpoint_after: Duration::from_secs(5),
            retry_after: Duration::from_secs(30),
            slow_after: SLOW_AFTER,
        }
    }

    fn queue_bytes(&self) -> u64 {
        // Even a store without a memory tier has to hand blocks to its owner.
        (self.memory / 4).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX)
    }
}

impl Store {
    /// Opens the store in its directory, reads what is there, and starts the thread that owns the disk.
    ///
    /// Blocks the caller for as long as the index takes to read: about a second for 10 million blocks. A disk that
    /// can't be used is no error: the store is then its memory tier, and tries the disk again later.
    ///
    /// # Errors
    /// When the configuration can't work: see [`StoreError`].
    pub fn open(config: StoreConfig, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let disk = Directory { dir: config.dir.clone(), key_file: config.key_file.clone() };
        Self::open_on(Arc::new(disk), &config, metrics)
    }

    /// Makes a store of at most so many bytes that has no disk.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn memory_only(bytes: u64, metrics: StoreMetrics) -> Self {
        metrics.up.set(0);
        let memory = Memory::new(bytes, metrics.memory_bytes.clone());
        let id = seal::random().expect("a system that runs TLS has randomness");
        let recent = Recent::new(bytes);
        Self { shared: Arc::new(Shared { memory, recent, tier: None, expired: Arc::default(), id, metrics }) }
    }

    fn open_on(disk: Arc<dyn Disk>, config: &StoreConfig, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let limits = limits(config)?;
        let delays = Delays { checkpoint: config.checkpoint_after, retry: config.retry_after };
        let id = seal::random().map_err(StoreError::Start)?;
        metrics.up.set(0);
        metrics.limit_bytes.set(i64::try_from(config.size).unwrap_or(i64::MAX));
        let reader = Arc::new(Reader::new(disk.clone(), id, metrics.clone()));
        let expired = Arc::<Expired>::default();
        let owner = Owner::open(disk, limits, delays, reader.clone(), expired.clone(), metrics.clone())
            .map_err(|fault| match fault {
                Fault::Key(fault) => StoreError::Key(fault),
                other => StoreError::Start(std::io::Error::other(other)),
            })?;
        let queue = Arc::new(Queue::new(usize::try_from(config.queue_bytes()).unwrap_or(usize::MAX)));
        start(owner, queue.clone(), metrics.clone()).map_err(StoreError::Start)?;

        let memory_bytes = config.memory.saturating_sub(config.queue_bytes());
        let memory = Memory::new(memory_bytes, metrics.memory_bytes.clone());
        let tier = Some(DiskTier::new(queue, reader, config.slow_after, metrics.skipped_reads.clone()));
        let recent = Recent::new(config.memory);
        Ok(Self { shared: Arc::new(Shared { memory, recent, tier, expired, id, metrics }) })
    }

    /// Returns the random name that the store got when it was made, so that a core notices when an edge has another
    /// one.
    ///
    /// It may change while the store runs: when a disk comes back that was away at the start.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.shared.tier.as_ref().map_or(self.shared.id, |tier| tier.reader.store_id())
    }

    /// Returns the block if it is in memory. Never waits for a disk.
    #[must_use]
    pub fn get_now(&self, reference: &Reference) -> Option<Block> {
        let name = Name::of(reference);
        self.shared.find(reference, &name).or_else(|| {
            let old = self.shared.tier.as_ref()?.queue.adopted_from(reference, &name)?;
            Some(renamed(&self.shared.find(&old, &Name::of(&old))?, reference))
        })
    }

    /// Returns the block if the store has it, from disk if need be.
    ///
    /// Reads run on tokio's blocking threads, a bounded number at a time. Dropping the future is harmless.
    pub async fn get(&self, reference: &Reference) -> Option<Block> {
        let name = Name::of(reference);
        if let Some(block) = self.shared.find(reference, &name) {
            return Some(block);
        }
        // What is being adopted is still there as what it was.
        let tier = self.shared.tier.as_ref()?;
        let wanted = tier.queue.adopted_from(reference, &name).unwrap_or(*reference);
        let block = self.shared.get(wanted, Name::of(&wanted), tier).await?;
        if wanted == *reference {
            return Some(block);
        }
        let block = renamed(&block, reference);
        self.shared.memory.insert(name, block.clone());
        Some(block)
    }

    /// Takes a block. Never waits: it is in memory on return, and on disk a little later, unless the queue to the
    /// disk is full.
    ///
    /// The bytes are copied once, into a buffer of their own: a block cut from a larger one would keep all of that in
    /// memory, past every limit. A block that the store has already is not copied, nor written again.
    pub fn put(&self, block: Block) {
        let Shared { memory, recent, tier, metrics, .. } = &*self.shared;
        let reference = block.reference();
        let name = Name::of(reference);
        recent.note(reference);
        // The lookup in the table marks the block as used: somebody needed it.
        let wants =
            |tier: &&DiskTier| tier.reader.table.find(&name.hint()).is_none() && tier.queue.wants(&name);
        let tier = tier.as_ref().filter(wants);
        let own = match memory.find(&name) {
            Some(_) if tier.is_none() => return,
            Some(own) => own,
            None => {
                // Still the bytes of a block, so still a block.
                let own = Block::from_seal(*reference, Bytes::copy_from_slice(block.bytes()));
                memory.insert(name, own.clone());
                own
            }
        };
        if tier.is_some_and(|tier| tier.queue.push(name, own) == Pushed::Full) {
            metrics.dropped_blocks.inc();
        }
    }

    /// Returns whether the store seems to have the block. A hint: it may be bad, or gone a moment later.
    #[must_use]
    pub fn knows(&self, reference: &Reference) -> bool {
        self.shared.knows(&Name::of(reference))
    }

    /// Returns when every block that was put before, and not refused for a full queue, would survive a power loss; or
    /// when the disk turned out not to work.
    pub async fn flush(&self) {
        if let Some(tier) = &self.shared.tier {
            // An ended owner has nothing left to flush.
            let _ = tier.queue.flush().await;
        }
    }

    /// Writes what waits, seals the open segment and ends the disk's owner. Handles go on as memory tier, and read
    /// the disk as it was left.
    pub async fn close(&self) {
        if let Some(tier) = &self.shared.tier {
            // An owner that has ended is what was asked for.
            let _ = tier.queue.close().await;
        }
    }
}

impl Shared {
    /// Returns the block if it is in memory under this reference, which has this name.
    fn find(&self, reference: &Reference, name: &Name) -> Option<Block> {
        let block = match self.memory.find(name) {
            Some(block) => {
                // The lookup marks the block as used, or what is hottest would look unused on disk.
                let _ = self.tier.as_ref().map(|tier| tier.reader.table.find(&name.hint()));
                block
            }
            None => self.tier.as_ref()?.queue.find(name)?,
        };
        // A name says nothing of the length.
        (block.reference() == reference).then_some(block)
    }

    async fn get(&self, wanted: Reference, name: Name, tier: &DiskTier) -> Option<Block> {
        if let Some(block) = self.find(&wanted, &name) {
            return Some(block);
        }
        if !tier.reader.table.contains(&name.hint()) {
            return None;
        }
        let turn = tier.turn().await?;
        if let Some(block) = self.find(&wanted, &name) {
            return Some(block);
        }
        let block = turn.read(move |reader| reader.read(&wanted)).await.flatten()?;
        self.recent.note(&wanted);
        self.memory.insert(name, block.clone());
        Some(block)
    }

    fn knows(&self, name: &Name) -> bool {
        // In this order: the owner notes a block or a name in the table first, and lets it leave the queue then.
        let has = |tier: &DiskTier| {
            tier.queue.reference(name).is_some() || tier.reader.table.contains(&name.hint())
        };
        self.memory.contains(name) || self.tier.as_ref().is_some_and(has)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(tier) = &self.tier {
            // The owner ends by itself; nobody waits for it here.
            drop(tier.queue.close());
        }
    }
}

/// Returns the block under another reference of the same content.
fn renamed(block: &Block, reference: &Reference) -> Block {
    let own = block.reference();
    debug_assert!(own.digest == reference.digest && own.len == reference.len);
    Block::from_seal(*reference, block.bytes().clone())
}

fn limits(config: &StoreConfig) -> Result<Limits, StoreError> {
    let segment_bytes = config.segment_bytes.min(SEGMENT_BYTES_MAX);
    if config.size < SEGMENTS_MIN * segment_bytes || segment_bytes == 0 {
        return Err(StoreError::TooSmall { size: config.size, segment_bytes });
    }
    Ok(Limits { size: config.size, segment_bytes })
}

fn start(owner: Owner, queue: Arc<Queue>, metrics: StoreMetrics) -> std::io::Result<()> {
    let run = move || {
        // Whatever ends the thread, a panic of the index among it: nobody waits for it, and the metrics say so.
        let ended = Ended { queue, metrics };
        let waiting = owner.run(&ended.queue);
        drop(ended);
        for done in waiting {
            // Whoever asked may have gone meanwhile.
            let _ = done.send(());
        }
    };
    thread::Builder::new().name("wanigan-store".to_owned()).spawn(run).map(drop)
}

struct Ended {
    queue: Arc<Queue>,
    metrics: StoreMetrics,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.queue.end();
        self.metrics.up.set(0);
    }
}

const SEGMENT_BYTES: u64 = 32 << 20;
/// Two of the longest blocks.
const SEGMENT_BYTES_MIN: u64 = 9 << 18;
/// One that is open, one to come, and two to keep something in.
const SEGMENTS_MIN: u64 = 4;
const QUEUE_BYTES_MAX: u64 = 16 << 20;
/// Two of the longest blocks.
const QUEUE_BYTES_MIN: u64 = 9 << 18;
/// Far longer than a read behind 15 others takes, and less than those wait who have something else to do.
const SLOW_AFTER: Duration = Duration::from_secs(1);
