//! What the store promises, checked on a disk that misbehaves on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fault_disk::FaultDisk;
use super::*;
use crate::block::{Secret, ServerSecret};
use crate::metrics::Metrics;

mod by_digest;
mod crash;
mod decay;
mod faults;
mod model;
mod sharing;

#[tokio::test]
async fn a_block_is_found_at_once_from_disk_and_after_a_restart() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..100).map(|n| block(n, 3000)).collect();
    for block in &blocks {
        store.put(block.clone());
        assert!(store.knows(block.reference()));
    }
    assert_all_found(&store, &blocks).await;
    store.flush().await;
    assert_all_found(&store, &blocks).await;
    let id = store.id();
    store.close().await;
    assert_all_found(&store, &blocks).await;

    let (store, metrics) = open(&disk, &config(0));
    assert_eq!(store.id(), id);
    assert_eq!(metrics.blocks.get(), 100);
    assert_eq!(metrics.up.get(), 1);
    assert_eq!(metrics.bytes.get(), i64::try_from(disk.segment_bytes()).unwrap());
    assert_all_found(&store, &blocks).await;
}

#[tokio::test]
async fn a_store_in_a_directory_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        segment_bytes: 64 << 10,
        ..StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 8 << 20, 0)
    };
    let blocks: Vec<_> = (0..200).map(|n| block(n, 9000)).collect();
    let store = Store::open(config.clone(), metrics()).unwrap();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.close().await;
    let reopened = Store::open(config, metrics()).unwrap();
    assert_eq!(reopened.id(), store.id());
    assert_all_found(&reopened, &blocks).await;
}

#[tokio::test]
async fn a_thief_of_the_disk_without_the_key_finds_neither_content_nor_names() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        segment_bytes: 64 << 10,
        ..StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 8 << 20, 0)
    };
    let blocks: Vec<_> = (0..40).map(|n| block(n, 9000)).collect();
    let store = Store::open(config.clone(), metrics()).unwrap();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.flush().await;
    let older = *blocks[0].reference();
    let adopted = older.under(ServerSecret::new([2; 32]).name(&older.digest));
    assert!(store.adopt(&older, &adopted));
    store.close().await;
    drop(store);
    let mut stolen = Vec::new();
    let mut places = vec![config.dir.clone()];
    while let Some(place) = places.pop() {
        match std::fs::read_dir(&place) {
            Ok(entries) => places.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => stolen.extend(std::fs::read(&place).unwrap()),
        }
    }
    assert!(stolen.len() > 40 * 9000, "there is something to search");
    let adopted = std::iter::once(adopted.secret.0.to_vec());
    let needles = blocks.iter().flat_map(|block| {
        let reference = block.reference();
        let tag = crate::block::tag(reference).0;
        [
            block.bytes()[..16].to_vec(),
            reference.digest.0[..16].to_vec(),
            reference.secret.0.to_vec(),
            tag.to_vec(),
        ]
    });
    for needle in needles.chain(adopted) {
        assert!(!stolen.windows(needle.len()).any(|bytes| bytes == needle), "{needle:02x?} shows");
    }
    std::fs::remove_file(&config.key_file).unwrap();
    let reopened = Store::open(config, metrics()).unwrap();
    assert!(reopened.get(&older).await.is_none());
}

#[tokio::test]
async fn a_stored_block_is_not_written_twice() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(4 << 20));
    for _ in 0..3 {
        store.put(block(1, 1000));
        store.put(block(1, 1000));
        store.flush().await;
    }
    assert_eq!(metrics.written_bytes.get(), 1000);
    assert_eq!(metrics.blocks.get(), 1);
}

#[tokio::test]
async fn a_block_is_found_for_its_whole_reference_only() {
    for memory in [0, 4 << 20] {
        let disk = FaultDisk::new();
        let (store, metrics) = open(&disk, &config(memory));
        let bytes = Bytes::from(vec![7; 2000]);
        let (ours, theirs) = (ServerSecret::new([1; 32]), ServerSecret::new([2; 32]));
        let block = ours.mint(bytes.clone());
        let right = *block.reference();
        store.put(block);
        let wrong = [
            *theirs.mint(bytes.clone()).reference(),
            Reference { key: theirs.id(), ..right },
            Reference { secret: Secret([0; 32]), ..right },
            Reference { len: 1999, ..right },
        ];
        for flushed in [false, true] {
            for reference in &wrong {
                assert!(store.get(reference).await.is_none(), "{flushed}");
            }
            assert!(store.get(&right).await.is_some());
            store.flush().await;
        }
        store.put(theirs.mint(bytes));
        store.flush().await;
        assert!(store.get(&wrong[0]).await.is_some());
        assert!(store.get(&right).await.is_some());
        assert_eq!((metrics.blocks.get(), metrics.bad_blocks.get()), (2, 0));
        store.close().await;
    }
}

#[tokio::test]
async fn the_size_holds_and_blocks_in_use_outlive_their_segment() {
    let disk = FaultDisk::new();
    let config = config(0);
    let (store, metrics) = open(&disk, &config);
    let (hot, cold) = (block(1_000_001, 3000), block(1_000_002, 3000));
    store.put(hot.clone());
    store.put(cold.clone());
    for n in 0..2000 {
        store.put(block(n, 3000));
        if n % 20 == 0 {
            store.flush().await;
            assert!(disk.peak_bytes() <= config.size);
            assert!(store.get(hot.reference()).await.is_some(), "after {n}");
        }
    }
    store.flush().await;
    assert!(store.get(cold.reference()).await.is_none());
    assert!(store.get(block(0, 3000).reference()).await.is_none());
    let written = i64::try_from(metrics.written_bytes.get() - metrics.evicted_bytes.get()).unwrap();
    assert!(metrics.blocks.get() * 3000 <= written, "{written}");
    assert!(
        metrics.blocks.get() * 3000 > i64::try_from(config.size / 2).unwrap(),
        "most of the size is used"
    );
    let latest: Vec<_> = (1900..2000).map(|n| block(n, 3000)).collect();
    assert_all_found(&store, &latest).await;
}

#[tokio::test]
async fn all_blocks_in_use_do_not_keep_the_store_from_turning_over() {
    let disk = FaultDisk::new();
    let config = config(0);
    // Twenty of them fill a segment to the last byte.
    let len = 3100;
    let (store, metrics) = open(&disk, &config);
    for n in 0..1000 {
        let block = block(n, len);
        store.put(block.clone());
        store.flush().await;
        assert!(store.get(block.reference()).await.is_some());
    }
    assert!(disk.peak_bytes() <= config.size);
    assert!(metrics.written_bytes.get() < 1000 * 3100 * 4 / 3 + 3100, "at most a quarter is rewritten");
}

#[tokio::test]
async fn blocks_in_memory_count_as_used_on_disk() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(64 << 20));
    let hot = block(1_000_001, 3000);
    store.put(hot.clone());
    for n in 0..1000 {
        store.put(block(n, 3000));
        if n % 20 == 0 {
            store.flush().await;
            assert!(store.get_now(hot.reference()).is_some());
        }
    }
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    assert!(store.get_now(hot.reference()).is_none());
    assert!(store.get(hot.reference()).await.is_some());
}

#[tokio::test]
async fn short_blocks_do_not_outgrow_the_table() {
    let disk = FaultDisk::new();
    let config = StoreConfig { segment_bytes: 1 << 20, size: 8 << 20, ..config(0) };
    let (store, metrics) = open(&disk, &config);
    for n in 0..40_000 {
        store.put(block(n, 4));
        if n % 1000 == 0 {
            store.flush().await;
        }
    }
    store.flush().await;
    assert_eq!(metrics.dropped_blocks.get(), 0);
    assert!(metrics.blocks.get() <= 3 * 8192, "{}", metrics.blocks.get());
    assert!(store.get(block(39_999, 4).reference()).await.is_some());
}

#[tokio::test]
async fn a_block_longer_than_a_segment_stays_in_memory() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(4 << 20));
    let long = block(1, 70_000);
    store.put(long.clone());
    store.flush().await;
    assert!(store.get_now(long.reference()).is_some());
    assert_eq!((metrics.dropped_blocks.get(), metrics.blocks.get(), metrics.up.get()), (1, 0, 1));
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_never_blocks() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..1000).map(|n| block(n, 10_000)).collect();
    let stalled = disk.stall();
    blocks.iter().for_each(|block| store.put(block.clone()));
    let dropped = metrics.dropped_blocks.get();
    drop(stalled);
    store.flush().await;
    assert!(dropped > 0);
    let mut found = 0;
    for block in &blocks {
        found += u64::from(store.knows(block.reference()));
    }
    assert_eq!(found + dropped + metrics.evicted_bytes.get() / 10_000, 1000);
}

#[tokio::test]
async fn the_open_segment_becomes_durable_by_itself() {
    let disk = FaultDisk::new();
    let config = StoreConfig { checkpoint_after: Duration::from_millis(20), ..config(0) };
    let (store, _) = open(&disk, &config);
    store.put(block(1, 1000));
    let survived = || {
        let (store, _) = open(&disk.after_power_loss(fault_disk::Unsynced::Lost), &config);
        store.knows(block(1, 1000).reference())
    };
    eventually(survived);
}

#[tokio::test]
async fn many_tasks_get_what_was_put() {
    const TASKS: u32 = 8;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &StoreConfig { size: 64 << 20, ..config(64 << 10) });
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            runtime.spawn(async move {
                for round in 0..300 {
                    let n = (round * 7 + task * 13) % 200;
                    let block = block(n, 5000);
                    store.put(block.clone());
                    if round % 50 == 0 {
                        store.flush().await;
                    }
                    let found = store.get(block.reference()).await.expect("it was put");
                    assert_eq!(found.bytes(), block.bytes());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    store.flush().await;
    assert_eq!(metrics.written_bytes.get(), 200 * 5000);
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_store_without_disk_is_its_memory() {
    let metrics = metrics();
    let store = Store::memory_only(1 << 20, metrics.clone());
    store.put(block(1, 1000));
    assert!(store.knows(block(1, 1000).reference()));
    assert!(store.get(block(1, 1000).reference()).await.is_some());
    assert!(store.get(block(2, 1000).reference()).await.is_none());
    store.flush().await;
    store.close().await;
    assert_eq!(metrics.up.get(), 0);
    assert_ne!(store.id(), Store::memory_only(0, metrics).id());
}

#[test]
fn a_put_block_does_not_hold_the_buffer_it_was_cut_from() {
    let store = Store::memory_only(1 << 20, metrics());
    let buffer = Bytes::from(vec![1; 1 << 20]);
    let block = ServerSecret::new([1; 32]).mint(buffer.slice(..1000));
    store.put(block.clone());
    drop(block);
    assert!(buffer.is_unique());
}

#[test]
fn a_store_without_room_to_turn_over_is_refused() {
    let config = StoreConfig::new("/nowhere".into(), "/nowhere/key".into(), 1 << 20, 0);
    assert!(matches!(Store::open(config, metrics()), Err(StoreError::TooSmall { .. })));
}

fn config(memory: u64) -> StoreConfig {
    StoreConfig {
        segment_bytes: 64 << 10,
        checkpoint_after: Duration::from_secs(3600),
        retry_after: Duration::from_millis(20),
        slow_after: Duration::from_secs(3600),
        ..StoreConfig::new("".into(), "".into(), 1 << 20, memory)
    }
}

fn open(disk: &FaultDisk, config: &StoreConfig) -> (Store, StoreMetrics) {
    let metrics = metrics();
    let store = Store::open_on(Arc::new(disk.clone()), config, metrics.clone()).unwrap();
    (store, metrics)
}

fn metrics() -> StoreMetrics {
    Metrics::new().store
}

fn block(n: u32, len: usize) -> Block {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at as u32 ^ n).wrapping_mul(31) as u8).collect();
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    ServerSecret::new([1; 32]).mint(bytes.into())
}

fn hint(reference: &Reference) -> name::Hint {
    Name::of(reference).hint()
}

async fn assert_all_found(store: &Store, blocks: &[Block]) {
    for block in blocks {
        let found = store.get(block.reference()).await.expect("the block was put");
        assert_eq!(found.bytes(), block.bytes());
    }
}

fn eventually(mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "it never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}
