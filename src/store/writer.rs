//! The writing side of the disk: the open segment, its checkpoints and its seal, eviction.
//!
//! No thread and no clock: the owner (see [`super::owner`]) calls it, tests call it directly. Any fault ends a
//! writer: what follows is to open the disk again from what lies on it, see [`super::recover`]. So a place that a
//! write failed on is never written again, and no nonce is used twice.
//!
//! Order on disk, which is what makes a power loss harmless:
//!
//! - blocks, then sync, then the index's rows, of the segment and of what its blocks were adopted under: a row never
//!   names a block that may be lost;
//! - at eviction the row, then the file: a file that comes back without its row is adopted by its footer, or deleted.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::adoption::Adoptions;
use super::disk::{Disk, DiskFile, Lock, SegmentId};
use super::expired::Expired;
use super::index::Index;
use super::name::{Hint, Name};
use super::names::Adopted;
use super::reader::Reader;
use super::seal::{KeyFault, SegmentKey, StoreKey, random};
use super::segment::{
    BLOCKS_MAX, Entry, HEADER_BYTES, Header, Manifest, encode_record, footer_bytes, record_bytes,
};
use super::table::Place;
use crate::block::Block;
use crate::metrics::StoreMetrics;

/// How large things may grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of all segment files.
    pub(super) size: u64,
    /// Bytes of one segment file.
    pub(super) segment_bytes: u64,
}

/// Why the disk can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{doing}")]
    Disk { doing: &'static str, source: io::Error },
    #[error("use the store's index")]
    Index(#[source] Box<redb::Error>),
    #[error(transparent)]
    Key(#[from] KeyFault),
    #[error("number another segment")]
    Numbers,
}

/// Whoever has this is the one that writes.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) key: StoreKey,
    pub(super) store_id: [u8; 16],
    /// The reader has it too, until this writer ends.
    pub(super) index: Arc<Index>,
    pub(super) reader: Arc<Reader>,
    pub(super) limits: Limits,
    pub(super) metrics: StoreMetrics,
    /// Length of every segment file that is written no more.
    pub(super) sealed: BTreeMap<SegmentId, u64>,
    pub(super) next_id: SegmentId,
    pub(super) open: Option<OpenSegment>,
    pub(super) adoptions: Adoptions,
    pub(super) expired: Arc<Expired>,
    /// Last, so that the index is closed before another writer may come.
    pub(super) _lock: Lock,
}

/// The segment that blocks are appended to.
pub(super) struct OpenSegment {
    file: Box<dyn DiskFile>,
    key: SegmentKey,
    manifest: Manifest,
    /// Blocks that the index's row has.
    durable: usize,
}

impl Writer {
    /// Writes a block, unless it is there already; one longer than a segment is not.
    pub(super) fn append(&mut self, block: &Block) -> Result<(), Fault> {
        if self.reader.table.contains(&Name::of(block.reference()).hint()) {
            return Ok(());
        }
        let len = block.reference().len;
        let empty = Manifest::new(Header { id: SegmentId(0), store_id: [0; 16], salt: [0; 32] });
        if !self.limits.fits(&empty, len) {
            self.metrics.dropped_blocks.inc();
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|open| !self.limits.fits(&open.manifest, len)) {
            self.seal()?;
        }
        if self.open.is_none() {
            self.start()?;
        }
        self.append_to_open(block).map(drop)
    }

    /// Returns whether a power loss now would lose blocks or adoptions.
    pub(super) fn is_dirty(&self) -> bool {
        self.open.as_ref().is_some_and(OpenSegment::is_dirty) || self.reader.names.fresh_len() > 0
    }

    /// Makes every block and adoption durable.
    pub(super) fn checkpoint(&mut self) -> Result<(), Fault> {
        let names = self.fresh_rows()?;
        let open = self.open.as_mut().filter(|open| open.is_dirty());
        let mut row = None;
        if let Some(open) = &open {
            open.file.sync().during("sync a segment")?;
            row = Some((open.manifest.header.id, open.manifest.encode(&open.key)));
        }
        if row.is_some() || !names.is_empty() {
            self.index.put_rows(row.as_ref().map(|(id, row)| (*id, &row[..])), &names)?;
        }
        if let Some(open) = open {
            open.durable = open.manifest.entries.len();
        }
        self.reader.names.settle();
        Ok(())
    }

    /// Ends the open segment with its manifest.
    pub(super) fn seal(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let id = open.manifest.header.id;
        let row = open.manifest.encode(&open.key);
        open.file
            .write_at(u64::from(open.manifest.end), &row[HEADER_BYTES..])
            .during("write a segment's manifest")?;
        open.file.sync().during("sync a segment")?;
        if open.is_dirty() {
            self.index.put_rows(Some((id, &row)), &[])?;
        }
        self.reader.names.seal();
        self.sealed.insert(id, open.manifest.file_bytes());
        self.show();
        Ok(())
    }

    /// Drops the oldest segments until the limits hold, and room is left for a segment that is open and the next one.
    pub(super) fn evict(&mut self) -> Result<(), Fault> {
        // Blocks saved from eviction take at most a quarter of the segment that they move to.
        let mut spare = self.limits.segment_bytes / 4;
        while self.is_over() {
            let Some((id, _)) = self.sealed.first_key_value() else { break };
            let id = *id;
            match self.index.row(id)?.and_then(|row| Manifest::decode(&self.key, id, &row)) {
                Some(manifest) => self.empty(&manifest, &mut spare)?,
                None => self.reader.table.remove_segment(id),
            }
            self.forget_names_of(id);
            self.index.remove_rows(&[id])?;
            self.disk.remove(id).during("remove a segment")?;
            self.reader.remove(id);
            self.sealed.remove(&id);
        }
        self.show();
        Ok(())
    }

    /// Shows sizes in the metrics.
    pub(super) fn show(&self) {
        let open = self.open.as_ref().map_or(0, |open| u64::from(open.manifest.end));
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.bytes.set(gauge(self.sealed.values().sum::<u64>() + open));
        self.metrics.segments.set(gauge(self.sealed.len() as u64 + u64::from(self.open.is_some())));
    }

    fn start(&mut self) -> Result<(), Fault> {
        let id = self.next_id;
        self.next_id = SegmentId(id.0.checked_add(1).ok_or(Fault::Numbers)?);
        let salt = random().during("make a segment's salt")?;
        let header = Header { id, store_id: self.store_id, salt };
        let file = self.disk.create(id).during("make a segment")?;
        file.write_at(0, &header.encode()).during("write a segment's header")?;
        let secret = header.secret(&self.key);
        self.reader.add(id, secret);
        self.reader.names.start(id);
        self.open =
            Some(OpenSegment { file, key: secret.key(), manifest: Manifest::new(header), durable: 0 });
        self.evict()
    }

    fn append_to_open(&mut self, block: &Block) -> Result<Place, Fault> {
        let open = self.open.as_mut().expect("the caller opened a segment that has room");
        let (id, offset) = (open.manifest.header.id, open.manifest.end);
        let record = encode_record(&open.key, id, offset, block);
        open.file.write_at(u64::from(offset), &record).during("write a block")?;
        let entry = Entry::new(*block.reference(), offset);
        open.manifest.end = u32::try_from(entry.end()).expect("a segment is at most 1 GiB");
        open.manifest.entries.push(entry);
        let place = Place { segment: id, offset };
        self.reader.names.push(entry);
        self.reader.table.insert(&entry.hint(), place);
        self.reader.table.insert_digest(&entry.reference.digest, place);
        self.metrics.written_bytes.inc_by(block.bytes().len() as u64);
        self.metrics.bytes.add(i64::try_from(record.len()).unwrap_or(i64::MAX));
        Ok(place)
    }

    /// Moves what was used to the open segment, as far as there is room, and forgets the rest.
    fn empty(&mut self, manifest: &Manifest, spare: &mut u64) -> Result<(), Fault> {
        let others = self.other_names(manifest.header.id);
        for entry in &manifest.entries {
            let place = Place { segment: manifest.header.id, offset: entry.offset };
            let names = others.at(place, &self.reader.table);
            let bytes = record_bytes(entry.reference.len) as u64;
            let has_room = |open: &OpenSegment| self.limits.fits(&open.manifest, entry.reference.len);
            let was_used = |hint: &Hint| self.reader.table.was_used(hint, place);
            let keep = *spare >= bytes
                && self.open.as_ref().is_some_and(has_room)
                && (was_used(&entry.hint()) || names.iter().any(|(key, name)| was_used(&name.hint(*key))));
            if keep && let Some(block) = self.reader.read_to_keep(&entry.reference, place) {
                *spare -= bytes;
                let place = self.append_to_open(&block)?;
                for (key, name) in names {
                    self.adopt_at(place, key, Adopted { offset: place.offset, ..name })?;
                }
                continue;
            }
            for (key, name) in names {
                self.reader.table.remove(&name.hint(key), place);
            }
            self.reader.table.remove_digest(&entry.reference.digest, place);
            if self.reader.table.remove(&entry.hint(), place) {
                self.metrics.evicted_bytes.inc_by(u64::from(entry.reference.len));
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let bytes = self.sealed.values().sum::<u64>() + 2 * self.limits.segment_bytes;
        bytes > self.limits.size
            || self.reader.table.blocks() > self.limits.blocks_max()
            || self.sealed.len() as u64 > self.limits.segments_max()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The index is to be closed here, before the lock is let go.
        self.reader.names.set_index(None);
    }
}

impl OpenSegment {
    fn is_dirty(&self) -> bool {
        self.durable < self.manifest.entries.len()
    }
}

impl Limits {
    /// Short blocks must not make the table in memory outgrow what the store's size lets expect.
    fn blocks_max(&self) -> u64 {
        (self.size / SHORTEST_MEAN_BLOCK).max(BLOCKS_MAX as u64)
    }

    /// Every restart leaves a segment that is not full.
    fn segments_max(&self) -> u64 {
        4 * self.size.div_ceil(self.segment_bytes) + 16
    }

    fn fits(&self, manifest: &Manifest, len: u32) -> bool {
        let blocks = manifest.entries.len() + 1;
        let bytes = u64::from(manifest.end) + (record_bytes(len) + footer_bytes(blocks)) as u64;
        blocks <= BLOCKS_MAX && bytes <= self.segment_bytes
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        Self::Index(Box::new(error))
    }
}

/// Says what was being done when a disk failed.
pub(super) trait During<T> {
    fn during(self, doing: &'static str) -> Result<T, Fault>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, doing: &'static str) -> Result<T, Fault> {
        self.map_err(|source| Fault::Disk { doing, source })
    }
}

const SHORTEST_MEAN_BLOCK: u64 = 16 << 10;
