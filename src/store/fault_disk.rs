//! A disk in memory that loses power, tears writes, fills up and fails: what the store is tested on.
//!
//! Every file has the content that was synced and the writes since. Losing power keeps the first and an arbitrary
//! part of the second. Names are durable when made; a removal may be undone by losing power, as on a real file
//! system.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile, Lock, SegmentId};
use super::seal::{KeyFault, StoreKey};

/// Handles of one disk.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultDisk {
    state: Arc<Mutex<State>>,
}

/// What of the writes since the last sync survives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unsynced {
    /// Nothing.
    Lost,
    /// Everything, but half of the last write.
    Torn,
    /// Each write by the throw of this coin: whole, torn or lost. Removals too.
    Mixed(u64),
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<Name, Content>,
    removed: BTreeMap<Name, Content>,
    /// Changes so far.
    changes: u64,
    /// The change at which the power goes, and everything after it.
    dies_at: Option<u64>,
    full: bool,
    reads_fail: bool,
    away: bool,
    peak: u64,
    /// Bytes read of segments.
    read: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Index,
    Segment(SegmentId),
}

#[derive(Debug, Clone, Default)]
struct Content {
    synced: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl FaultDisk {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Returns how many changes were made: writes, syncs, names.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets the power go at that change: it and everything later fails.
    pub(super) fn die_at(&self, change: u64) {
        self.state().dies_at = Some(change);
    }

    /// Fills the disk up, or makes room.
    pub(super) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Makes every read of a segment fail.
    pub(super) fn set_reads_fail(&self, fail: bool) {
        self.state().reads_fail = fail;
    }

    /// Takes the whole disk away, or brings it back.
    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Returns the disk as the next boot finds it.
    pub(super) fn after_power_loss(&self, unsynced: Unsynced) -> Self {
        let state = self.state();
        let mut coin = Coin::new(unsynced);
        let mut files: BTreeMap<_, _> =
            state.files.iter().map(|(name, file)| (*name, file.survivor(&mut coin))).collect();
        for (name, file) in &state.removed {
            if coin.throw() == 0 && matches!(unsynced, Unsynced::Mixed(_)) {
                files.entry(*name).or_insert_with(|| file.survivor(&mut coin));
            }
        }
        Self { state: Arc::new(Mutex::new(State { files, ..State::default() })) }
    }

    /// Returns the segments.
    pub(super) fn segments(&self) -> Vec<SegmentId> {
        let segment = |name: &Name| match name {
            Name::Segment(id) => Some(*id),
            Name::Index => None,
        };
        self.state().files.keys().filter_map(segment).collect()
    }

    /// Returns the bytes of all segments.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segments().into_iter().map(|id| self.segment(id).len() as u64).sum()
    }

    /// Returns the most bytes that all segments ever had.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.state().peak
    }

    /// Returns how many bytes of segments were read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.state().read
    }

    /// Loses every file.
    pub(super) fn wipe(&self) {
        self.state().files.clear();
    }

    /// Returns a segment's bytes.
    pub(super) fn segment(&self, id: SegmentId) -> Vec<u8> {
        self.state().files[&Name::Segment(id)].current.clone()
    }

    /// Changes a segment behind the store's back.
    pub(super) fn tamper(&self, id: SegmentId, change: impl FnOnce(&mut Vec<u8>)) {
        self.state().files.get_mut(&Name::Segment(id)).unwrap().tamper(change);
    }

    /// Changes the index behind the store's back.
    pub(super) fn tamper_index(&self, change: impl FnOnce(&mut Vec<u8>)) {
        self.state().files.get_mut(&Name::Index).unwrap().tamper(change);
    }

    /// Makes everything wait that uses the disk, until this is dropped.
    pub(super) fn stall(&self) -> impl Drop + '_ {
        self.state()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn file(&self, name: Name) -> Box<dyn DiskFile> {
        Box::new(FaultFile { disk: self.clone(), name })
    }
}

impl Disk for FaultDisk {
    fn prepare(&self) -> io::Result<Lock> {
        self.state().read()?;
        Ok(Lock(None))
    }

    fn key(&self) -> Result<StoreKey, KeyFault> {
        Ok(StoreKey::new([42; 32]))
    }

    fn list(&self) -> io::Result<BTreeMap<SegmentId, u64>> {
        self.state().read()?;
        Ok(self.segments().into_iter().map(|id| (id, self.segment(id).len() as u64)).collect())
    }

    fn create(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.change()?;
        assert!(state.files.insert(Name::Segment(id), Content::default()).is_none(), "{id:?} exists");
        drop(state);
        Ok(self.file(Name::Segment(id)))
    }

    fn open(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.read()?;
        if state.reads_fail {
            return Err(io::Error::other("bad disk"));
        }
        state.files.get(&Name::Segment(id)).ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(Name::Segment(id)))
    }

    fn reopen(&self, id: SegmentId) -> io::Result<Box<dyn DiskFile>> {
        self.open(id)
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let content = state.files.remove(&Name::Segment(id)).ok_or(io::ErrorKind::NotFound)?;
        state.removed.insert(Name::Segment(id), content);
        Ok(())
    }

    fn open_index(&self) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.read()?;
        state.files.entry(Name::Index).or_default();
        drop(state);
        Ok(self.file(Name::Index))
    }

    fn remove_index(&self) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.files.remove(&Name::Index);
        Ok(())
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    name: Name,
}

impl FaultFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let dies = state.dies_at == Some(state.changes);
        let full = state.full;
        let outcome = state.change();
        let content = state.content(self.name)?;
        if dies {
            // The change under way when the power goes may reach the disk.
            content.unsynced.push(change);
        } else if outcome.is_ok() {
            if full && change.grows(content.current.len()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            change.apply(&mut content.current);
            content.unsynced.push(change);
            let segments = state.files.iter().filter(|(name, _)| **name != Name::Index);
            let bytes = segments.map(|(_, content)| content.current.len() as u64).sum();
            state.peak = state.peak.max(bytes);
        }
        outcome
    }
}

impl DiskFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.read()?;
        Ok(state.content(self.name)?.current.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.read()?;
        if state.reads_fail && matches!(self.name, Name::Segment(_)) {
            return Err(io::Error::other("bad disk"));
        }
        let start = usize::try_from(offset).unwrap();
        let content = state.content(self.name)?;
        let bytes = content.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        if self.name != Name::Index {
            state.read += out.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let content = state.content(self.name)?;
        content.synced = content.current.clone();
        content.unsynced.clear();
        Ok(())
    }
}

impl State {
    fn read(&self) -> io::Result<()> {
        let dead = self.dies_at.is_some_and(|dies_at| self.changes > dies_at);
        if dead || self.away { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn change(&mut self) -> io::Result<()> {
        self.read()?;
        let dies = self.dies_at == Some(self.changes);
        self.changes += 1;
        if dies { Err(io::Error::other("power lost")) } else { Ok(()) }
    }

    /// Files stay readable for those who have them open.
    fn content(&mut self, name: Name) -> io::Result<&mut Content> {
        let content = self.files.get_mut(&name).or_else(|| self.removed.get_mut(&name));
        content.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Content {
    fn survivor(&self, coin: &mut Coin) -> Self {
        let mut bytes = self.synced.clone();
        let last = self.unsynced.len().saturating_sub(1);
        for (at, change) in self.unsynced.iter().enumerate() {
            match coin.fate(at == last) {
                Fate::Whole => change.apply(&mut bytes),
                Fate::Torn => change.clone().torn().apply(&mut bytes),
                Fate::Lost => {}
            }
        }
        Self { synced: bytes.clone(), current: bytes, unsynced: Vec::new() }
    }

    fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.current);
        self.synced = self.current.clone();
        self.unsynced.clear();
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, new) => {
                let start = usize::try_from(*offset).unwrap();
                bytes.resize(bytes.len().max(start + new.len()), 0);
                bytes[start..start + new.len()].copy_from_slice(new);
            }
            Self::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
        }
    }

    fn grows(&self, len: usize) -> bool {
        match self {
            Self::Write(offset, new) => usize::try_from(*offset).unwrap() + new.len() > len,
            Self::SetLen(new) => usize::try_from(*new).unwrap() > len,
        }
    }

    fn torn(self) -> Self {
        match self {
            Self::Write(offset, mut new) => {
                new.truncate(new.len() / 2);
                Self::Write(offset, new)
            }
            cut @ Self::SetLen(_) => cut,
        }
    }
}

enum Fate {
    Whole,
    Torn,
    Lost,
}

struct Coin {
    unsynced: Unsynced,
    state: u64,
}

impl Coin {
    fn new(unsynced: Unsynced) -> Self {
        let state = match unsynced {
            Unsynced::Mixed(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Unsynced::Lost | Unsynced::Torn => 1,
        };
        Self { unsynced, state }
    }

    /// Returns 0, 1 or 2.
    fn throw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % 3
    }

    fn fate(&mut self, last: bool) -> Fate {
        match self.unsynced {
            Unsynced::Lost => Fate::Lost,
            Unsynced::Torn if last => Fate::Torn,
            Unsynced::Torn => Fate::Whole,
            Unsynced::Mixed(_) => match self.throw() {
                0 => Fate::Whole,
                1 => Fate::Torn,
                _ => Fate::Lost,
            },
        }
    }
}
