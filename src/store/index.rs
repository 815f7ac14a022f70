//! The index on disk: one row a segment, in redb, and what was learned of its blocks later.
//!
//! Digests are no keys here: a row for each block was measured at 36 to 84 times write amplification, a row for each
//! segment at 3. A row is what the segment's footer will be, sealed under the segment's own key, so the
//! index tells a thief no more than the segments do.
//!
//! ```text
//!  table "store"      "format" -> u32, little-endian       "id" -> 16 bytes
//!                     "expired" -> key ids of 8 bytes, in the order in which they expired
//!  table "segments"   segment id -> header, sealed manifest, trailer (see segment.rs)
//!  table "names"      segment id, key id -> the names that its blocks were adopted under (see names/row.rs)
//! ```
//!
//! The index is always disposable: one that is lost, rotten or of another format is thrown away and rebuilt from the
//! footers. Adoptions and expiries are lost with it; who knows the keys says them again.

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};

use super::disk::{DiskFile, SegmentId};
use crate::block::KeyId;

/// The owner's access to the index.
pub(super) struct Index {
    db: Database,
}

impl Index {
    /// Opens the index in the file, or makes one in an empty file.
    ///
    /// # Errors
    /// When the file is not a whole index of this format; the caller throws it away.
    pub(super) fn open(file: Box<dyn DiskFile>) -> Result<Self, redb::Error> {
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            // Every row is read right after, so checking every page costs little; and a page that is not what
            // redb wrote is an error here where it could be a panic later.
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend(file))?;
        let index = Self { db };
        match index.value(FORMAT_KEY)? {
            None => index.write(|txn| {
                txn.open_table(SEGMENTS)?;
                txn.open_table(NAMES)?;
                txn.open_table(STORE)?.insert(FORMAT_KEY, &FORMAT.to_le_bytes()[..])?;
                Ok(())
            })?,
            Some(format) if format == FORMAT.to_le_bytes() => {}
            Some(_) => return Err(redb::Error::Corrupted("the index has another format".to_owned())),
        }
        Ok(index)
    }

    /// Returns the store's id, if one was set.
    pub(super) fn store_id(&self) -> Result<Option<[u8; 16]>, redb::Error> {
        Ok(self.value(ID_KEY)?.and_then(|id| id.try_into().ok()))
    }

    /// Sets the store's id.
    pub(super) fn set_store_id(&self, id: [u8; 16]) -> Result<(), redb::Error> {
        self.write(|txn| {
            txn.open_table(STORE)?.insert(ID_KEY, &id[..])?;
            Ok(())
        })
    }

    /// Shows every row, oldest segment first.
    pub(super) fn each_row(&self, mut show: impl FnMut(SegmentId, &[u8])) -> Result<(), redb::Error> {
        let txn = self.db.begin_read()?;
        for row in txn.open_table(SEGMENTS)?.iter()? {
            let (id, row) = row?;
            show(SegmentId(id.value()), row.value());
        }
        Ok(())
    }

    /// Returns the row of a segment.
    pub(super) fn row(&self, id: SegmentId) -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = self.db.begin_read()?;
        let row = txn.open_table(SEGMENTS)?.get(id.0)?;
        Ok(row.map(|row| row.value().to_vec()))
    }

    /// Sets the row of a segment, if there is one to set, and rows of names; durable on return, all or none.
    pub(super) fn put_rows(
        &self,
        segment: Option<(SegmentId, &[u8])>,
        names: &[(SegmentId, KeyId, Vec<u8>)],
    ) -> Result<(), redb::Error> {
        self.write(|txn| {
            if let Some((id, row)) = segment {
                txn.open_table(SEGMENTS)?.insert(id.0, row)?;
            }
            let mut table = txn.open_table(NAMES)?;
            for (id, key, row) in names {
                table.insert((id.0, number(*key)), &row[..])?;
            }
            Ok(())
        })
    }

    /// Removes everything of segments; durable on return.
    pub(super) fn remove_rows(&self, ids: &[SegmentId]) -> Result<(), redb::Error> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut segments = txn.open_table(SEGMENTS)?;
            let mut names = txn.open_table(NAMES)?;
            for id in ids {
                segments.remove(id.0)?;
                names.retain_in((id.0, 0)..=(id.0, u64::MAX), |_, _| false)?;
            }
            Ok(())
        })
    }

    /// Shows every row of names, oldest segment first.
    pub(super) fn each_names(
        &self,
        mut show: impl FnMut(SegmentId, KeyId, &[u8]),
    ) -> Result<(), redb::Error> {
        let txn = self.db.begin_read()?;
        for row in txn.open_table(NAMES)?.iter()? {
            let (at, row) = row?;
            let (id, key) = at.value();
            show(SegmentId(id), KeyId(key.to_be_bytes()), row.value());
        }
        Ok(())
    }

    /// Returns the row of a segment's names under a key.
    pub(super) fn names(&self, id: SegmentId, key: KeyId) -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = self.db.begin_read()?;
        let row = txn.open_table(NAMES)?.get((id.0, number(key)))?;
        Ok(row.map(|row| row.value().to_vec()))
    }

    /// Removes rows of names; durable on return.
    pub(super) fn remove_names(&self, rows: &[(SegmentId, KeyId)]) -> Result<(), redb::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut table = txn.open_table(NAMES)?;
            for (id, key) in rows {
                table.remove((id.0, number(*key)))?;
            }
            Ok(())
        })
    }

    /// Returns the keys that expired, in that order.
    pub(super) fn expired(&self) -> Result<Vec<KeyId>, redb::Error> {
        let keys = self.value(EXPIRED_KEY)?.unwrap_or_default();
        Ok(keys.as_chunks().0.iter().map(|key| KeyId(*key)).collect())
    }

    /// Sets the keys that expired; durable on return.
    pub(super) fn set_expired(&self, keys: &[KeyId]) -> Result<(), redb::Error> {
        let keys: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
        self.write(|txn| {
            txn.open_table(STORE)?.insert(EXPIRED_KEY, &keys[..])?;
            Ok(())
        })
    }

    fn value(&self, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = self.db.begin_read()?;
        match txn.open_table(STORE) {
            Ok(table) => Ok(table.get(key)?.map(|value| value.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut txn = self.db.begin_write()?;
        // Commits in two phases and keeps the allocator's state: after a power loss the last commit stands,
        // unrepaired.
        txn.set_quick_repair(true);
        change(&txn)?;
        Ok(txn.commit()?)
    }
}

fn number(key: KeyId) -> u64 {
    u64::from_be_bytes(key.0)
}

/// Lets redb live in a file of the store's disk.
#[derive(Debug)]
struct Backend(Box<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// redb's own default is 1 GiB; rows are read once at start and seldom later.
const CACHE_BYTES: usize = 4 << 20;
const FORMAT: u32 = 2;
const FORMAT_KEY: &str = "format";
const ID_KEY: &str = "id";
const EXPIRED_KEY: &str = "expired";
const STORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("store");
const SEGMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("segments");
const NAMES: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("names");
