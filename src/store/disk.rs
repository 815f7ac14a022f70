//! What the store asks of a disk: a directory of segment files, an index file, a lock and the key.
//!
//! A trait, because power loss, torn writes and a full disk are tested against a model of a disk. [`Directory`] is
//! the real one. Nothing here knows what is inside a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::seal::{KeyFault, StoreKey};

/// Number of a segment: later segments have higher ones, and a number is not used again while its file may exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentId(pub(super) u32);

impl SegmentId {
    fn file_name(self) -> String {
        format!("{:08x}.seg", self.0)
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let id = Self(u32::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?);
        (id.file_name() == name).then_some(id)
    }
}

/// Held by whoever writes to the disk; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for the lock it carries")] pub(super) Option<File>);

/// A place for segments and their index.
pub(super) trait Disk: Send + Sync + 'static {
    /// Makes what is missing and takes the lock, so that one process writes.
    fn prepare(&self) -> io::Result<Lock>;
    /// Returns the store's key, made where there is none.
    fn key(&self) -> Result<StoreKey, KeyFault>;
    /// Returns every segment file with its length. Files of other names are somebody else's.
    fn list(&self) -> io::Result<BTreeMap<SegmentId, u64>>;
    /// Makes an empty segment file whose name survives a power loss.
    fn create(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a segment file for reading.
    fn open(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a segment file for writing too.
    fn reopen(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>>;
    /// Removes a segment file; whoever has it open may go on reading.
    fn remove(&self, id: SegmentId) -> io::Result<()>;
    /// Opens the index file, made where there is none.
    fn open_index(&self) -> io::Result<Box<dyn DiskFile>>;
    /// Removes the index file.
    fn remove_index(&self) -> io::Result<()>;
}

/// A file, read and written at offsets.
pub(super) trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Returns the length.
    fn len(&self) -> io::Result<u64>;
    /// Fills the buffer, or fails.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes everything, or fails with any part of it written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts, or grows with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when the content would survive a power loss.
    fn sync(&self) -> io::Result<()>;
}

/// The store's directory: `segments/`, `index.redb` and `lock`.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) dir: PathBuf,
    pub(super) key_file: PathBuf,
}

impl Directory {
    fn segments(&self) -> PathBuf {
        self.dir.join("segments")
    }

    fn segment(&self, id: SegmentId) -> PathBuf {
        self.segments().join(id.file_name())
    }

    fn index(&self) -> PathBuf {
        self.dir.join("index.redb")
    }
}

impl Disk for Directory {
    fn prepare(&self) -> io::Result<Lock> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.segments())?;
        let file = options().create(true).truncate(false).open(self.dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(Some(file))),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process has this store open"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn key(&self) -> Result<StoreKey, KeyFault> {
        StoreKey::load_or_make(&self.key_file)
    }

    fn list(&self) -> io::Result<BTreeMap<SegmentId, u64>> {
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(self.segments())? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(SegmentId::from_file_name) {
                segments.insert(id, entry.metadata()?.len());
            }
        }
        Ok(segments)
    }

    fn create(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        let file = options().create_new(true).open(self.segment(id))?;
        File::open(self.segments())?.sync_all()?;
        Ok(Box::new(PlainFile(file)))
    }

    fn open(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(PlainFile(File::open(self.segment(id))?)))
    }

    fn reopen(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(PlainFile(options().open(self.segment(id))?)))
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        fs::remove_file(self.segment(id))
    }

    fn open_index(&self) -> io::Result<Box<dyn DiskFile>> {
        let file = options().create(true).truncate(false).open(self.index())?;
        Ok(Box::new(PlainFile(file)))
    }

    fn remove_index(&self) -> io::Result<()> {
        match fs::remove_file(self.index()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct PlainFile(File);

impl DiskFile for PlainFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_the_store_gives_are_segments() {
        assert_eq!(SegmentId::from_file_name("0000002a.seg"), Some(SegmentId(42)));
        for name in ["2a.seg", "0000002A.seg", "+000002a.seg", "0000002a.seg.bak", "0000002a", "notes.txt"] {
            assert_eq!(SegmentId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn one_process_at_a_time_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory { dir: dir.path().join("store"), key_file: dir.path().join("key") };
        let lock = directory.prepare().unwrap();
        assert_eq!(directory.prepare().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(lock);
        directory.prepare().unwrap();
    }
}
