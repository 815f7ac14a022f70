//! Tags, adoption, expiry and walks.

use wanigan_parsers::Tag;

use super::*;
use crate::block::{KeyId, tag};
use crate::store::fault_disk::Unsynced;

#[tokio::test]
async fn a_tag_is_found_wherever_its_block_is() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..60).map(|n| block(n, 3000)).collect();
    // In the queue.
    let stalled = disk.stall();
    blocks.iter().for_each(|block| store.put(block.clone()));
    for block in &blocks {
        assert_eq!(find_now(&store, block.reference()), TagFound::Here(*block.reference()));
    }
    drop(stalled);
    store.flush().await;
    // The last are in the open segment, which takes no disk.
    let last = blocks[59].reference();
    assert_eq!(find_now(&store, last), TagFound::Here(*last));
    assert_tags_found(&store, &blocks).await;
    let crashed = disk.after_power_loss(Unsynced::Lost);
    store.close().await;
    assert_tags_found(&store, &blocks).await;

    for disk in [disk, crashed] {
        let (store, _) = open(&disk, &config(0));
        assert_eq!(find_now(&store, last), TagFound::OnDisk);
        assert_tags_found(&store, &blocks).await;
        // Their manifests are known by now.
        assert_eq!(find_now(&store, last), TagFound::Here(*last));
        store.close().await;
    }
    assert_eq!((metrics.bad_blocks.get(), metrics.errors.get()), (0, 0));
}

#[tokio::test]
async fn a_tag_is_found_in_memory_without_a_disk() {
    let store = Store::memory_only(1 << 20, metrics());
    let block = block(1, 1000);
    assert_eq!(find_now(&store, block.reference()), TagFound::Unknown);
    store.put(block.clone());
    assert_eq!(find_now(&store, block.reference()), TagFound::Here(*block.reference()));
    assert_tags_found(&store, &[block]).await;
}

#[tokio::test]
async fn a_tag_of_another_domain_or_with_another_end_finds_nothing() {
    for memory in [0, 4 << 20] {
        let disk = FaultDisk::new();
        let (mut store, _) = open(&disk, &config(memory));
        let reference = *block(1, 1000).reference();
        store.put(block(1, 1000));
        let right = tag(&reference);
        let mut other_end = right;
        other_end.0[31] ^= 1;
        let other_key = KeyId([9; 8]);
        for step in 0..4 {
            let wrong = [(reference.key, other_end), (other_key, right), (KeyId::PLAIN, right)];
            for (key, tag) in wrong.into_iter().chain([(reference.key, Tag([0; 32]))]) {
                assert_eq!(store.find_tag(key, &tag).await, None, "{step}");
                assert_eq!(store.find_tag_now(key, &tag), TagFound::Unknown, "{step}");
            }
            assert_eq!(store.find_tag(reference.key, &right).await, Some(reference));
            match step {
                0 => store.flush().await,
                1 => store.close().await,
                _ => store = open(&disk, &config(memory)).0,
            }
        }
    }
}

#[tokio::test]
async fn asking_by_tag_reads_a_manifest_once_and_never_a_block() {
    let disk = FaultDisk::new();
    let config = config(0);
    let blocks: Vec<_> = (0..20).map(|n| block(n, 3000)).collect();
    let (store, _) = open(&disk, &config);
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.close().await;
    // What is not read is not noticed.
    disk.tamper(disk::SegmentId(1), |bytes| bytes[64..64 + 20 * 3092].fill(7));
    let (store, metrics) = open(&disk, &config);
    let before = disk.bytes_read();
    for _ in 0..10 {
        assert_tags_found(&store, &blocks).await;
    }
    let manifest = 64 + 20 * 88 + 16 + 16;
    assert!((1..=manifest + 16).contains(&(disk.bytes_read() - before)), "{}", disk.bytes_read() - before);
    assert_eq!(metrics.bad_blocks.get(), 0);
    assert!(store.get(blocks[3].reference()).await.is_none(), "it is rotten indeed");
    assert_eq!(find_now(&store, blocks[3].reference()), TagFound::Unknown);
}

#[tokio::test]
async fn a_rotten_manifest_costs_at_most_its_tags() {
    let disk = FaultDisk::new();
    let config = config(0);
    let (store, _) = open(&disk, &config);
    let blocks: Vec<_> = (0..40).map(|n| block(n, 3000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.close().await;
    for closed in [true, false] {
        let (store, metrics) = open(&disk, &config);
        if closed {
            store.close().await;
        }
        disk.tamper(disk::SegmentId(1), |bytes| {
            let footer = bytes.len() - 100;
            bytes[footer] ^= 1;
        });
        // The index has the same, while it is there to ask.
        let expected = (!closed).then_some(*blocks[0].reference());
        assert_eq!(find(&store, blocks[0].reference()).await, expected);
        assert_tags_found(&store, &blocks[39..]).await;
        assert_all_found(&store, &blocks).await;
        assert_eq!(metrics.bad_blocks.get(), 0);
        disk.tamper(disk::SegmentId(1), |bytes| {
            let footer = bytes.len() - 100;
            bytes[footer] ^= 1;
        });
    }
}

#[tokio::test]
async fn eviction_forgets_tags() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    for n in 0..600 {
        store.put(block(n, 3000));
        if n % 20 == 0 {
            store.flush().await;
        }
    }
    store.flush().await;
    assert_eq!(find_now(&store, block(0, 3000).reference()), TagFound::Unknown);
    assert_eq!(find(&store, block(0, 3000).reference()).await, None);
    let latest: Vec<_> = (500..600).map(|n| block(n, 3000)).collect();
    assert_tags_found(&store, &latest).await;
}

#[tokio::test]
async fn an_adopted_block_is_found_at_once_and_after_a_restart() {
    for memory in [0, 4 << 20] {
        let disk = FaultDisk::new();
        let (store, metrics) = open(&disk, &config(memory));
        let blocks: Vec<_> = (0..60).map(|n| block(n, 3000)).collect();
        blocks[..40].iter().for_each(|block| store.put(block.clone()));
        store.flush().await;
        let stalled = disk.stall();
        blocks[40..].iter().for_each(|block| store.put(block.clone()));
        for block in &blocks {
            let new = under(2, block);
            assert!(!store.knows(new.reference()));
            assert!(store.adopt(block.reference(), new.reference()));
            assert!(store.knows(new.reference()));
            assert_eq!(find_now(&store, new.reference()), TagFound::Here(*new.reference()));
        }
        for block in &blocks[40..] {
            assert_eq!(store.get_now(under(2, block).reference()).unwrap().bytes(), block.bytes());
        }
        drop(stalled);
        let adopted: Vec<_> = blocks.iter().map(|block| under(2, block)).collect();
        for blocks in [&blocks, &adopted] {
            assert_all_found(&store, blocks).await;
            assert_tags_found(&store, blocks).await;
        }
        store.flush().await;
        let crashed = disk.after_power_loss(Unsynced::Lost);
        for blocks in [&blocks, &adopted] {
            assert_all_found(&store, blocks).await;
            assert_tags_found(&store, blocks).await;
        }
        assert_eq!((metrics.blocks.get(), metrics.written_bytes.get()), (60, 60 * 3000));
        // What is known already is not written either.
        adopted.iter().for_each(|block| store.put(block.clone()));
        store.close().await;
        assert_eq!(metrics.written_bytes.get(), 60 * 3000);
        for disk in [disk, crashed] {
            let (store, metrics) = open(&disk, &config(memory));
            for blocks in [&adopted, &blocks] {
                assert_tags_found(&store, blocks).await;
                assert_all_found(&store, blocks).await;
            }
            assert_eq!((metrics.blocks.get(), metrics.bad_blocks.get()), (60, 0));
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_finds_no_adopted_block() {
    let disk = FaultDisk::new();
    let (mut store, _) = open(&disk, &config(0));
    let block = block(1, 3000);
    let new = *under(2, &block).reference();
    store.put(block.clone());
    assert!(store.adopt(block.reference(), &new));
    let wrong = [
        Reference { secret: Secret([0; 32]), ..new },
        Reference { secret: block.reference().secret, ..new },
        Reference { key: KeyId::PLAIN, ..new },
        Reference { key: block.reference().key, ..new },
        Reference { len: 2999, ..new },
    ];
    for step in 0..3 {
        for wrong in &wrong {
            assert!(store.get(wrong).await.is_none(), "{step}");
        }
        assert!(store.get(&new).await.is_some());
        if step == 0 {
            store.flush().await;
        } else {
            store.close().await;
            store = open(&disk, &config(0)).0;
        }
    }
}

#[tokio::test]
async fn only_what_is_there_is_adopted_and_only_as_the_same_content() {
    for memory in [0, 4 << 20] {
        let disk = FaultDisk::new();
        let (store, metrics) = open(&disk, &config(memory));
        let (block, absent) = (block(1, 3000), block(2, 3000));
        let old = *block.reference();
        let new = *under(2, &block).reference();
        store.put(block);
        for flushed in [false, true] {
            let wrong_secret = Reference { secret: Secret([0; 32]), ..old };
            assert!(!store.adopt(absent.reference(), under(2, &absent).reference()));
            assert!(!store.adopt(&wrong_secret, &new));
            assert!(!store.adopt(&old, &Reference { digest: absent.reference().digest, ..new }));
            assert!(!store.adopt(&old, &Reference { len: 2999, ..new }));
            assert!(!store.adopt(&old, &Reference { secret: Secret([0; 32]), ..old }));
            let plain = Reference { key: KeyId::PLAIN, secret: Secret([0; 32]), ..old };
            assert!(!store.adopt(&old, &plain));
            assert!(!store.knows(&new) && !store.knows(&plain), "{flushed}");
            store.flush().await;
        }
        // A wrong length is not seen at once, but before it counts.
        let (short, short_new) = (Reference { len: 2999, ..old }, Reference { len: 2999, ..new });
        store.adopt(&short, &short_new);
        store.flush().await;
        assert!(store.get(&short_new).await.is_none());
        assert_eq!(find(&store, &new).await, None);
        assert_eq!(metrics.bad_blocks.get(), 0);
        assert!(store.adopt(&old, &new));
        assert!(store.get(&new).await.is_some());
    }
}

#[tokio::test]
async fn a_store_without_disk_adopts_what_it_holds() {
    let store = Store::memory_only(1 << 20, metrics());
    let block = block(1, 1000);
    let new = *under(2, &block).reference();
    assert!(!store.adopt(block.reference(), &new));
    store.put(block.clone());
    assert!(store.adopt(block.reference(), &new));
    assert_eq!(store.get(&new).await.unwrap().bytes(), block.bytes());
    assert_eq!(find_now(&store, &new), TagFound::Here(new));
}

#[tokio::test]
async fn adoptions_follow_each_other_however_fast() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let block = block(1, 1000);
    let stalled = disk.stall();
    store.put(block.clone());
    for key in 1..5 {
        assert!(store.adopt(under(key, &block).reference(), under(key + 1, &block).reference()));
        assert!(store.get_now(under(key + 1, &block).reference()).is_some());
    }
    drop(stalled);
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    for key in 1..=5 {
        assert!(store.get(under(key, &block).reference()).await.is_some(), "{key}");
    }
}

#[test]
fn there_is_no_moment_at_which_an_adopted_block_is_unknown() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let disk = FaultDisk::new();
    let config = StoreConfig { checkpoint_after: Duration::from_millis(1), ..config(0) };
    let (store, _) = open(&disk, &config);
    let blocks: Vec<_> = (0..100).map(|n| block(n, 3000)).collect();
    runtime.block_on(async {
        blocks.iter().for_each(|block| store.put(block.clone()));
        store.flush().await;
        let flusher = store.clone();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let flushing = runtime.spawn(async move {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                flusher.flush().await;
            }
        });
        for block in &blocks {
            let new = under(2, block);
            assert!(store.adopt(block.reference(), new.reference()));
            for _ in 0..20 {
                assert!(store.get(new.reference()).await.is_some());
                assert_eq!(find(&store, new.reference()).await, Some(*new.reference()));
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        flushing.await.unwrap();
    });
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_block_that_outlives_its_segment_keeps_its_references() {
    let disk = FaultDisk::new();
    let (store, metrics) = open(&disk, &config(0));
    let (hot, cold) = (block(1_000_001, 3000), block(1_000_002, 3000));
    for block in [&hot, &cold] {
        store.put(block.clone());
        assert!(store.adopt(block.reference(), under(2, block).reference()));
    }
    for n in 0..2000 {
        store.put(block(n, 3000));
        if n % 20 == 0 {
            store.flush().await;
            // It is used under its new reference only.
            assert!(store.get(under(2, &hot).reference()).await.is_some(), "after {n}");
        }
    }
    assert_eq!(find(&store, under(2, &hot).reference()).await, Some(*under(2, &hot).reference()));
    assert!(store.get(hot.reference()).await.is_some());
    assert!(!store.knows(cold.reference()) && !store.knows(under(2, &cold).reference()));
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    assert_all_found(&store, &[under(2, &hot), hot]).await;
    assert!(!store.knows(under(2, &cold).reference()));
    assert_eq!(metrics.bad_blocks.get(), 0);
}

#[tokio::test]
async fn one_key_too_many_takes_the_place_of_the_one_that_expired_first() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let block = block(1, 1000);
    let key = |n| under(n, &block).reference().key;
    let new = |n| *under(n, &block).reference();
    store.put(block.clone());
    for n in 2..=5 {
        assert!(store.adopt(block.reference(), &new(n)));
    }
    store.flush().await;
    store.expire(key(4));
    store.expire(key(3));
    assert!(store.adopt(block.reference(), &new(6)));
    store.flush().await;
    assert!(!store.knows(&new(4)) && store.knows(&new(3)));
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    for n in [1, 2, 3, 5, 6] {
        assert!(store.get(&new(n)).await.is_some(), "{n}");
    }
    assert!(store.get(&new(4)).await.is_none());
    assert!(store.adopt(&new(6), &new(7)));
    store.flush().await;
    assert!(!store.knows(&new(3)) && store.knows(&new(7)));
}

#[tokio::test]
async fn tags_of_an_expired_key_are_refused_and_its_blocks_stay() {
    for memory in [0, 4 << 20] {
        let disk = FaultDisk::new();
        let (store, _) = open(&disk, &config(memory));
        let (old, other) = (block(1, 1000), under(2, &block(2, 1000)));
        let new = *under(2, &old).reference();
        store.put(old.clone());
        store.put(other.clone());
        assert!(store.adopt(old.reference(), &new));
        store.flush().await;
        store.expire(old.reference().key);
        store.flush().await;
        let crashed = disk.after_power_loss(Unsynced::Lost);
        let (restarted, _) = open(&crashed, &config(memory));
        for store in [&store, &restarted] {
            assert_eq!(find(store, old.reference()).await, None);
            assert_eq!(find_now(store, old.reference()), TagFound::Unknown);
            assert_eq!(find(store, &new).await, Some(new));
            assert_eq!(find(store, other.reference()).await, Some(*other.reference()));
            assert!(store.get(old.reference()).await.is_some());
            assert!(store.get(&new).await.is_some());
        }
        restarted.readmit(old.reference().key);
        restarted.close().await;
        let (restarted, _) = open(&crashed, &config(memory));
        assert_eq!(find(&restarted, old.reference()).await, Some(*old.reference()));
    }
}

#[tokio::test]
async fn a_key_that_expires_while_the_disk_is_away_stays_expired() {
    let disk = FaultDisk::new();
    disk.set_away(true);
    let (store, metrics) = open(&disk, &config(4 << 20));
    let block = block(1, 1000);
    store.expire(block.reference().key);
    disk.set_away(false);
    eventually(|| metrics.up.get() == 1);
    store.put(block.clone());
    store.close().await;
    let (store, _) = open(&disk, &config(0));
    assert!(store.get(block.reference()).await.is_some());
    assert_eq!(find(&store, block.reference()).await, None);
}

#[tokio::test]
async fn a_walk_returns_every_block_of_the_key_once_and_the_newest_segments_first() {
    let disk = FaultDisk::new();
    let config = StoreConfig { size: 8 << 20, ..config(0) };
    let (store, _) = open(&disk, &config);
    // More segments than one piece of a walk looks at.
    let blocks: Vec<_> = (0..800).map(|n| block(n, 3000)).collect();
    for (n, block) in blocks.iter().enumerate() {
        store.put(block.clone());
        if n % 5 == 0 {
            store.put(under(3, &super::block(5000 + n as u32, 500)));
        }
        if n % 50 == 0 {
            store.flush().await;
        }
    }
    store.flush().await;
    let key = blocks[0].reference().key;
    let expected: Vec<_> = blocks.iter().map(|block| *block.reference()).collect();
    for max in [1, 7, 64, 10_000] {
        let walked = walk(&store, key, None, max).await;
        assert_eq!(sorted(&walked), sorted(&expected), "{max}");
        let at = |reference: &Reference| walked.iter().position(|other| other == reference).unwrap();
        assert!(at(&expected[799]) < at(&expected[700]) && at(&expected[700]) < at(&expected[0]));
    }
    assert_eq!(walk(&store, under(9, &blocks[0]).reference().key, None, 64).await, []);
    store.close().await;
    let (store, _) = open(&disk, &config);
    assert_eq!(sorted(&walk(&store, key, None, 100).await), sorted(&expected));
}

#[tokio::test]
async fn a_walk_leaves_out_what_was_adopted_and_goes_on_from_there() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..100).map(|n| block(n, 3000)).collect();
    blocks.iter().for_each(|block| store.put(block.clone()));
    store.flush().await;
    let (old, new) = (blocks[0].reference().key, under(2, &blocks[0]).reference().key);
    for block in blocks.iter().step_by(2) {
        assert!(store.adopt(block.reference(), under(2, block).reference()));
    }
    let rest: Vec<_> = blocks.iter().skip(1).step_by(2).map(|block| *block.reference()).collect();
    let adopted: Vec<_> = blocks.iter().step_by(2).map(|block| *under(2, block).reference()).collect();
    store.flush().await;
    assert_eq!(sorted(&walk(&store, old, Some(new), 8).await), sorted(&rest));
    assert_eq!(sorted(&walk(&store, new, None, 8).await), sorted(&adopted));
    assert_eq!(walk(&store, new, Some(old), 8).await, []);
    assert_eq!(walk(&store, old, None, 8).await.len(), 100);
}

#[tokio::test]
async fn an_index_that_is_lost_takes_adoptions_along_and_nothing_else() {
    let disk = FaultDisk::new();
    let (store, _) = open(&disk, &config(0));
    let blocks: Vec<_> = (0..50).map(|n| block(n, 3000)).collect();
    for block in &blocks {
        store.put(block.clone());
        assert!(store.adopt(block.reference(), under(2, block).reference()));
    }
    store.close().await;
    disk.tamper_index(Vec::clear);
    let (store, _) = open(&disk, &config(0));
    assert_all_found(&store, &blocks).await;
    assert_tags_found(&store, &blocks).await;
    for block in &blocks {
        let new = *under(2, block).reference();
        assert!(!store.knows(&new));
        assert!(store.adopt(block.reference(), &new));
        assert!(store.get(&new).await.is_some());
    }
}

async fn walk(store: &Store, key: KeyId, known: Option<KeyId>, max: usize) -> Vec<Reference> {
    let (mut walked, mut from) = (Vec::new(), None);
    loop {
        let (found, next) = store.references(key, known, from, max).await;
        assert!(found.len() <= max);
        walked.extend(found);
        if next.is_none() {
            return walked;
        }
        assert_ne!(next, from);
        from = next;
    }
}

fn sorted(references: &[Reference]) -> Vec<Tag> {
    let mut tags: Vec<_> = references.iter().map(tag).collect();
    tags.sort();
    tags
}

fn under(secret: u8, block: &Block) -> Block {
    ServerSecret::new([secret; 32]).mint(block.bytes().clone())
}

fn find_now(store: &Store, reference: &Reference) -> TagFound {
    store.find_tag_now(reference.key, &tag(reference))
}

async fn find(store: &Store, reference: &Reference) -> Option<Reference> {
    store.find_tag(reference.key, &tag(reference)).await
}

async fn assert_tags_found(store: &Store, blocks: &[Block]) {
    for block in blocks {
        assert_eq!(find(store, block.reference()).await, Some(*block.reference()));
    }
}
