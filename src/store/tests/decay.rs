//! Rotten, foreign and missing files.

use super::*;
use crate::store::disk::{Disk, SegmentId};
use crate::store::recover;
use crate::store::table::Place;

#[test]
fn a_flipped_bit_costs_the_block_it_is_in_and_no_other() {
    let disk = FaultDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let metrics = metrics();
    let reader = Arc::new(Reader::new(shared.clone(), [0; 16], metrics.clone()));
    let limits = limits(&config(0)).unwrap();
    let mut writer = recover::open(&shared, limits, &reader, &Arc::default(), &metrics).unwrap();
    let blocks: Vec<_> = (0..8).map(|n| block(n, 300 + n as usize)).collect();
    blocks.iter().for_each(|block| writer.append(block).unwrap());
    writer.seal().unwrap();
    let places: Vec<Place> =
        blocks.iter().map(|block| reader.table.find(&hint(block.reference())).unwrap()).collect();
    let len = disk.segment(SegmentId(1)).len();
    for at in 0..len {
        disk.tamper(SegmentId(1), |bytes| bytes[at] ^= 1 << (at % 8));
        let counted = metrics.bad_blocks.get();
        let mut bad = 0;
        for (block, place) in blocks.iter().zip(&places) {
            let start = place.offset as usize;
            let hit = (start..start + 92 + block.bytes().len()).contains(&at);
            let found = reader.read_to_keep(block.reference(), *place);
            assert_eq!(found.is_none(), hit, "byte {at}");
            bad += u64::from(hit);
        }
        assert_eq!(metrics.bad_blocks.get() - counted, bad, "byte {at}");
        disk.tamper(SegmentId(1), |bytes| bytes[at] ^= 1 << (at % 8));
    }
}

#[tokio::test]
async fn a_bad_block_is_dropped_counted_and_stored_anew() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..5).map(|n| block(n, 1000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.flush().await;
    disk.tamper(SegmentId(1), |bytes| bytes[64 + 500] ^= 0x10);
    assert!(store.get(blocks[0].reference()).await.is_none());
    assert!(!store.knows(blocks[0].reference()));
    assert_eq!((metrics.bad_blocks.get(), metrics.blocks.get()), (1, 4));
    assert_all_found(&store, &blocks[1..]).await;
    store.put(blocks[0].clone());
    store.flush().await;
    assert_all_found(&store, &blocks).await;
    assert_eq!(metrics.bad_blocks.get(), 1);
}

#[tokio::test]
async fn a_segment_cut_short_costs_what_was_cut() {
    let disk = FaultDisk::new();
    let blocks = fill(&disk, 5).await;
    disk.tamper(SegmentId(1), |bytes| bytes.truncate(64 + 2 * 1092 + 500));
    let (store, metrics) = open(&disk, &config(0));
    assert_eq!(metrics.blocks.get(), 2);
    assert_all_found(&store, &blocks[..2]).await;
    assert!(store.get(blocks[2].reference()).await.is_none());
}

#[tokio::test]
async fn a_rotten_index_is_rebuilt_from_the_segments() {
    let disk = FaultDisk::new();
    let blocks = fill(&disk, 200).await;
    let (id, len) = {
        let (store, _) = open(&disk, &config(0));
        let mut len = 0;
        disk.tamper_index(|bytes| len = bytes.len());
        store.close().await;
        (store.id(), len)
    };
    let garbage = move |seed: usize| (0..len).map(move |at| (at.wrapping_mul(seed) >> 7) as u8);
    let mut decays: Vec<Decay> = vec![
        Box::new(|bytes| bytes.clear()),
        Box::new(|bytes| bytes.truncate(1)),
        Box::new(|bytes| bytes.fill(0)),
        Box::new(move |bytes| *bytes = garbage(2_654_435_761).collect()),
        Box::new(|bytes| bytes.extend_from_slice(&[7; 10_000])),
    ];
    for cut in (0..len).step_by(len / 12) {
        decays.push(Box::new(move |bytes| bytes.truncate(cut)));
    }
    for page in (0..len).step_by(4096).take(60) {
        decays
            .push(Box::new(move |bytes| bytes[page + 40..][..60].iter_mut().for_each(|byte| *byte ^= 0x55)));
        decays.push(Box::new(move |bytes| bytes[page] ^= 0xff));
    }
    for (number, decay) in decays.into_iter().enumerate() {
        let disk = disk.after_power_loss(fault_disk::Unsynced::Lost);
        disk.tamper_index(decay);
        let (store, metrics) = open(&disk, &config(0));
        assert_eq!((metrics.up.get(), metrics.blocks.get()), (1, 200), "decay {number}");
        assert_eq!(store.id(), id, "decay {number}");
        assert_all_found(&store, &blocks).await;
        store.close().await;
    }
}

#[tokio::test]
async fn without_an_index_a_segment_lives_by_its_header_and_footer() {
    let disk = FaultDisk::new();
    let blocks = fill(&disk, 5).await;
    let len = disk.segment(SegmentId(1)).len();
    let footer = 64 + 5 * 1092;
    for at in (0..64).chain(footer..len) {
        let disk = disk.after_power_loss(fault_disk::Unsynced::Lost);
        disk.tamper_index(Vec::clear);
        disk.tamper(SegmentId(1), |bytes| bytes[at] ^= 1);
        let (store, metrics) = open(&disk, &config(0));
        assert_eq!((metrics.blocks.get(), disk.segments().len()), (0, 0), "byte {at}");
        assert!(store.get(blocks[0].reference()).await.is_none());
        store.close().await;
    }
}

#[tokio::test]
async fn a_segment_of_another_version_is_dropped() {
    let disk = FaultDisk::new();
    let blocks = fill(&disk, 200).await;
    let all = disk.segments().len();
    disk.tamper_index(Vec::clear);
    disk.tamper(SegmentId(1), |bytes| bytes[8] = 0);
    disk.tamper(SegmentId(2), |bytes| bytes[8] = 1);
    let (store, _) = open(&disk, &config(0));
    assert_eq!(disk.segments().len(), all - 2);
    assert!(store.get(blocks[0].reference()).await.is_none());
    assert_all_found(&store, &blocks[150..]).await;
}

#[tokio::test]
async fn a_wiped_store_has_a_new_id() {
    let disk = FaultDisk::new();
    fill(&disk, 5).await;
    let (store, _) = open(&disk, &config(0));
    store.close().await;
    disk.remove(SegmentId(1)).unwrap();
    let (wiped, metrics) = open(&disk, &config(0));
    assert_ne!(wiped.id(), store.id());
    assert_eq!(metrics.blocks.get(), 0);
    wiped.close().await;
    let (again, _) = open(&disk, &config(0));
    assert_eq!(again.id(), wiped.id());
}

#[tokio::test]
async fn a_store_whose_key_was_lost_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 32 << 20, 0);
    let store = Store::open(config.clone(), metrics()).unwrap();
    store.put(block(1, 1000));
    store.close().await;
    std::fs::remove_file(dir.path().join("key")).unwrap();
    let reopened = Store::open(config, metrics()).unwrap();
    assert!(reopened.get(block(1, 1000).reference()).await.is_none());
    assert_ne!(reopened.id(), store.id());
    assert_eq!(std::fs::read_dir(dir.path().join("store/segments")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_is_not_a_segment_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 32 << 20, 0);
    std::fs::create_dir_all(dir.path().join("store/segments")).unwrap();
    let note = dir.path().join("store/segments/NOTE");
    std::fs::write(&note, "do not remove").unwrap();
    Store::open(config, metrics()).unwrap().close().await;
    assert_eq!(std::fs::read(note).unwrap(), b"do not remove");
}

type Decay = Box<dyn FnOnce(&mut Vec<u8>)>;

async fn fill(disk: &FaultDisk, count: u32) -> Vec<Block> {
    let (store, _) = open(disk, &config(0));
    let blocks: Vec<_> = (0..count).map(|n| block(n, 1000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.close().await;
    blocks
}
