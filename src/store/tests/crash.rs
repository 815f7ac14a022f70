//! Power loss at every single change of the disk.

use std::sync::Arc;

use super::*;
use crate::store::disk::{Disk, SegmentId};
use crate::store::fault_disk::Unsynced;
use crate::store::table::Place;
use crate::store::writer::{Fault, Writer};
use crate::store::{reader::Reader, recover};

#[test]
fn whatever_moment_the_power_goes_durable_blocks_are_found_and_all_are_right() {
    // So large that nothing is evicted.
    crash_everywhere(1 << 20, |reader, durable| {
        for block in durable {
            assert!(reader.read(block.reference()).is_some(), "{block:?} was durable");
        }
    });
}

#[test]
fn whatever_moment_of_an_eviction_the_power_goes_all_blocks_are_right() {
    crash_everywhere(6 * SEGMENT_BYTES, |_, _| {});
}

#[test]
fn a_second_power_loss_during_recovery_changes_nothing() {
    let disk = FaultDisk::new();
    let durable = work(&disk, 1 << 20).1;
    disk.tamper_index(|bytes| bytes.truncate(5000));
    for change in 0.. {
        let first = disk.after_power_loss(Unsynced::Torn);
        first.die_at(change);
        let finished = recovered(&first, 1 << 20).is_ok();
        for unsynced in [Unsynced::Lost, Unsynced::Torn, Unsynced::Mixed(change)] {
            let second = first.after_power_loss(unsynced);
            let (reader, _writer) = recovered(&second, 1 << 20).unwrap();
            for block in &durable[..durable.len() - BLOCKS_UNSEALED] {
                assert!(reader.read(block.reference()).is_some(), "{change} {unsynced:?}");
            }
        }
        if finished {
            assert!(change > 10);
            return;
        }
    }
}

#[test]
fn whatever_moment_of_an_adoption_the_power_goes_at_most_the_adoption_is_lost() {
    let whole = FaultDisk::new();
    let (outcome, durable) = adopt_work(&whole);
    outcome.unwrap();
    assert!(whole.changes() > 100 && durable > 0);
    for change in 0..whole.changes() {
        let disk = FaultDisk::new();
        disk.die_at(change);
        let (_, durable) = adopt_work(&disk);
        for unsynced in [Unsynced::Lost, Unsynced::Torn, Unsynced::Mixed(change)] {
            let disk = disk.after_power_loss(unsynced);
            let (reader, mut writer) =
                recovered(&disk, 1 << 20).unwrap_or_else(|fault| panic!("{change} {unsynced:?}: {fault}"));
            for n in 0..BLOCKS {
                let (block, new) = (nth(n), renewed(n));
                let found = reader.read(&new);
                assert!(n >= durable || found.is_some(), "{change} {unsynced:?}: {n} was adopted for good");
                if let Some(found) = found {
                    assert_eq!((found.reference(), found.bytes()), (&new, block.bytes()));
                    assert!(reader.read(block.reference()).is_some(), "{n} has a new reference only");
                }
                if reader.read(block.reference()).is_some() {
                    writer.adopt(block.reference(), &new).unwrap();
                    assert!(reader.read(&new).is_some(), "{change} {unsynced:?}: {n} again");
                }
            }
            assert_eq!(
                reader.table.blocks(),
                reader.walk(nth(0).reference().key, None, None, 999).0.len() as u64
            );
            go_on(writer, &reader);
        }
    }
}

/// Writes and adopts what was written a little before; returns how many were adopted for good.
fn adopt_work(disk: &FaultDisk) -> (Result<(), Fault>, u32) {
    let mut durable = 0;
    let mut work = || {
        let (_reader, mut writer) = recovered(disk, 1 << 20)?;
        for n in 0..BLOCKS + 3 {
            if n < BLOCKS {
                writer.append(&nth(n))?;
            }
            if n >= 3 {
                writer.adopt(nth(n - 3).reference(), &renewed(n - 3))?;
            }
            if n % 5 == 4 {
                writer.checkpoint()?;
                durable = n - 2;
            }
        }
        Ok(())
    };
    (work(), durable)
}

fn renewed(n: u32) -> Reference {
    *ServerSecret::new([2; 32]).mint(nth(n).bytes().clone()).reference()
}

/// Runs the work with the power going at each of its changes, boots with each kind of loss, and shows what was
/// durable.
fn crash_everywhere(size: u64, check: impl Fn(&Reader, &[Block])) {
    let whole = FaultDisk::new();
    let (outcome, durable) = work(&whole, size);
    outcome.unwrap();
    assert!(whole.changes() > 200 && !durable.is_empty());
    for change in 0..whole.changes() {
        let disk = FaultDisk::new();
        disk.die_at(change);
        // The last changes are those of closing, which nobody hears of.
        let (_, durable) = work(&disk, size);
        for unsynced in [Unsynced::Lost, Unsynced::Torn, Unsynced::Mixed(change)] {
            let disk = disk.after_power_loss(unsynced);
            let (reader, writer) =
                recovered(&disk, size).unwrap_or_else(|fault| panic!("{change} {unsynced:?}: {fault}"));
            check(&reader, &durable);
            for n in 0..BLOCKS {
                // Reading compares the whole reference; the digest is checked here, not believed.
                if let Some(found) = reader.read(nth(n).reference()) {
                    assert!(Block::verify(*found.reference(), found.bytes().clone()).is_ok());
                }
            }
            assert!(disk.segment_bytes() <= size);
            assert_eq!(disk.segments(), writer.sealed.keys().copied().collect::<Vec<_>>());
            go_on(writer, &reader);
        }
    }
}

/// Writes, checkpoints, uses and turns over; returns what must be there after a power loss.
fn work(disk: &FaultDisk, size: u64) -> (Result<(), Fault>, Vec<Block>) {
    let mut durable = Vec::new();
    let mut work = || {
        let (reader, mut writer) = recovered(disk, size)?;
        for n in 0..BLOCKS {
            writer.append(&nth(n))?;
            reader.read(nth(n / 3 * 2).reference());
            if n % 5 == 4 {
                writer.checkpoint()?;
                durable = (0..=n).map(nth).collect();
            }
        }
        Ok(())
    };
    (work(), durable)
}

fn go_on(mut writer: Writer, reader: &Reader) {
    for n in 1000..1010 {
        writer.append(&nth(n)).unwrap();
    }
    writer.seal().unwrap();
    for n in 1000..1010 {
        assert!(reader.read(nth(n).reference()).is_some());
    }
}

fn recovered(disk: &FaultDisk, size: u64) -> Result<(Arc<Reader>, Writer), Fault> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let metrics = metrics();
    let reader = Arc::new(Reader::new(disk.clone(), [0; 16], metrics.clone()));
    let limits = Limits { size, segment_bytes: SEGMENT_BYTES };
    let writer = recover::open(&disk, limits, &reader, &Arc::default(), &metrics)?;
    Ok((reader, writer))
}

fn nth(n: u32) -> Block {
    block(n, 500 + (n as usize * 97) % 700)
}

#[test]
fn a_place_is_never_written_twice_under_one_key() {
    // Torn bytes stay where they are; what comes after the restart has another file, so another salt.
    let disk = FaultDisk::new();
    let (reader, mut writer) = recovered(&disk, 1 << 20).unwrap();
    writer.append(&nth(1)).unwrap();
    writer.checkpoint().unwrap();
    writer.append(&nth(2)).unwrap();
    drop((reader, writer));
    let disk = disk.after_power_loss(Unsynced::Torn);
    let before = disk.segment(SegmentId(1));
    let (reader, mut writer) = recovered(&disk, 1 << 20).unwrap();
    writer.append(&nth(3)).unwrap();
    assert_eq!(
        reader.table.find(&hint(nth(3).reference())),
        Some(Place { segment: SegmentId(2), offset: 64 })
    );
    let after = disk.segment(SegmentId(1));
    let end = 64 + 92 + nth(1).bytes().len();
    assert_eq!(before[..end], after[..end]);
    assert_eq!(after.len(), end + 88 + 16 + 16, "the torn block made way for the manifest");
    assert_ne!(after[..64], disk.segment(SegmentId(2))[..64]);
}

const BLOCKS: u32 = 45;
const SEGMENT_BYTES: u64 = 8 << 10;
/// Blocks that the open segment may hold: they are lost when the index is too.
const BLOCKS_UNSEALED: usize = 16;
