//! Random operations on a store and on a map; what the store serves is what the map has.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::store::fault_disk::Unsynced;

#[derive(Debug, Clone)]
enum Operation {
    Put(u32),
    Get(u32),
    GetWithWrongSecret(u32),
    Adopt(u32, u8),
    GetAdopted(u32, u8),
    FindTag(u32, u8),
    Flush,
    Restart,
    PowerLoss(u64),
    LoseIndex,
}

fn operation() -> impl Strategy<Value = Operation> {
    let n = 0..60_u32;
    let key = 1..7_u8;
    prop_oneof![
        20 => n.clone().prop_map(Operation::Put),
        10 => n.clone().prop_map(Operation::Get),
        2 => n.clone().prop_map(Operation::GetWithWrongSecret),
        10 => (n.clone(), key.clone()).prop_map(|(n, key)| Operation::Adopt(n, key)),
        5 => (n.clone(), key.clone()).prop_map(|(n, key)| Operation::GetAdopted(n, key)),
        5 => (n, key).prop_map(|(n, key)| Operation::FindTag(n, key)),
        3 => Just(Operation::Flush),
        1 => Just(Operation::Restart),
        1 => any::<u64>().prop_map(Operation::PowerLoss),
        1 => Just(Operation::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_store_serves_what_was_put_and_has_the_latest_after_a_flush(
        operations in prop::collection::vec(operation(), 1..150),
        memory in prop::sample::select(vec![0, 4 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(operations, memory));
    }
}

async fn run(operations: Vec<Operation>, memory: u64) {
    let config = StoreConfig { segment_bytes: 16 << 10, size: 128 << 10, ..config(memory) };
    let mut disk = FaultDisk::new();
    let (mut store, mut metrics) = open(&disk, &config);
    let mut model: HashMap<u32, Block> = HashMap::new();
    let mut adopted: HashSet<(u32, u8)> = HashSet::new();
    // Blocks that the store had to write, the latest last.
    let mut written: Vec<u32> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Put(n) => {
                let block = nth(n);
                if !store.knows(block.reference()) {
                    written.retain(|other| *other != n);
                    written.push(n);
                }
                store.put(block.clone());
                model.insert(n, block);
            }
            Operation::Get(n) => {
                if let Some(found) = store.get(nth(n).reference()).await {
                    assert_eq!(found.bytes(), model[&n].bytes());
                }
            }
            Operation::GetWithWrongSecret(n) => {
                let wrong = Reference { secret: Secret([9; 32]), ..*nth(n).reference() };
                assert!(store.get(&wrong).await.is_none());
            }
            Operation::Adopt(n, key) => {
                let (old, new) = (nth(n), under(key, n));
                if store.adopt(old.reference(), new.reference()) {
                    adopted.insert((n, key));
                    // The owner may drop the block's segment at any moment.
                    assert!(store.knows(new.reference()) || !store.knows(old.reference()));
                }
            }
            Operation::GetAdopted(n, key) => {
                if let Some(found) = store.get(under(key, n).reference()).await {
                    assert!(key == 1 || adopted.contains(&(n, key)));
                    assert_eq!(found.reference(), under(key, n).reference());
                    assert_eq!(found.bytes(), model[&n].bytes());
                }
            }
            Operation::FindTag(n, key) => {
                let reference = *under(key, n).reference();
                let found = store.find_tag(reference.key, &crate::block::tag(&reference)).await;
                assert_eq!(found.is_some(), store.knows(&reference));
                if let Some(found) = found {
                    assert!(key == 1 || adopted.contains(&(n, key)));
                    assert_eq!(found, reference);
                }
            }
            Operation::Flush => {
                store.flush().await;
                let mut room = 32 << 10;
                for n in written.iter().rev() {
                    room -= i64::try_from(nth(*n).bytes().len()).unwrap();
                    if room >= 0 {
                        assert!(store.get(nth(*n).reference()).await.is_some(), "{n} was flushed");
                    }
                }
            }
            Operation::Restart => {
                store.close().await;
                (store, metrics) = open(&disk, &config);
            }
            Operation::PowerLoss(seed) => {
                disk = disk.after_power_loss(Unsynced::Mixed(seed));
                (store, metrics) = open(&disk, &config);
                written.clear();
            }
            Operation::LoseIndex => {
                store.close().await;
                disk.tamper_index(Vec::clear);
                (store, metrics) = open(&disk, &config);
            }
        }
        assert_eq!((metrics.up.get(), metrics.bad_blocks.get()), (1, 0));
    }
    store.close().await;
    assert!(disk.segment_bytes() <= config.size);
    assert_eq!(metrics.dropped_blocks.get(), 0);
}

fn under(key: u8, n: u32) -> Block {
    ServerSecret::new([key; 32]).mint(nth(n).bytes().clone())
}

fn nth(n: u32) -> Block {
    block(n, 4 + (n as usize * 811) % 6000)
}
