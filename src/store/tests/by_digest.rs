//! Blocks by their digest alone.

use super::*;
use crate::store::disk::SegmentId;

#[tokio::test]
async fn a_block_is_found_by_its_digest_in_memory_on_disk_and_after_a_restart() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(8 << 20));
    let blocks: Vec<_> = (0..100).map(|n| block(n, 3000)).collect();
    assert_found_by_digest(&store, &blocks[..0], &blocks).await;
    blocks.iter().for_each(|block| store.put(block.clone()));
    for block in &blocks {
        let digest = &block.reference().digest;
        assert_eq!(store.get_digest_now(digest, 3000).unwrap().bytes(), block.bytes());
        assert!(store.get_digest_now(digest, 2999).is_none());
    }
    assert_found_by_digest(&store, &blocks, &[]).await;
    store.close().await;

    let (store, _) = open(&disk, &config(0));
    assert!(store.get_digest_now(&blocks[0].reference().digest, 3000).is_none(), "it would take the disk");
    assert_found_by_digest(&store, &blocks, &[]).await;
    assert!(store.get_digest(&blocks[0].reference().digest, 2999).await.is_none());
}

#[tokio::test]
async fn a_digest_finds_the_block_whatever_secret_it_is_known_under() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let bytes = Bytes::from(vec![7; 5000]);
    let (one, other) =
        (ServerSecret::new([1; 32]).mint(bytes.clone()), ServerSecret::new([2; 32]).mint(bytes));
    let digest = one.reference().digest;
    store.put(one.clone());
    store.flush().await;
    assert_eq!(store.get_digest(&digest, 5000).await.unwrap().reference(), one.reference());
    store.put(other.clone());
    store.flush().await;
    assert_eq!(store.get_digest(&digest, 5000).await.unwrap().reference(), other.reference());
    assert!(store.get(one.reference()).await.is_some());
}

#[tokio::test]
async fn what_was_evicted_or_is_rotten_is_not_found_by_its_digest() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..2000).map(|n| block(n, 3000)).collect();
    for block in &blocks {
        store.put(block.clone());
        store.flush().await;
    }
    assert!(metrics.evicted_bytes.get() > 0);
    for block in &blocks {
        let found = store.get_digest(&block.reference().digest, 3000).await;
        assert_eq!(found.is_some(), store.knows(block.reference()));
    }

    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    store.put(blocks[0].clone());
    store.flush().await;
    disk.tamper(SegmentId(1), |bytes| bytes[64 + 500] ^= 0x10);
    assert_found_by_digest(&store, &[], &blocks[..1]).await;
    store.put(blocks[0].clone());
    assert_found_by_digest(&store, &blocks[..1], &[]).await;
}

#[tokio::test]
async fn a_store_without_disk_finds_by_digest_what_its_memory_holds() {
    let store = Store::memory_only(1 << 20, metrics());
    let blocks: Vec<_> = (0..500).map(|n| block(n, 9000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    let mut found = 0;
    for block in &blocks {
        let by_digest = store.get_digest(&block.reference().digest, 9000).await;
        found += usize::from(by_digest.is_some());
        assert!(by_digest.is_none() || store.knows(block.reference()));
    }
    assert!(found > 20, "{found}");
}

async fn assert_found_by_digest(store: &Store, here: &[Block], missing: &[Block]) {
    for block in here {
        let reference = block.reference();
        let found = store.get_digest(&reference.digest, reference.len).await.expect("it is there");
        assert_eq!((found.reference(), found.bytes()), (reference, block.bytes()));
    }
    for block in missing {
        assert!(store.get_digest(&block.reference().digest, block.reference().len).await.is_none());
    }
}
