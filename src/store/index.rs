//! The index on disk: one row a segment, in redb.
//!
//! Digests are no keys here: a row for each block was measured at 36 to 84 times write amplification, a row for each
//! segment at 3. A row is what the segment's footer will be, sealed under the segment's own key, so the
//! index tells a thief no more than the segments do.
//!
//! ```text
//!  table "store"      "format" -> u32, little-endian       "id" -> 16 bytes
//!  table "segments"   segment id -> header, sealed manifest, trailer (see segment.rs)
//! ```
//!
//! The index is always disposable: one that is lost, rotten or of another format is thrown away and rebuilt from the
//! footers.

use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};

use super::disk::{DiskFile, SegmentId};

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

    /// Sets the row of a segment; durable on return.
    pub(super) fn put_row(&self, id: SegmentId, row: &[u8]) -> Result<(), redb::Error> {
        self.write(|txn| {
            txn.open_table(SEGMENTS)?.insert(id.0, row)?;
            Ok(())
        })
    }

    /// Removes the rows of segments; durable on return.
    pub(super) fn remove_rows(&self, ids: &[SegmentId]) -> Result<(), redb::Error> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut table = txn.open_table(SEGMENTS)?;
            for id in ids {
                table.remove(id.0)?;
            }
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

/// redb's own default is 1 GiB; rows are read once at start and once at eviction.
const CACHE_BYTES: usize = 4 << 20;
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const ID_KEY: &str = "id";
const STORE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("store");
const SEGMENTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("segments");
