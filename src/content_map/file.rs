//! The map's file, a redb database:
//!
//! ```text
//!  table "map"       "format" -> u32, little-endian      "store" -> the store's id, 16 bytes
//!  table "objects"   16 bytes -> a row
//!
//!  a row:
//!  0          8                  40                                                  n
//!  +----------+------------------+---------------------------------------------------+
//!  | order    | salt             | sealed: place 16 ‖ extents (matching/map/saved.rs) |
//!  +----------+------------------+---------------------------------------------------+
//! ```
//!
//! A row is found by what its place becomes under the file's key, since the hash of a path is as good as the path to
//! who guesses. `order` grows with every write: the latest rows are loaded first. The seal covers it, the row's name
//! and the store's id. A row that does not open, or has no room in the map, is removed.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::MapConfig;
use crate::matching::ContentMap;
use crate::object::Place;
use crate::store::{BesideKey, KeyFault};

/// An object, and its extents as bytes unless it is gone.
pub(super) type Row = (Place, Option<Vec<u8>>);

/// Access to the file.
pub(super) struct MapFile {
    db: Database,
    key: BesideKey,
    store: [u8; 16],
    next_order: u64,
}

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    /// Another process has it.
    #[error("use the content map's file: another process has it open")]
    Busy,
    /// The key that it is sealed with.
    #[error("seal the content map")]
    Key(#[from] KeyFault),
    /// The disk, or the system's randomness.
    #[error("open or seal the content map's file")]
    Io(#[from] io::Error),
    /// The database.
    #[error("read or write the content map's file")]
    Database(#[from] Box<redb::Error>),
}

impl MapFile {
    /// Opens the file, or makes one: where there is none, where it can't be read, and where it is of another format or
    /// store.
    pub(super) fn open(config: &MapConfig, store: [u8; 16]) -> Result<Self, FileFault> {
        let key = BesideKey::load(&config.key_file, b"content map")?;
        let db = match open(&config.file) {
            Err(FileFault::Database(error)) => {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the content map can't be used and is made anew"
                );
                fs::remove_file(&config.file)?;
                open(&config.file)?
            }
            opened => opened?,
        };
        let file = Self { db, key, store, next_order: 0 };
        if file.value(FORMAT_KEY)?.as_deref() != Some(&FORMAT.to_le_bytes())
            || file.value(STORE_KEY)?.as_deref() != Some(&store)
        {
            file.clear()?;
        }
        Ok(file)
    }

    /// Gives the map what is in the file, the latest first.
    pub(super) fn load(&mut self, map: &mut ContentMap) -> Result<(), FileFault> {
        let mut rows = self.orders()?;
        rows.sort_unstable_by(|one, other| other.cmp(one));
        self.next_order = rows.first().map_or(0, |(order, _)| order.saturating_add(1));
        let mut useless = Vec::new();
        let txn = self.db.begin_read().fault()?;
        let table = txn.open_table(OBJECTS).fault()?;
        for (_, name) in rows {
            let row = table.get(name).fault()?;
            let object = row.and_then(|row| self.unsealed(&name, row.value()));
            if !object.is_some_and(|(place, extents)| map.load(place, &extents)) {
                useless.push(name);
            }
        }
        drop((table, txn));
        if useless.is_empty() {
            return Ok(());
        }
        self.commit(|txn| {
            let mut table = txn.open_table(OBJECTS)?;
            useless.iter().try_for_each(|name| table.remove(name).map(drop))?;
            Ok(())
        })
    }

    /// Writes rows, all or none, durable on return.
    pub(super) fn write(&mut self, store: [u8; 16], rows: Vec<Row>) -> Result<(), FileFault> {
        // Rows sealed for another store do not open any more: their blocks are gone.
        self.store = store;
        let mut sealed = Vec::with_capacity(rows.len());
        for (place, extents) in rows {
            let name = self.key.hidden(&place.0);
            let row = extents.map(|extents| self.sealed(&name, &place, &extents)).transpose()?;
            sealed.push((name, row));
        }
        self.commit(|txn| {
            txn.open_table(MAP)?.insert(STORE_KEY, &store[..])?;
            let mut table = txn.open_table(OBJECTS)?;
            for (name, row) in &sealed {
                match row {
                    Some(row) => drop(table.insert(name, &row[..])?),
                    None => drop(table.remove(name)?),
                }
            }
            Ok(())
        })
    }

    fn sealed(&mut self, name: &[u8; 16], place: &Place, extents: &[u8]) -> Result<Vec<u8>, FileFault> {
        let order = self.next_order.to_le_bytes();
        self.next_order = self.next_order.saturating_add(1);
        let plain = [&place.0, extents].concat();
        let sealed = self.key.seal(&self.company(name, order), plain)?;
        Ok([&order, &sealed[..]].concat())
    }

    fn unsealed(&self, name: &[u8; 16], row: &[u8]) -> Option<(Place, Vec<u8>)> {
        let (order, sealed) = row.split_first_chunk()?;
        let mut plain = self.key.open(&self.company(name, *order), sealed)?;
        let place = Place(*plain.first_chunk()?);
        plain.drain(..place.0.len());
        Some((place, plain))
    }

    fn company(&self, name: &[u8; 16], order: [u8; 8]) -> [u8; 40] {
        let mut company = [0; 40];
        company[..8].copy_from_slice(&order);
        company[8..24].copy_from_slice(name);
        company[24..].copy_from_slice(&self.store);
        company
    }

    /// Returns the order and name of every row.
    fn orders(&self) -> Result<Vec<(u64, [u8; 16])>, FileFault> {
        let txn = self.db.begin_read().fault()?;
        let mut rows = Vec::new();
        for row in txn.open_table(OBJECTS).fault()?.iter().fault()? {
            let (name, row) = row.fault()?;
            let order = row.value().first_chunk().map_or(0, |order| u64::from_le_bytes(*order));
            rows.push((order, name.value()));
        }
        Ok(rows)
    }

    fn value(&self, key: &str) -> Result<Option<Vec<u8>>, FileFault> {
        let txn = self.db.begin_read().fault()?;
        match txn.open_table(MAP) {
            Ok(table) => Ok(table.get(key).fault()?.map(|value| value.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error).fault(),
        }
    }

    /// Makes the file that of an empty map of this store.
    fn clear(&self) -> Result<(), FileFault> {
        self.commit(|txn| {
            txn.delete_table(OBJECTS)?;
            txn.open_table(OBJECTS)?;
            let mut table = txn.open_table(MAP)?;
            table.insert(FORMAT_KEY, &FORMAT.to_le_bytes()[..])?;
            table.insert(STORE_KEY, &self.store[..])?;
            Ok(())
        })
    }

    fn commit(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), FileFault> {
        let mut txn = self.db.begin_write().fault()?;
        // As in the store's index: after a power loss the last commit stands, unrepaired.
        txn.set_quick_repair(true);
        change(&txn).fault()?;
        txn.commit().fault()
    }
}

fn open(path: &Path) -> Result<Database, FileFault> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let opened = FileBackend::new(file).and_then(|file| {
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            // Every row is read right after; and what is not as redb wrote it is an error here, not a panic later.
            .set_check_integrity_on_open(true)
            .create_with_backend(file)
    });
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => FileFault::Busy,
        error => FileFault::Database(Box::new(error.into())),
    })
}

/// Puts redb's many errors into one.
trait Faulty<T> {
    fn fault(self) -> Result<T, FileFault>;
}

impl<T, E: Into<redb::Error>> Faulty<T> for Result<T, E> {
    fn fault(self) -> Result<T, FileFault> {
        self.map_err(|error| FileFault::Database(Box::new(error.into())))
    }
}

/// redb's own default is 1 GiB; rows are read once, at the start.
const CACHE_BYTES: usize = 4 << 20;
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const STORE_KEY: &str = "store";
const MAP: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("map");
const OBJECTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("objects");
