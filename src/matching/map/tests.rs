//! The map against a model that has one entry a byte.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn an_extent_is_found_at_every_byte_and_as_the_next_one() {
    let mut map = ContentMap::new(100, 0);
    map.learn(&place(1), 1_000, whole(1, 500));
    assert_eq!(map.at(&place(1), 999), None);
    assert_eq!(map.at(&place(1), 1_000), Some((1_000, whole(1, 500))));
    assert_eq!(map.at(&place(1), 1_499), Some((1_000, whole(1, 500))));
    assert_eq!(map.at(&place(1), 1_500), None);
    assert_eq!(map.at(&place(2), 1_000), None);
    assert_eq!(map.after(&place(1), 0), Some((1_000, whole(1, 500))));
    assert_eq!(map.after(&place(1), 1_000), Some((1_000, whole(1, 500))));
    assert_eq!(map.after(&place(1), 1_001), None);
}

#[test]
fn what_sticks_out_of_a_new_extent_stays_with_its_version() {
    let mut map = ContentMap::new(100, 0);
    let old = Extent { version: Some(version(1)), ..whole(1, 1_000) };
    map.learn(&place(1), 0, old);
    map.learn(&place(1), 300, whole(2, 100));
    assert_eq!(map.at(&place(1), 0), Some((0, Extent { len: 300, ..old })));
    assert_eq!(map.at(&place(1), 350), Some((300, whole(2, 100))));
    assert_eq!(map.at(&place(1), 999), Some((400, Extent { skip: 400, len: 600, ..old })));
    assert_eq!(map.extents(), 3);
    // The whole block in its place again.
    map.learn(&place(1), 0, old);
    assert_eq!((map.at(&place(1), 500), map.extents()), (Some((0, old)), 1));
}

#[test]
fn runs_that_follow_each_other_in_their_block_are_one_extent() {
    let mut map = ContentMap::new(100, 0);
    let run = |skip, len| Extent { skip, len, ..whole(1, 1_000) };
    map.learn(&place(1), 100, run(100, 100));
    map.learn(&place(1), 300, run(300, 700));
    assert_eq!(map.extents(), 2);
    map.learn(&place(1), 200, run(200, 100));
    assert_eq!(map.at(&place(1), 500), Some((100, run(100, 900))));
    // Next to it, and not what follows in the block.
    map.learn(&place(1), 1_000, run(0, 1_000));
    assert_eq!(map.extents(), 2);
}

#[test]
fn an_extent_that_comes_again_without_a_version_keeps_the_one_it_has() {
    let mut map = ContentMap::new(100, 0);
    let (seen, unknown) = (Extent { version: Some(version(1)), ..whole(1, 100) }, whole(1, 100));
    map.learn(&place(1), 0, seen);
    map.learn(&place(1), 0, unknown);
    map.learn(&place(1), 20, Extent { skip: 20, len: 30, ..unknown });
    assert_eq!(map.at(&place(1), 0), Some((0, seen)));
    let other = Extent { version: Some(version(2)), ..seen };
    map.learn(&place(1), 0, other);
    assert_eq!(map.at(&place(1), 0), Some((0, other)));
}

#[test]
fn a_version_is_confirmed_and_a_block_forgotten_only_by_the_digest_that_is_there() {
    let mut map = ContentMap::new(100, 0);
    map.learn(&place(1), 0, whole(1, 100));
    map.confirm(&place(1), 0, &digest(2), version(1));
    map.forget(&place(1), 0, &digest(2));
    assert_eq!(map.at(&place(1), 0), Some((0, whole(1, 100))));
    map.confirm(&place(1), 0, &digest(1), version(1));
    let confirmed = Extent { version: Some(version(1)), ..whole(1, 100) };
    assert_eq!(map.at(&place(1), 0), Some((0, confirmed)));
    map.forget(&place(1), 0, &digest(1));
    assert_eq!((map.at(&place(1), 0), map.extents(), map.objects()), (None, 0, 0));
}

#[test]
fn an_extent_that_is_not_within_its_block_is_ignored() {
    let mut map = ContentMap::new(100, 0);
    let block = whole(1, 100);
    map.learn(&place(1), 0, Extent { len: 0, ..block });
    map.learn(&place(1), 0, Extent { skip: 1, ..block });
    map.learn(&place(1), 0, Extent { skip: u32::MAX, ..block });
    map.learn(&place(1), u64::MAX - 50, block);
    assert_eq!((map.extents(), map.objects()), (0, 0));
    map.learn(&place(1), u64::MAX - 100, block);
    assert_eq!(map.at(&place(1), u64::MAX - 1), Some((u64::MAX - 100, block)));
}

#[test]
fn the_object_that_was_not_used_for_longest_goes_first() {
    let mut map = ContentMap::new(4, 0);
    for n in 0..4 {
        map.learn(&place(n), 0, whole(n, 100));
    }
    assert!(map.at(&place(0), 0).is_some());
    assert!(map.after(&place(1), 0).is_some());
    map.learn(&place(4), 0, whole(4, 100));
    map.learn(&place(4), 500, whole(5, 100));
    let here = |map: &mut ContentMap, n| map.objects.contains_key(&place(n));
    assert_eq!([0, 1, 2, 3, 4].map(|n| here(&mut map, n)), [true, true, false, false, true]);
    assert_eq!(map.extents(), 4);
}

#[test]
fn an_object_larger_than_the_map_keeps_what_is_near() {
    let mut map = ContentMap::new(4, 0);
    for n in 0..10 {
        map.learn(&place(1), u64::from(n) * 100, whole(n, 100));
        assert!(map.extents() <= 4);
    }
    assert_eq!(map.after(&place(1), 0), Some((600, whole(6, 100))));
    map.learn(&place(1), 0, whole(0, 100));
    assert_eq!(map.at(&place(1), 0), Some((0, whole(0, 100))));
    assert_eq!(map.at(&place(1), 900), None);
}

#[test]
fn a_map_without_room_stays_empty() {
    let mut map = ContentMap::new(0, 0);
    map.learn(&place(1), 0, whole(1, 100));
    map.index(1, &place(1), 0);
    assert_eq!((map.extents(), map.objects(), map.find(1), map.poll_dirty()), (0, 0, None, None));
    let mut full = ContentMap::new(1, 0);
    full.learn(&place(1), 0, whole(1, 100));
    let (_, bytes) = full.poll_dirty().unwrap();
    assert!(!map.load(place(1), &bytes.unwrap()));
}

#[test]
fn keys_in_use_outlive_the_others() {
    let mut map = ContentMap::new(1, 8);
    for key in 0..40 {
        map.index(key, &place(1), key * 10);
        assert_eq!(map.find(0), Some((place(1), 0)));
        assert!(map.keys.len() <= 8, "{}", map.keys.len());
    }
    assert_eq!(map.find(1), None);
    assert_eq!(map.find(39), Some((place(1), 390)));
    map.index(39, &place(2), 7);
    assert_eq!(map.find(39), Some((place(2), 7)));
}

#[test]
fn what_is_polled_is_loaded_again_and_found_by_digest() {
    let mut map = ContentMap::new(100, 100);
    map.learn(&place(1), 0, Extent { version: Some(version(1)), ..whole(1, 100) });
    map.learn(&place(1), 100, Extent { version: Some(version(2)), ..whole(2, 100) });
    map.learn(&place(1), 200, Extent { skip: 50, len: 50, ..whole(3, 100) });
    let (at, bytes) = map.poll_dirty().unwrap();
    assert_eq!((at, map.poll_dirty()), (place(1), None));
    let bytes = bytes.unwrap();
    let mut loaded = ContentMap::new(100, 100);
    assert!(loaded.load(place(1), &bytes));
    assert!(!loaded.load(place(1), &bytes), "it is known");
    assert_eq!(all(&mut loaded, 1), all(&mut map, 1));
    assert_eq!(loaded.find(digest_key(&digest(3))), Some((place(1), 200)));
    assert_eq!(loaded.poll_dirty(), None);
}

#[test]
fn only_objects_that_somebody_keeps_are_told_of_when_they_are_gone() {
    let mut map = ContentMap::new(1, 0);
    map.learn(&place(1), 0, whole(1, 100));
    map.learn(&place(2), 0, whole(2, 100));
    assert!(matches!(map.poll_dirty(), Some((at, Some(_))) if at == place(2)));
    assert_eq!(map.poll_dirty(), None);
    map.learn(&place(3), 0, whole(3, 100));
    let polled: BTreeMap<_, _> = std::iter::from_fn(|| map.poll_dirty()).collect();
    assert!(polled[&place(2)].is_none() && polled[&place(3)].is_some());
    // Gone and back before anybody asked: still known to be kept.
    map.learn(&place(2), 0, whole(2, 100));
    map.learn(&place(3), 0, whole(3, 100));
    map.learn(&place(4), 0, whole(4, 100));
    let polled: BTreeMap<_, _> = std::iter::from_fn(|| map.poll_dirty()).collect();
    assert_eq!(polled.keys().copied().collect::<Vec<_>>(), [place(3), place(4)]);
}

#[test]
fn loading_displaces_nothing_and_the_latest_to_load_is_the_first_to_go() {
    let mut kept = Vec::new();
    let mut map = ContentMap::new(10, 0);
    for n in 1..=4 {
        map.learn(&place(n), 0, whole(n, 100));
    }
    while let Some((at, bytes)) = map.poll_dirty() {
        kept.push((at, bytes.unwrap()));
    }
    let mut map = ContentMap::new(3, 0);
    map.learn(&place(9), 0, whole(9, 100));
    assert!(map.load(kept[0].0, &kept[0].1));
    assert!(map.load(kept[1].0, &kept[1].1));
    assert!(!map.load(kept[2].0, &kept[2].1), "there is no room");
    map.learn(&place(8), 0, whole(8, 100));
    assert!(map.at(&kept[0].0, 0).is_some() && map.at(&kept[1].0, 0).is_none());
    assert!(map.at(&place(9), 0).is_some());
}

#[test]
fn bytes_that_break_a_rule_load_nothing() {
    let mut map = ContentMap::new(100, 0);
    map.learn(&place(1), 0, Extent { version: Some(version(1)), ..whole(1, 100) });
    map.learn(&place(1), 100, whole(2, 100));
    let good = map.poll_dirty().unwrap().1.unwrap();
    assert_eq!(good.len(), 3 + 16 + 2 * 54);
    let loads = |bytes: &[u8]| ContentMap::new(100, 0).load(place(1), bytes);
    assert!(loads(&good));
    for cut in 0..good.len() {
        assert!(!loads(&good[..cut]) || (cut == good.len() - 54), "{cut}");
    }
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let (first, second) = (19, 19 + 54);
    for (at, byte) in [
        (0, 2),             // another format
        (1, 0),             // the versions are not there
        (first + 52, 1),    // nor is this one
        (first + 48, 101),  // the run ends after its block
        (first + 48, 0),    // the run is empty
        (first + 42, 3),    // the block is longer than any
        (second, 99),       // extents overlap
        (second + 7, 0xff), // fine: far away
    ] {
        assert_eq!(loads(&changed(at, byte)), (at, byte) == (second + 7, 0xff), "{at}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Learn { at: u64, block: u8, skip: u32, len: u32, version: Option<u8> },
    Confirm { at: u64, version: u8 },
    Forget { at: u64 },
    Poll,
}

/// What is at a byte: digest, position in the block, version.
type Byte = Option<(u8, u32, Option<u8>)>;

proptest! {
    #[test]
    fn the_map_says_of_every_byte_what_was_learned_of_it_last(
        ops in proptest::collection::vec((0_u8..4, op()), 1..60),
        extents_max in prop_oneof![Just(1_000), 1_usize..12],
    ) {
        let mut map = ContentMap::new(extents_max, 0);
        let mut model = vec![[Byte::None; OBJECT_BYTES]; 4];
        let mut kept = BTreeMap::new();
        for (object, op) in ops {
            let at_place = place(object);
            match op {
                Op::Learn { at, block, skip, len, version: of } => {
                    let extent = Extent { skip, len, version: of.map(version), ..whole(block, BLOCK) };
                    map.learn(&at_place, at, extent);
                    learn(&mut model[usize::from(object)], at, block, skip, len, of);
                }
                Op::Confirm { at, version: of } => {
                    if let Some((start, extent)) = map.at(&at_place, at) {
                        map.confirm(&at_place, at, &extent.digest, version(of));
                        for byte in model[usize::from(object)][range(start, &extent)].iter_mut().flatten() {
                            byte.2 = Some(of);
                        }
                    }
                }
                Op::Forget { at } => {
                    if let Some((start, extent)) = map.at(&at_place, at) {
                        map.forget(&at_place, at, &extent.digest);
                        model[usize::from(object)][range(start, &extent)].fill(None);
                    }
                }
                Op::Poll => poll(&mut map, &mut kept, 2),
            }
            prop_assert!(map.extents() <= extents_max);
            check(&mut map, &mut model, extents_max)?;
        }
        poll(&mut map, &mut kept, usize::MAX);
        let mut loaded = ContentMap::new(extents_max, 0);
        for (at, bytes) in &kept {
            prop_assert!(loaded.load(*at, bytes));
        }
        for object in 0..4 {
            prop_assert_eq!(all(&mut loaded, object), all(&mut map, object));
        }
    }

    #[test]
    fn any_bytes_are_extents_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400), versions in 0_u8..3) {
        let mut map = ContentMap::new(5, 10);
        let bytes = [&[1, versions, 0], &bytes[..]].concat();
        map.load(place(1), &bytes);
        prop_assert!(map.extents() <= 5);
    }
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..OBJECT_BYTES as u64;
    let version = 0_u8..2;
    prop_oneof![
        8 => (0_u64..OBJECT_BYTES as u64, 0_u8..3, 0..BLOCK, 1..BLOCK, proptest::option::of(version.clone()), any::<bool>())
            .prop_map(|(at, block, skip, len, version, aligned)| {
                // Often where the block would lie on a grid, so that runs meet.
                let skip = if aligned { (at % u64::from(BLOCK)) as u32 } else { skip };
                let room = (BLOCK - skip).min((OBJECT_BYTES as u64 - at) as u32);
                Op::Learn { at, block, skip, len: len.min(room), version }
            }),
        2 => (at.clone(), version).prop_map(|(at, version)| Op::Confirm { at, version }),
        1 => at.prop_map(|at| Op::Forget { at }),
        1 => Just(Op::Poll),
    ]
}

fn learn(object: &mut [Byte], at: u64, block: u8, skip: u32, len: u32, version: Option<u8>) {
    let bytes = &mut object[at as usize..at as usize + len as usize];
    // All of it known, in one version: that is still true.
    let known = bytes[0].and_then(|(_, _, version)| version);
    let same = |(n, byte): (usize, &Byte)| *byte == Some((block, skip + n as u32, known));
    if version.is_none() && bytes.iter().enumerate().all(same) {
        return;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = Some((block, skip + n as u32, version));
    }
}

/// Compares every byte. A map with few extents may have forgotten some, and then the model does.
fn check(
    map: &mut ContentMap,
    model: &mut [[Byte; OBJECT_BYTES]],
    extents_max: usize,
) -> Result<(), TestCaseError> {
    let before = map.used.clone();
    for (object, bytes) in model.iter_mut().enumerate() {
        let object = place(object as u8);
        let mut next = None;
        for at in (0..OBJECT_BYTES).rev() {
            let found = map.at(&object, at as u64);
            let said = found.map(|(start, extent)| {
                let position = extent.skip + (at as u64 - start) as u32;
                (extent.digest.0[0], position, extent.version.map(|version| version.0[0]))
            });
            if said.is_none() && extents_max < 1_000 {
                bytes[at] = None;
            }
            prop_assert_eq!(said, bytes[at]);
            next = found.filter(|(start, _)| *start == at as u64).or(next);
            prop_assert_eq!(map.after(&object, at as u64), next);
        }
    }
    // Looking must not decide what is evicted.
    for (used, place) in before {
        map.objects.get_mut(&place).unwrap().used = used;
    }
    map.used = map.objects.iter().map(|(place, object)| (object.used, *place)).collect();
    let counted: usize = map.objects.values().map(|object| object.extents).sum();
    prop_assert_eq!(counted, map.extents());
    prop_assert!(map.objects.values().all(|object| object.extents > 0));
    Ok(())
}

fn poll(map: &mut ContentMap, kept: &mut BTreeMap<Place, Vec<u8>>, times: usize) {
    for _ in 0..times {
        match map.poll_dirty() {
            Some((at, Some(bytes))) => drop(kept.insert(at, bytes)),
            Some((at, None)) => assert!(kept.remove(&at).is_some(), "only of what is kept"),
            None => break,
        }
    }
}

fn all(map: &mut ContentMap, object: u8) -> Vec<(u64, Extent)> {
    let mut from = 0;
    std::iter::from_fn(|| {
        let (at, extent) = map.after(&place(object), from)?;
        from = at + 1;
        Some((at, extent))
    })
    .collect()
}

fn range(start: u64, extent: &Extent) -> std::ops::Range<usize> {
    start as usize..start as usize + extent.len as usize
}

fn whole(n: u8, len: u32) -> Extent {
    Extent { digest: digest(n), block_len: len, skip: 0, len, version: None }
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn place(n: u8) -> Place {
    Place([n; 16])
}

fn version(n: u8) -> Version {
    Version([n; 16])
}

const OBJECT_BYTES: usize = 150;
const BLOCK: u32 = 64;
