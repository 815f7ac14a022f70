//! A site of one edge reads files of one server through a matcher. What is checked of every read: the pieces are the
//! bytes, every seal is of bytes that passed, and no slice is named that the rule does not allow.

use std::collections::{HashMap, HashSet};

use prometheus::IntGauge;
use proptest::prelude::*;
use wanigan_parsers::wan::SealSpan;

use super::*;

#[test]
fn a_file_that_was_read_once_is_matched_by_readers_of_any_size() {
    for first in [CELL_BYTES, 8 << 20, 64_000, 32 << 10, 4 << 10, 1_000] {
        let mut site = Site::new();
        let file = File::random(1, 1_000_000);
        site.read(&file, &pieces(file.len(), first));
        for size in [8 << 20, 64_000, 32 << 10, 4 << 10, 100_000, 5_000] {
            let seen = site.read(&file, &pieces(file.len(), size));
            assert!(seen.matched >= file.len() * 99 / 100, "{first} then {size}: {seen:?}");
        }
    }
}

#[test]
fn reads_in_any_order_are_matched_too() {
    let mut site = Site::new();
    let file = File::random(1, 500_000);
    let mut reads = pieces(file.len(), 20_000);
    reads.reverse();
    site.read(&file, &reads);
    let seen = site.read(&file, &reads);
    assert!(seen.matched >= file.len() * 95 / 100, "{seen:?}");
}

#[test]
fn of_an_edited_file_little_more_than_the_edits_is_new() {
    for size in [8 << 20, 64_000, 32 << 10] {
        let mut site = Site::new();
        let file = File::random(1, 2_000_000);
        site.read(&file, &pieces(file.len(), 8 << 20));
        let mut edited = file.clone();
        let mut inserted = 0;
        for n in 0..12 {
            let (at, len) = (n * 160_000 + 12_345, 1 + (n * 379) % 2_000);
            edited.insert(at, len, n as u64);
            inserted += len;
        }
        let seen = site.read(&edited, &pieces(edited.len(), size));
        let new = edited.len() - seen.matched;
        assert!(
            new <= inserted + 12 * 300,
            "{inserted} bytes inserted, {new} new ones in reads of {size}: {seen:?}"
        );
        let again = site.read(&edited, &pieces(edited.len(), size));
        assert!(edited.len() - again.matched <= inserted + 12 * 300, "{again:?}");
    }
}

#[test]
fn edits_upon_edits_cost_little_more_than_themselves() {
    let mut site = Site::new();
    let file = File::random(1, 16_000_000);
    site.read(&file, &pieces(file.len(), 8 << 20));
    let mut edited = file.clone();
    for round in 1..6 {
        let mut inserted = 0;
        for n in 0..24 {
            let (at, len) = (n * 650_000 + 12_345 * round, 1 + (n * 379 + 977) % 2_000);
            edited.insert(at, len, (n + 100 * round) as u64);
            inserted += len;
        }
        let seen = site.read(&edited, &pieces(edited.len(), 8 << 20));
        let new = edited.len() - seen.matched;
        // Of earlier rounds, what was too short to be a block crosses again.
        let most = inserted + round * 24 * 200;
        assert!(new <= most, "round {round}: {inserted} bytes inserted, {new} new ones");
    }
}

#[test]
fn bytes_that_were_taken_out_or_written_over_do_not_cost_the_rest() {
    let mut site = Site::new();
    let file = File::random(1, 1_000_000);
    site.read(&file, &pieces(file.len(), 8 << 20));
    let mut edited = file.clone();
    edited.bytes.drain(300_000..301_000);
    edited.bytes[700_000..700_100].fill(7);
    edited.version += 1;
    let seen = site.read(&edited, &pieces(edited.len(), 8 << 20));
    assert!(edited.len() - seen.matched < 1_500, "{seen:?}");
}

#[test]
fn an_edit_in_every_kibibyte_loads_each_block_once() {
    let mut site = Site::new();
    let file = File::random(1, 16 * CELL_BYTES);
    site.read(&file, &pieces(file.len(), 8 << 20));
    let mut edited = file.clone();
    for n in (0..file.len() / 3_000).rev() {
        edited.insert(n * 3_000 + 1_500, 10, n as u64);
    }
    let seen = site.read(&edited, &pieces(edited.len(), 8 << 20));
    assert!(seen.loads <= 2 * 16, "{seen:?}");
    assert!(seen.matched >= file.len() / 2, "{seen:?}");
}

#[test]
fn of_a_file_that_was_written_anew_in_place_few_blocks_are_loaded() {
    let mut site = Site::new();
    let file = File::random(1, 200 * CELL_BYTES);
    site.read(&file, &pieces(file.len(), 8 << 20));
    let mut anew = File::random(2, 200 * CELL_BYTES);
    (anew.place, anew.version) = (file.place, 1);
    // What is found once is trusted again.
    anew.bytes[100 * CELL_BYTES..].copy_from_slice(&file.bytes[100 * CELL_BYTES..]);
    let seen = site.read(&anew, &pieces(anew.len(), 8 << 20));
    assert!(seen.loads < 100 / 8 + 8 + 2, "{seen:?}");
    assert_eq!(seen.matched, 100 * CELL_BYTES);
}

#[test]
fn what_a_hung_disk_does_not_give_is_not_forgotten() {
    let mut site = Site::new();
    let file = File::random(1, 10 * CELL_BYTES);
    site.read(&file, &pieces(file.len(), 8 << 20));
    site.hangs = true;
    // Parts of blocks cannot be compared, and whole ones need not be loaded.
    assert_eq!(site.read(&file, &[(1_000, 30_000)]).matched, 0);
    assert_eq!(site.read(&file, &pieces(file.len(), 8 << 20)).matched, file.len());
    site.hangs = false;
    assert_eq!(site.read(&file, &[(1_000, 30_000)]).matched, 30_000);
}

/// A seal that completes in the middle of a message, of a block that goes on elsewhere as the message may.
#[test]
fn a_seal_in_the_middle_of_a_search_sets_the_cursor_for_its_own_object_alone() {
    for is_known in [true, false] {
        let cell = |byte: u8| vec![byte; CELL_BYTES];
        let file = |place, bytes: Vec<Vec<u8>>, version| File {
            place,
            version,
            bytes: bytes.concat(),
            known: true,
            versioned: true,
        };
        let mut site = Site::new();
        for known in [file(1, vec![cell(1)], 0), file(2, vec![cell(1), cell(2)], 0)] {
            site.read(&known, &pieces(known.len(), 8 << 20));
        }
        site.holds.clear();
        let grown = file(1, vec![cell(1), cell(2), vec![3; 1_024]], 1);
        let mut matcher = site.matcher();
        let (mut out, mut seen) = (Vec::new(), Seen::default());
        for (from, to, last) in
            [(0, 40_000, true), (40_000, 70_000, false), (70_000, 80_000, true), (80_000, 132_096, true)]
        {
            let span = |from: usize, to: usize, object| {
                let kind = SpanKind::Content { offset: from as u64, last, end: false, object };
                Span { len: to - from, kind }
            };
            let object = grown.object();
            let lost = object.filter(|_| is_known);
            let spans = if to == 70_000 {
                vec![span(from, CELL_BYTES, object), span(CELL_BYTES, to, lost)]
            } else {
                vec![span(from, to, if from < CELL_BYTES { object } else { lost })]
            };
            site.release(&grown, from, to - from);
            matcher.handle_input(grown.bytes.slice_of(from, to), &spans);
            site.take(&grown, &mut matcher, &grown.bytes, &mut out, &mut seen);
        }
        matcher.handle_end();
        site.take(&grown, &mut matcher, &grown.bytes, &mut out, &mut seen);
        assert!(out == grown.bytes, "{is_known}: {} of {} bytes", out.len(), grown.len());
    }
}

#[test]
fn a_copy_is_matched_by_whole_blocks_and_in_pieces_too() {
    let mut site = Site::new();
    let file = File::random(1, 1_000_000);
    site.read(&file, &pieces(file.len(), 8 << 20));
    let mut copy = file.clone();
    copy.place = 2;
    let seen = site.read(&copy, &pieces(copy.len(), 8 << 20));
    assert!(seen.matched >= file.len() * 99 / 100, "{seen:?}");
    copy.place = 3;
    let seen = site.read(&copy, &pieces(copy.len(), 32 << 10));
    assert!(seen.matched >= file.len() * 90 / 100, "{seen:?}");
}

#[test]
fn where_the_object_is_unknown_blocks_are_what_was_read() {
    let mut site = Site::new();
    let mut file = File::random(1, 300_000);
    file.known = false;
    site.read(&file, &pieces(file.len(), 8 << 20));
    let seen = site.read(&file, &pieces(file.len(), 8 << 20));
    assert_eq!(seen.matched, file.len());
}

#[test]
fn a_reader_of_the_first_bytes_of_a_file_that_replaced_another_learns_of_no_old_block() {
    let mut site = Site::new();
    let old = File::random(1, 500_000);
    site.read(&old, &pieces(old.len(), 8 << 20));
    let mut new = File::random(9, 500_000);
    new.bytes[..4_096].copy_from_slice(&old.bytes[..4_096]);
    new.place = old.place;
    new.version = old.version + 1;
    site.holds.clear();
    let seen = site.read(&new, &[(0, 4_096)]);
    assert_eq!((seen.matched, seen.slices), (0, 0), "{seen:?}");
    // An edge that holds the old block may be told of it.
    let mut site = Site::new();
    site.read(&old, &pieces(old.len(), 8 << 20));
    assert_eq!(site.read(&new, &[(0, 4_096)]).slices, 1);
}

#[test]
fn a_file_without_a_version_is_named_by_whole_blocks_alone_to_who_does_not_hold_them() {
    let mut site = Site::new();
    let mut file = File::random(1, 500_000);
    file.versioned = false;
    site.read(&file, &pieces(file.len(), 8 << 20));
    site.holds.clear();
    let seen = site.read(&file, &pieces(file.len(), 32 << 10));
    assert_eq!((seen.slices, seen.matched), (0, 0), "{seen:?}");
}

#[test]
fn what_the_server_paused_in_is_sealed_when_the_cell_is_whole() {
    let site = Site::new();
    let file = File::random(1, CELL_BYTES);
    let mut matcher = site.matcher();
    let now = Instant::now();
    let span = |len, at, last| Span {
        len,
        kind: SpanKind::Content { offset: at as u64, last, end: last, object: file.object() },
    };
    matcher.handle_input(file.bytes.slice_of(0, 10_000), &[span(10_000, 0, false)]);
    assert_eq!(matcher.poll_piece(), None);
    matcher.handle_wait(now);
    assert_eq!(matcher.poll_timeout(), Some(now + HOLD));
    matcher.handle_timeout(now + HOLD);
    assert!(
        matches!(matcher.poll_piece(), Some(Piece::Opaque(bytes, OpaqueReason::Stalled)) if bytes.len() == 10_000)
    );
    matcher.handle_input(file.bytes.slice_of(10_000, CELL_BYTES), &[span(CELL_BYTES - 10_000, 10_000, true)]);
    assert!(matches!(matcher.poll_piece(), Some(Piece::Opaque(..))));
    let Some(Piece::Seal(block, spans)) = matcher.poll_piece() else { panic!("no seal") };
    assert_eq!(block.bytes()[..], file.bytes[..]);
    assert_eq!(spans, [SealSpan { offset: 0, len: 65_536 }]);
}

#[test]
fn what_stands_at_the_end_is_sealed_then_and_nothing_later() {
    let site = Site::new();
    let file = File::random(1, CELL_BYTES);
    let mut matcher = site.matcher();
    let now = Instant::now();
    let kind = SpanKind::Content { offset: 0, last: true, end: false, object: file.object() };
    matcher.handle_input(file.bytes.slice_of(0, 2_000), &[Span { len: 2_000, kind }]);
    assert!(matches!(matcher.poll_piece(), Some(Piece::Opaque(..))));
    matcher.handle_wait(now);
    matcher.handle_end();
    assert!(matches!(matcher.poll_piece(), Some(Piece::Seal(..))));
    assert!(matcher.is_empty());
    assert_eq!(matcher.poll_timeout(), None);
    matcher.handle_timeout(now + Duration::from_secs(9));
    assert_eq!(matcher.poll_piece(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_read_edited_and_forgotten_the_pieces_are_the_bytes(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u8..8, any::<u32>(), 200usize..90_000), 1..12),
    ) {
        let mut site = Site::new();
        let mut files = vec![File::random(seed, 200_000)];
        for (what, random, size) in steps {
            let at = random as usize % files.len();
            match what {
                0 => {
                    let mut copy = files[at].clone();
                    copy.place = 100 + u64::from(random);
                    files.push(copy);
                }
                1 => {
                    let length = files[at].len();
                    files[at].insert(random as usize % length, 1 + size % 2_000, seed ^ u64::from(random));
                }
                2 => {
                    site.store.retain(|digest, _| (u32::from(digest.0[0]) ^ random) % 3 != 0);
                }
                3 => site.holds.retain(|digest| (u32::from(digest.0[1]) ^ random) % 2 != 0),
                _ => {
                    let mut reads = pieces(files[at].len(), size);
                    if what == 4 {
                        reads.sort_by_key(|(offset, _)| offset.wrapping_mul(random as usize | 1) % 1_009);
                    }
                    site.read(&files[at], &reads);
                }
            }
        }
    }
}

/// Divides the spans of an input that is cut in two.
fn cut_spans(spans: &[Span], mut cut: usize) -> (Vec<Span>, Vec<Span>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for &Span { len, kind } in spans {
        let before = len.min(cut);
        cut -= before;
        if before == len {
            first.push(Span { len, kind });
            continue;
        }
        let (mut begins, mut goes_on) = (kind, kind);
        if let SpanKind::Content { last, end, .. } = &mut begins {
            (*last, *end) = (false, false);
        }
        if let SpanKind::Content { offset, .. } = &mut goes_on {
            *offset += before as u64;
        }
        if before > 0 {
            first.push(Span { len: before, kind: begins });
        }
        second.push(Span { len: len - before, kind: goes_on });
    }
    (first, second)
}

/// Reads of a file from its beginning to its end.
fn pieces(len: usize, size: usize) -> Vec<(usize, usize)> {
    (0..len).step_by(size).map(|at| (at, size.min(len - at))).collect()
}

#[derive(Debug, Clone)]
struct File {
    place: u64,
    version: u64,
    bytes: Vec<u8>,
    known: bool,
    versioned: bool,
}

impl File {
    fn random(seed: u64, len: usize) -> Self {
        Self { place: seed, version: 0, bytes: noise(seed, len), known: true, versioned: true }
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn insert(&mut self, at: usize, len: usize, seed: u64) {
        self.bytes.splice(at..at, noise(seed ^ 0xabcd, len));
        self.version += 1;
    }

    fn object(&self) -> Option<Object> {
        let place = self.place.to_be_bytes();
        let version = self.versioned.then(|| Version::of(&[&place, &self.version.to_be_bytes()]));
        self.known.then(|| Object { place: Place::of(&[&place]), version })
    }
}

trait SliceOf {
    fn slice_of(&self, start: usize, end: usize) -> Bytes;
}

impl SliceOf for Vec<u8> {
    fn slice_of(&self, start: usize, end: usize) -> Bytes {
        Bytes::copy_from_slice(&self[start..end])
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[derive(Debug, Default)]
struct Seen {
    /// Content bytes that went by reference.
    matched: usize,
    slices: usize,
    loads: usize,
}

/// What is at both ends.
struct Site {
    map: MapHandle,
    store: HashMap<Digest, Hashed>,
    hangs: bool,
    holds: HashSet<Digest>,
    /// Which bytes of which version of a file were released.
    released: HashMap<(u64, u64), Vec<bool>>,
    budget: Budget,
}

impl Site {
    fn new() -> Self {
        Self {
            map: Arc::new(Mutex::new(ContentMap::new(100_000, 100_000))),
            store: HashMap::new(),
            hangs: false,
            holds: HashSet::new(),
            released: HashMap::new(),
            budget: Budget::new(1 << 24, IntGauge::new("used", "used").unwrap()),
        }
    }

    fn matcher(&self) -> Matcher {
        Matcher::new(self.map.clone(), b"server", &self.budget)
    }

    /// Reads a file over a new flow, a header before each read, in inputs of some size.
    fn read(&mut self, file: &File, reads: &[(usize, usize)]) -> Seen {
        let mut matcher = self.matcher();
        let (mut stream, mut out, mut seen) = (Vec::new(), Vec::new(), Seen::default());
        let mut now = Instant::now();
        for &(offset, len) in reads {
            let mut input = vec![0x48; 84];
            input.extend_from_slice(&file.bytes[offset..offset + len]);
            let mut spans = vec![Span::opaque(84, OpaqueReason::Framing)];
            let mut cuts: Vec<(usize, bool)> =
                (0..len).step_by(30_000).map(|at| (30_000.min(len - at), false)).collect();
            cuts.last_mut().unwrap().1 = true;
            let mut at = offset;
            for (len, last) in cuts {
                let end = at + len == file.len();
                let kind = SpanKind::Content { offset: at as u64, last, end, object: file.object() };
                spans.push(Span { len, kind });
                at += len;
            }
            stream.extend_from_slice(&input);
            self.release(file, offset, len);
            // A message comes in two pieces.
            let cut = (offset.wrapping_mul(31) + len * 17) % input.len();
            let (first, second) = cut_spans(&spans, cut);
            let mut input = Bytes::from(input);
            matcher.handle_input(input.split_to(cut), &first);
            self.take(file, &mut matcher, &stream, &mut out, &mut seen);
            matcher.handle_input(input, &second);
            self.take(file, &mut matcher, &stream, &mut out, &mut seen);
            matcher.handle_wait(now);
            now += Duration::from_millis(1);
        }
        matcher.handle_end();
        self.take(file, &mut matcher, &stream, &mut out, &mut seen);
        matcher.handle_wait(now);
        matcher.handle_timeout(now + Duration::from_secs(1));
        self.take(file, &mut matcher, &stream, &mut out, &mut seen);
        assert!(matcher.is_empty());
        assert!(out == stream, "what went out is not what came in");
        seen
    }

    fn release(&mut self, file: &File, offset: usize, len: usize) {
        let released = self.released.entry((file.place, file.version)).or_default();
        released.resize(file.len(), false);
        released[offset..offset + len].fill(true);
    }

    fn take(
        &mut self,
        file: &File,
        matcher: &mut Matcher,
        stream: &[u8],
        out: &mut Vec<u8>,
        seen: &mut Seen,
    ) {
        loop {
            while let Some((digest, _)) = matcher.poll_load() {
                seen.loads += 1;
                if self.hangs {
                    matcher.handle_loaded(&digest, Loaded::NotNow);
                    continue;
                }
                let block = self.store.get(&digest).cloned();
                matcher.handle_loaded(&digest, block.map_or(Loaded::Gone, Loaded::Block));
            }
            let Some(piece) = matcher.poll_piece() else { return };
            match piece {
                Piece::Slice(slice) => {
                    let digest = *slice.block.digest();
                    if self.holds.contains(&digest) || slice.same_version {
                        assert!(self.may_be_named(file, &slice), "a slice was named that may not be");
                        self.holds.insert(digest);
                        seen.slices += 1;
                        seen.matched += slice.len;
                        out.extend_from_slice(&slice.bytes());
                    } else {
                        out.extend_from_slice(&slice.bytes());
                        matcher.handle_denied(&slice);
                    }
                }
                other => self.give(other, stream, out, seen),
            }
        }
    }

    fn give(&mut self, piece: Piece, stream: &[u8], out: &mut Vec<u8>, seen: &mut Seen) {
        match piece {
            Piece::Opaque(bytes, _) => out.extend_from_slice(&bytes),
            Piece::New(block) | Piece::Whole(block) => {
                if !self.holds.insert(*block.digest()) {
                    seen.matched += block.bytes().len();
                }
                out.extend_from_slice(block.bytes());
                self.store.insert(*block.digest(), block);
            }
            Piece::Seal(block, spans) => {
                let mut bytes = Vec::new();
                for SealSpan { offset, len } in spans {
                    let start = usize::try_from(offset).unwrap();
                    assert!(start + len as usize <= out.len(), "a seal of bytes that have not passed");
                    bytes.extend_from_slice(&stream[start..start + len as usize]);
                }
                assert_eq!(Hashed::of(bytes.into()), block);
                self.holds.insert(*block.digest());
                self.store.insert(*block.digest(), block);
            }
            Piece::Slice(_) => unreachable!("slices are taken before"),
        }
    }

    /// The rule, as DESIGN has it: of a block that the edge holds, or of which every byte was released in this version.
    fn may_be_named(&self, file: &File, slice: &Slice) -> bool {
        let block = slice.block.bytes();
        self.holds.contains(slice.block.digest())
            || self.released[&(file.place, file.version)]
                .windows(block.len())
                .zip(file.bytes.windows(block.len()))
                .filter(|(_, bytes)| bytes[..8] == block[..8])
                .any(|(released, bytes)| bytes == &block[..] && released.iter().all(|released| *released))
    }
}
