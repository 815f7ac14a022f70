//! Disks that are full, gone, busy or broken.

use tokio::time::{sleep, timeout};

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

#[test]
fn a_disk_that_hangs_is_waited_for_once_and_used_again_when_it_answers() {
    // One thread reads, so that the test says when it begins.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(wait_once_for_a_disk_that_hangs());
}

async fn wait_once_for_a_disk_that_hangs() {
    let (disk, blocks) = filled().await;
    let config = StoreConfig { slow_after: Duration::from_millis(200), ..config(0) };
    let (store, metrics) = open(&disk, &config);
    let hanging = disk.stall();
    let (gate, closed) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || closed.recv());
    // More than may read at a time.
    let mut waiting: Vec<_> =
        blocks[..40].iter().map(|block| Box::pin(store.get(block.reference()))).collect();
    for get in &mut waiting {
        assert!(timeout(Duration::ZERO, get).await.is_err(), "nobody knew");
    }
    drop(gate);
    let patience = Instant::now() + Duration::from_secs(20);
    while timeout(Duration::from_millis(20), store.get(blocks[50].reference())).await.is_err() {
        assert!(Instant::now() < patience, "nobody found out");
    }
    for get in &mut waiting {
        assert!(timeout(Duration::ZERO, get).await.is_err(), "who waits goes on waiting");
    }
    drop(waiting);
    assert_eq!(metrics.skipped_reads.get(), 1);
    for block in &blocks {
        let (reference, tag) = (block.reference(), crate::block::tag(block.reference()));
        assert!(at_once(store.get(reference)).await.is_none());
        assert!(at_once(store.get_digest(&reference.digest, reference.len)).await.is_none());
        assert!(at_once(store.find_tag(reference.key, &tag)).await.is_none());
    }
    assert_eq!((metrics.skipped_reads.get(), metrics.errors.get(), metrics.up.get()), (181, 0, 1));
    let new = block(100, 3000);
    store.put(new.clone());
    assert!(at_once(store.get(new.reference())).await.is_some(), "memory goes on");
    drop(hanging);
    let patience = Instant::now() + Duration::from_secs(20);
    for block in blocks.iter().chain([&new]) {
        while store.get(block.reference()).await.is_none() {
            assert!(Instant::now() < patience, "it never came back");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_walk_waits_for_a_disk_that_hangs_and_misses_nothing() {
    let (disk, blocks) = filled().await;
    let (store, _) = open(&disk, &StoreConfig { slow_after: Duration::from_millis(20), ..config(0) });
    let hanging = disk.stall();
    let reference = blocks[0].reference();
    assert!(timeout(Duration::from_millis(200), store.get(reference)).await.is_err());
    assert!(at_once(store.get(reference)).await.is_none());
    let (walking, key) = (store.clone(), reference.key);
    let walk = tokio::spawn(async move { walking.references(key, None, None, 1000).await });
    sleep(Duration::from_millis(50)).await;
    assert!(!walk.is_finished());
    drop(hanging);
    assert_eq!(walk.await.unwrap().0.len(), blocks.len());
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

/// Waits for what waits for no disk.
async fn at_once<T>(asked: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), asked).await.expect("the disk is not waited for")
}

/// A disk and the blocks on it.
async fn filled() -> (FaultDisk, Vec<Block>) {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..60).map(|n| block(n, 3000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.close().await;
    (disk, blocks)
}
