//! What of a map survives, and what makes it begin anew.

use std::fs;
use std::path::Path;

use super::*;
use crate::block::Digest;
use crate::matching::Extent;
use crate::matching::map::digest_key;
use crate::metrics::Metrics;
use crate::object::{Place, Version};

#[tokio::test]
async fn a_restart_keeps_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for n in 0..100 {
        node.learn(n);
    }
    node.map.with(|map| map.forget(&place(7), 0, &digest(7)));
    node.stop().await;
    let node = Node::start(dir.path());
    assert_eq!(node.known(), (0..100).filter(|n| *n != 7).collect::<Vec<_>>());
    assert_eq!(node.metrics.content_map.extents.get(), 99);
    assert_eq!(node.metrics.content_map.objects.get(), 99);
    assert_eq!(node.map.with(|map| map.find(digest_key(&digest(3)))), Some((place(3), 0)));
    // What was on disk and is gone since is gone from there too.
    node.map.with(|map| map.forget(&place(9), 0, &digest(9)));
    node.stop().await;
    let node = Node::start(dir.path());
    assert!(!node.known().contains(&9));
    assert_eq!(node.metrics.content_map.errors.get(), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_not_told_to_stop_loses_a_few_seconds_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.learn(1);
    // A copy of what is on disk is what a power loss would leave.
    let copy = tempfile::tempdir().unwrap();
    let restarted = eventually(|| {
        copy_files(dir.path(), copy.path());
        let found = Node::start(copy.path());
        (found.known() == [1]).then_some(found)
    })
    .await;
    restarted.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_file_that_is_no_map_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    for damage in [damage_all, damage_some, cut] {
        let node = Node::start(dir.path());
        for n in 0..100 {
            node.learn(n);
        }
        let file = node.config.file.clone();
        node.stop().await;
        damage(&file);
        let node = Node::start(dir.path());
        assert!(node.known().len() < 100);
        node.learn(200);
        node.stop().await;
        let node = Node::start(dir.path());
        assert!(node.known().contains(&200));
        node.map.with(|map| (0..=200).for_each(|n| map.forget(&place(n), 0, &digest(n))));
        assert_eq!(node.metrics.content_map.errors.get(), 0);
        node.stop().await;
    }
}

#[tokio::test]
async fn another_store_has_none_of_the_blocks_and_so_begins_with_an_empty_map() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.learn(1);
    let (id, store) = (node.store.id(), node.store_dir.clone());
    node.stop().await;
    fs::remove_file(store.join("index.redb")).unwrap();
    fs::remove_dir_all(store.join("segments")).unwrap();
    let node = Node::start(dir.path());
    assert_ne!(node.store.id(), id);
    assert_eq!(node.known(), [0_u8; 0]);
    node.learn(2);
    node.stop().await;
    let node = Node::start(dir.path());
    assert_eq!(node.known(), [2]);
    node.stop().await;
}

#[tokio::test]
async fn a_smaller_map_loads_the_latest_and_forgets_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for n in 0..100 {
        node.learn(n);
    }
    node.stop().await;
    let node = Node::start(dir.path());
    (40..50).for_each(|n| node.confirm(n));
    node.stop().await;
    let node = Node::start_with(dir.path(), |config| config.extents_max = 10);
    assert_eq!(node.known(), (40..50).collect::<Vec<_>>());
    node.stop().await;
    let node = Node::start(dir.path());
    assert_eq!(node.known(), (40..50).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test]
async fn a_map_that_cannot_be_kept_lives_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let second = SharedMap::open(&node.config, &node.store, Metrics::new().content_map);
    second.with(|map| map.learn(&place(1), 0, extent(1)));
    assert_eq!(second.with(|map| map.extents()), 1);
    assert_eq!(second.shared.metrics.errors.get(), 1, "another process has the file");
    second.close().await;
    node.stop().await;

    let nowhere =
        MapConfig { file: dir.path().join("no/such/place"), ..MapConfig::beside(&store(dir.path()), "map") };
    let lost =
        SharedMap::open(&nowhere, &Store::memory_only(0, Metrics::new().store), Metrics::new().content_map);
    lost.with(|map| map.learn(&place(1), 0, extent(1)));
    assert_eq!((lost.with(|map| map.extents()), lost.shared.metrics.errors.get()), (1, 1));
    lost.close().await;
}

#[tokio::test]
async fn a_thief_of_the_disk_finds_no_digest_and_no_place_in_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.learn(77);
    let file = node.config.file.clone();
    node.stop().await;
    let stolen = fs::read(&file).unwrap();
    for hidden in [&digest(77).0[..8], &place(77).0[..8], &version(77).0[..8]] {
        assert!(!stolen.windows(8).any(|window| window == hidden));
    }
    // Nor is it of use under another key.
    fs::write(dir.path().join("key"), [9; 32]).unwrap();
    let node = Node::start(dir.path());
    assert_eq!(node.known(), [0_u8; 0]);
    node.stop().await;
}

struct Node {
    config: MapConfig,
    store_dir: PathBuf,
    store: Store,
    map: SharedMap,
    metrics: Metrics,
}

impl Node {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {})
    }

    fn start_with(dir: &Path, change: impl FnOnce(&mut MapConfig)) -> Self {
        let metrics = Metrics::new();
        let store_config = store(dir);
        let mut config = MapConfig::beside(&store_config, "map");
        change(&mut config);
        let store_dir = store_config.dir.clone();
        let store = Store::open(store_config, metrics.store.clone()).unwrap();
        let map = SharedMap::open(&config, &store, metrics.content_map.clone());
        Self { config, store_dir, store, map, metrics }
    }

    async fn stop(self) {
        self.map.close().await;
        self.store.close().await;
    }

    fn learn(&self, n: u8) {
        self.map.with(|map| map.learn(&place(n), 0, extent(n)));
    }

    fn confirm(&self, n: u8) {
        self.map.with(|map| map.confirm(&place(n), 0, &digest(n), version(255)));
    }

    fn known(&self) -> Vec<u8> {
        let known = |n: &u8| {
            let found = self.map.with(|map| map.at(&place(*n), 0));
            found.is_some_and(|(at, found)| (at, found.digest) == (0, digest(*n)))
        };
        (0..=254).filter(known).collect()
    }
}

async fn eventually<T>(mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = found() {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it never came true");
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_files(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn damage_all(file: &Path) {
    fs::write(file, vec![0x5a; 100_000]).unwrap();
}

fn damage_some(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes.iter_mut().skip(1000).step_by(97).for_each(|byte| *byte ^= 0x10);
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 3]).unwrap();
}

fn store(dir: &Path) -> StoreConfig {
    StoreConfig::new(dir.join("store"), dir.join("key"), 16 << 20, 0)
}

fn extent(n: u8) -> Extent {
    Extent { digest: digest(n), block_len: 1000, skip: 0, len: 1000, version: Some(version(n)) }
}

fn digest(n: u8) -> Digest {
    Digest([n.wrapping_add(1); 32])
}

fn place(n: u8) -> Place {
    Place([n.wrapping_mul(3); 16])
}

fn version(n: u8) -> Version {
    Version([n.wrapping_add(2); 16])
}
