//! Opening what lies on the disk, in whatever state the last process left it.
//!
//! The index is believed where its rows open under the store's key; a segment without a good row is adopted by its
//! footer or, having none, deleted: it was open when the process died. An index that is lost, rotten or of another
//! format is thrown away first, so every segment then goes by its footer. A checkpointed segment without footer gets
//! the one that its row holds, byte for byte what its writer would have written; nothing else is ever appended to an
//! old segment. What blocks were adopted under is believed as far as it belongs to a segment that is there.
//!
//! Whatever is wrong with the data, the outcome is a store, at worst an empty one with a new id. Only a disk that
//! can't be used, or a key that can't be read, is a fault.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adoption::Adoptions;
use super::disk::{Disk, SegmentId};
use super::expired::Expired;
use super::index::Index;
use super::names::NamesRow;
use super::reader::Reader;
use super::seal::{StoreKey, random};
use super::segment::{HEADER_BYTES, Manifest};
use super::table::Place;
use super::writer::{During, Fault, Limits, Writer};
use crate::block::KeyId;
use crate::metrics::StoreMetrics;

/// Opens the disk for writing and shows the reader what is on it.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    limits: Limits,
    reader: &Arc<Reader>,
    expired: &Arc<Expired>,
    metrics: &StoreMetrics,
) -> Result<Writer, Fault> {
    reader.clear();
    let lock = disk.prepare().during("open the store's directory")?;
    let key = disk.key()?;
    let index = Arc::new(open_index(&**disk)?);
    let files = disk.list().during("list the segments")?;
    let next_id = files.keys().next_back().map_or(Some(1), |id| id.0.checked_add(1)).ok_or(Fault::Numbers)?;

    let mut found = Found { disk: &**disk, key: &key, reader, metrics, sealed: BTreeMap::new(), id: None };
    let had_files = !files.is_empty();
    let stale = found.adopt_rows(&index, files.clone())?;
    index.remove_rows(&stale)?;
    for id in files.into_keys().filter(|id| !found.sealed.contains_key(id)).collect::<Vec<_>>() {
        found.adopt_or_remove(&index, id)?;
    }
    let (adoptions, stale_names) = found.adopt_names(&index)?;
    index.remove_names(&stale_names)?;

    let wiped = found.sealed.is_empty() && (had_files || !stale.is_empty());
    if wiped {
        tracing::warn!("the store had nothing that can be used; it starts empty");
    }
    let old_id = index.store_id()?.or(found.id).filter(|_| !wiped);
    let store_id = old_id.map_or_else(|| random().during("make the store's id"), Ok)?;
    index.set_store_id(store_id)?;
    reader.set_store_id(store_id);
    let persisted = index.expired()?;
    let keys = expired.load(&persisted);
    if keys != persisted {
        index.set_expired(&keys)?;
    }
    let sealed = found.sealed;
    reader.names.set_index(Some(index.clone()));
    let mut writer = Writer {
        disk: disk.clone(),
        key,
        store_id,
        index,
        reader: reader.clone(),
        limits,
        metrics: metrics.clone(),
        sealed,
        next_id: SegmentId(next_id),
        open: None,
        adoptions,
        expired: expired.clone(),
        _lock: lock,
    };
    writer.evict()?;
    Ok(writer)
}

fn open_index(disk: &dyn Disk) -> Result<Index, Fault> {
    match Index::open(disk.open_index().during("open the store's index")?) {
        Ok(index) => Ok(index),
        Err(error) => {
            tracing::warn!(%error, "the store's index can't be used; rebuilding it");
            disk.remove_index().during("remove the store's index")?;
            Ok(Index::open(disk.open_index().during("open the store's index")?)?)
        }
    }
}

/// What was found on the disk so far.
struct Found<'a> {
    disk: &'a dyn Disk,
    key: &'a StoreKey,
    reader: &'a Reader,
    metrics: &'a StoreMetrics,
    sealed: BTreeMap<SegmentId, u64>,
    /// The store's id as the newest segment has it.
    id: Option<[u8; 16]>,
}

impl Found<'_> {
    /// Adopts the segments that have a row and a file; returns the rows that have no file or are not this store's.
    fn adopt_rows(
        &mut self,
        index: &Index,
        files: BTreeMap<SegmentId, u64>,
    ) -> Result<Vec<SegmentId>, Fault> {
        let mut stale = Vec::new();
        index.each_row(|id, row| match (files.get(&id), Manifest::decode(self.key, id, row)) {
            (Some(&bytes), Some(manifest)) => {
                let bytes = self.finish(&manifest, row, bytes);
                self.adopt(&manifest, bytes);
            }
            _ => stale.push(id),
        })?;
        Ok(stale)
    }

    fn adopt_or_remove(&mut self, index: &Index, id: SegmentId) -> Result<(), Fault> {
        let manifest = match self
            .disk
            .open(id)
            .and_then(|file| Manifest::read(|header| header.secret(self.key), id, &*file))
        {
            Ok(manifest) => manifest,
            Err(error) => {
                // Bad sectors of one segment are no reason to do without the others.
                tracing::warn!(%error, ?id, "a segment can't be read and is removed");
                self.metrics.errors.inc();
                None
            }
        };
        let Some(manifest) = manifest else {
            tracing::info!(?id, "removing a segment that was not finished");
            return self.disk.remove(id).during("remove a segment");
        };
        let row = manifest.encode(&manifest.header.secret(self.key).key());
        index.put_rows(Some((id, &row)), &[])?;
        self.adopt(&manifest, manifest.file_bytes());
        Ok(())
    }

    fn adopt(&mut self, manifest: &Manifest, bytes: u64) {
        let id = manifest.header.id;
        self.reader.add(id, manifest.header.secret(self.key));
        for entry in manifest.entries.iter().filter(|entry| entry.end() <= bytes) {
            let place = Place { segment: id, offset: entry.offset };
            self.reader.table.insert(&entry.hint(), place);
            self.reader.table.insert_digest(&entry.reference.digest, place);
        }
        self.sealed.insert(id, bytes);
        self.id = Some(manifest.header.store_id);
    }

    /// Takes the names that blocks of adopted segments were adopted under; returns the rows that are not of such.
    fn adopt_names(&self, index: &Index) -> Result<(Adoptions, Vec<(SegmentId, KeyId)>), Fault> {
        let (mut adoptions, mut stale) = (Adoptions::default(), Vec::new());
        index.each_names(|id, key, row| {
            let secret = self.reader.secret(id);
            let names = secret.and_then(|secret| NamesRow::decode(&secret, id, key, row));
            let (Some(names), Some(bytes)) = (names, self.sealed.get(&id)) else {
                return stale.push((id, key));
            };
            adoptions.add(id, key, names.order);
            for name in names.entries.iter().filter(|name| u64::from(name.offset) < *bytes) {
                let place = Place { segment: id, offset: name.offset };
                self.reader.table.insert_adopted(&name.hint(key), place);
            }
        })?;
        Ok((adoptions, stale))
    }

    /// Gives a segment its footer that had none yet; returns the file's length. Without the footer the segment
    /// depends on its row, no more.
    fn finish(&self, manifest: &Manifest, row: &[u8], bytes: u64) -> u64 {
        if bytes == manifest.file_bytes() || bytes < u64::from(manifest.end) {
            return bytes;
        }
        let written = self.disk.reopen(manifest.header.id).and_then(|file| {
            file.set_len(manifest.end.into())?;
            file.write_at(manifest.end.into(), &row[HEADER_BYTES..])?;
            file.sync()
        });
        match written {
            Ok(()) => manifest.file_bytes(),
            Err(error) => {
                tracing::warn!(%error, id = ?manifest.header.id, "a segment could not be finished");
                self.metrics.errors.inc();
                bytes
            }
        }
    }
}
