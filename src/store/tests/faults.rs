//! Disks that are full, gone, busy or broken.

use super::*;
use crate::store::disk::{Directory, Disk};

#[tokio::test]
async fn a_full_disk_turns_the_tier_off_and_on_again_when_there_is_room() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(4 << 20));
    store.put(block(1, 1000));
    store.flush().await;
    disk.set_full(true);
    store.put(block(2, 1000));
    store.flush().await;
    assert_eq!(metrics.up.get(), 0);
    assert!(metrics.errors.get() > 0);
    for n in 3..50 {
        store.put(block(n, 1000));
        assert!(store.get(block(n, 1000).reference()).await.is_some(), "memory goes on");
    }
    store.flush().await;
    disk.set_full(false);
    eventually(|| metrics.up.get() == 1);
    store.put(block(60, 1000));
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    assert_all_found(&store, &[block(1, 1000), block(60, 1000)]).await;
}

#[tokio::test]
async fn blocks_on_a_full_disk_can_still_be_read() {
    let disk = FaultDisk::new();
    let config = StoreConfig { retry_after: Duration::from_secs(3600), ..config(0) };
    let (store, metrics) = open(&disk, &config);
    store.put(block(1, 1000));
    store.flush().await;
    disk.set_full(true);
    store.put(block(2, 1000));
    store.flush().await;
    assert_eq!(metrics.up.get(), 0);
    assert_all_found(&store, &[block(1, 1000)]).await;
}

#[tokio::test]
async fn a_disk_that_is_away_at_the_start_is_used_when_it_comes() {
    let disk = FaultDisk::new();
    disk.set_away(true);
    let (store, metrics) = open(&disk, &config(1 << 22));
    let id = store.id();
    store.put(block(1, 1000));
    assert!(store.get_now(block(1, 1000).reference()).is_some());
    assert_eq!(metrics.up.get(), 0);
    disk.set_away(false);
    eventually(|| metrics.up.get() == 1);
    assert_ne!(store.id(), id, "the id is the disk's");
    store.put(block(2, 1000));
    store.close().await;
    let (reopened, _) = open(&disk, &config(0));
    assert_eq!(reopened.id(), store.id());
    assert_all_found(&reopened, &[block(2, 1000)]).await;
}

#[tokio::test]
async fn a_disk_whose_reads_fail_is_let_go() {
    let disk = FaultDisk::new();
    let config = StoreConfig { retry_after: Duration::from_secs(3600), ..config(0) };
    let (store, metrics) = open(&disk, &config);
    let blocks: Vec<_> = (0..20).map(|n| block(n, 1000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.flush().await;
    disk.set_reads_fail(true);
    for block in &blocks {
        assert!(store.get(block.reference()).await.is_none());
    }
    eventually(|| metrics.up.get() == 0);
    assert!((9..=21).contains(&metrics.errors.get()), "each read and the end");
    assert_eq!(metrics.blocks.get(), 0);
}

#[tokio::test]
async fn a_disk_that_comes_back_wiped_is_taken_as_it_is() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let (old, new) = (block(1, 1000), block(2, 1000));
    store.put(old.clone());
    store.flush().await;
    assert_all_found(&store, std::slice::from_ref(&old)).await;
    disk.set_away(true);
    store.put(block(3, 1000));
    store.flush().await;
    assert_eq!(metrics.up.get(), 0);
    disk.wipe();
    disk.set_away(false);
    eventually(|| metrics.up.get() == 1);
    store.put(new.clone());
    store.flush().await;
    assert_all_found(&store, &[new]).await;
    assert!(store.get(old.reference()).await.is_none());
    assert_eq!(metrics.bad_blocks.get(), 0);
}

#[tokio::test]
async fn one_failed_read_costs_one_block() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..20).map(|n| block(n, 1000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.flush().await;
    disk.set_reads_fail(true);
    assert!(store.get(blocks[0].reference()).await.is_none());
    disk.set_reads_fail(false);
    assert_all_found(&store, &blocks[1..]).await;
    assert_eq!((metrics.up.get(), metrics.errors.get(), metrics.bad_blocks.get()), (1, 1, 0));
}

#[tokio::test]
async fn a_second_process_waits_for_the_first_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        retry_after: Duration::from_millis(20),
        ..StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 32 << 20, 4 << 20)
    };
    let first = Store::open(config.clone(), metrics()).unwrap();
    first.put(block(1, 1000));
    let waiting = metrics();
    let second = Store::open(config, waiting.clone()).unwrap();
    assert_eq!(waiting.up.get(), 0);
    second.put(block(2, 1000));
    assert!(second.get_now(block(2, 1000).reference()).is_some());
    first.close().await;
    eventually(|| waiting.up.get() == 1);
    assert_all_found(&second, &[block(1, 1000)]).await;
}

#[tokio::test]
async fn the_owner_ends_with_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 32 << 20, 0);
    let store = Store::open(config.clone(), metrics()).unwrap();
    store.put(block(1, 1000));
    drop(store);
    let directory = Directory { dir: config.dir.clone(), key_file: config.key_file.clone() };
    eventually(|| directory.prepare().is_ok());
    let store = Store::open(config, metrics()).unwrap();
    assert_all_found(&store, &[block(1, 1000)]).await;
}

#[test]
fn a_directory_that_cannot_be_made_leaves_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let config = StoreConfig::new(dir.path().join("file/store"), dir.path().join("key"), 32 << 20, 4 << 20);
    let store = Store::open(config, metrics()).unwrap();
    store.put(block(1, 1000));
    assert!(store.get_now(block(1, 1000).reference()).is_some());
}

#[test]
fn a_file_that_is_no_key_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "not a key").unwrap();
    let config = StoreConfig::new(dir.path().join("store"), dir.path().join("key"), 32 << 20, 0);
    assert!(matches!(Store::open(config, metrics()), Err(StoreError::Key(KeyFault::Malformed(_)))));
}
