//! A packer and an unpacker, without a link between them.

use bytes::Bytes;
use prometheus::IntGauge;
use proptest::prelude::*;
use wanigan_parsers::wan::{
    BLOCK_BYTES_MAX, Digest, Frame, HEADER_BYTES, KeyId, LITERAL_BYTES_MAX, Reference, Secret,
};
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::*;
use crate::budget::Budget;

#[test]
fn text_gets_smaller_with_the_history_of_the_frames_before() {
    let mut pair = Pair::new(64 << 20);
    // The first is too short to make a context for, the second has no history.
    let first = (0..2).map(|n| pair.carry(Frame::Literal(message(n)))).min().unwrap();
    let later: Vec<usize> = (2..20).map(|n| pair.carry(Frame::Literal(message(n)))).collect();
    assert!(first > 150, "{first}");
    assert!(later.iter().all(|wire| *wire < first / 4), "{later:?}");
}

#[test]
fn content_moves_to_the_large_context_and_back_out_of_it_when_the_flow_falls_idle() {
    let mut pair = Pair::new(64 << 20);
    let limit = pair.budget.free();
    for round in 0..3 {
        pair.carry(data(&text(round, 64 << 10)));
        assert!(!pair.packer.has_large());
        pair.report();
        assert!(pair.packer.is_large_offered() && !pair.packer.has_large());
        let again = pair.carry(data(&noise_text(round, 512 << 10)[..100 << 10]));
        let far = pair.carry(data(&noise_text(round, 512 << 10)[..100 << 10]));
        assert!(far < again / 20, "{far} after {again}");
        assert!(limit - pair.budget.free() > Context::Large.decoder_bytes());
        let stale = pair.unpacker.announce(1);
        pair.carry(Frame::Release(10));
        let _ = pair.packer.handle_credit(stale);
        assert!(!pair.packer.is_large_offered(), "an offer from before the release");
        assert!(limit - pair.budget.free() < Context::Large.decoder_bytes());
    }
    let budget = pair.budget.clone();
    drop(pair);
    assert_eq!(budget.free(), 64 << 20);
}

#[test]
fn random_content_goes_plain_and_takes_no_memory() {
    let mut pair = Pair::new(64 << 20);
    let free = pair.budget.free();
    for seed in 0..100 {
        let frame = data(&noise(seed, 64 << 10));
        assert_eq!(pair.packer.pack(frame.clone()), frame);
        let short = Frame::Literal(Bytes::from(noise(seed, 200)));
        pair.carry(short);
    }
    assert!(free - pair.budget.free() <= Context::Small.encoder_bytes());
    assert!(pair.packed < 3, "{} of them got smaller", pair.packed);
}

#[test]
fn nothing_is_packed_before_the_receiver_offers_nor_when_it_is_switched_off() {
    let budget = budget(64 << 20);
    let frame = Frame::Literal(message(0));
    assert_eq!(Packer::new(true, &budget).pack(frame.clone()), frame);
    let mut off = Packer::new(false, &budget);
    let credit = Unpacker::new(&budget).announce(77);
    assert_eq!(off.handle_credit(credit), 77);
    assert_eq!(off.pack(frame.clone()), frame);
}

#[test]
fn without_memory_nothing_is_offered_and_nothing_is_packed() {
    let full = budget(400 << 10);
    let announced = Unpacker::new(&full).announce(5);
    assert_eq!(announced, 5 << 8);
    let roomy = budget(64 << 20);
    let mut packer = Packer::new(true, &full);
    assert_eq!(packer.handle_credit(Unpacker::new(&roomy).announce(5)), 5);
    let frame = data(&text(1, 64 << 10));
    assert_eq!(packer.pack(frame.clone()), frame);
}

#[test]
fn a_line_that_is_faster_than_zstd_gets_content_plain_and_one_that_becomes_faster_loses_no_byte() {
    let mut pair = Pair::new(64 << 20);
    pair.carry(data(&text(0, 64 << 10)));
    pair.report();
    for (rate, packs) in [(1_000_000, true), (60_000_000, true), (1_000_000, true), (900_000_000, false)] {
        pair.packer.handle_line(rate);
        let before = pair.packed;
        pair.carry(data(&text(rate, 64 << 10)));
        assert_eq!(pair.packed > before, packs, "at {rate}");
        pair.carry(Frame::Literal(message(rate)));
    }
}

#[test]
fn zstd_keeps_to_the_memory_that_is_reserved_for_it() {
    for context in [Context::Small, Context::Large] {
        let (plain, roomy) = (text(1, 100_000), budget(64 << 20));
        for bytes in packer::sizes(context, &plain, &roomy) {
            assert!(bytes <= context.encoder_bytes(), "{context:?}: {bytes}");
        }
        let bytes = unpacker::size(context, &window(context.window_log(), &plain), plain.len(), &roomy);
        assert!(bytes <= context.decoder_bytes(), "{context:?}: {bytes}");
    }
}

#[test]
fn a_bomb_is_refused_whatever_it_claims() {
    // A gibibyte of zeros is 32 KiB of zstd.
    let zeros = vec![0u8; 1 << 20];
    let mut bomb = stream(20);
    let mut packed = vec![BEGINS];
    for _ in 0..1024 {
        packed.extend(flushed(&mut bomb, &zeros));
    }
    assert!(packed.len() < 100_000, "{}", packed.len());
    for (flags, len) in [(BEGINS, 10), (BEGINS | LARGE, 10), (BEGINS | LARGE, LITERAL_BYTES_MAX as u32)] {
        packed[0] = flags;
        let mut unpacker = offering();
        assert!(unpacker.unpack(packed_literal(len, &packed)).is_err());
    }
    for len in [0, LITERAL_BYTES_MAX as u32 + 1, u32::MAX] {
        let refused = offering().unpack(packed_literal(len, &packed));
        assert_eq!(refused, Err(Malpacked::Length(len as usize)));
    }
}

#[test]
fn a_window_larger_than_the_contexts_is_refused() {
    for (flags, log) in [(0, 16), (LARGE, 21), (LARGE, 27)] {
        let plain = text(1, 1000);
        let packed = [&[flags | BEGINS][..], &window(log, &plain)].concat();
        let refused = offering().unpack(packed_literal(1000, &packed));
        assert!(matches!(refused, Err(Malpacked::Broken(_))), "{refused:?}");
        let packed = [&[flags | BEGINS][..], &window(log - 1, &plain)].concat();
        let taken = offering().unpack(packed_literal(1000, &packed));
        assert_eq!(taken.is_ok(), log - 1 <= Context::Large.window_log());
    }
}

#[test]
fn frames_without_a_context_a_form_or_with_the_end_of_one_are_refused() {
    let plain = text(1, 1000);
    let zstd = window(15, &plain);
    let with = |flags: u8| packed_literal(1000, &[&[flags][..], &zstd].concat());
    assert_eq!(offering().unpack(with(0)), Err(Malpacked::NoContext));
    assert_eq!(offering().unpack(with(LARGE)), Err(Malpacked::NoContext));
    assert_eq!(offering().unpack(with(4)), Err(Malpacked::Malformed));
    assert_eq!(offering().unpack(packed_literal(1000, &[])), Err(Malpacked::Malformed));
    assert_eq!(Unpacker::new(&budget(64 << 20)).unpack(with(BEGINS | LARGE)), Err(Malpacked::NoContext));
    assert_eq!(Unpacker::new(&budget(400 << 10)).unpack(with(BEGINS)), Err(Malpacked::NoContext));
    assert!(offering().unpack(with(BEGINS)).is_ok());

    let mut ended = vec![BEGINS];
    ended.extend(zstd_safe_whole(&plain));
    assert!(matches!(offering().unpack(packed_literal(1000, &ended)), Err(Malpacked::Broken(_))));
    // A skippable frame (RFC 8878 3.1.2) yields nothing.
    let skippable = [&[BEGINS, 0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..]].concat();
    assert!(offering().unpack(packed_literal(1000, &skippable)).is_err());
}

#[test]
fn truncated_frames_and_frames_that_begin_in_the_middle_are_refused() {
    let plain = text(1, 1000);
    let packed = [&[BEGINS][..], &window(15, &plain)].concat();
    for end in 1..packed.len() {
        assert!(offering().unpack(packed_literal(1000, &packed[..end])).is_err(), "cut at {end}");
    }
    let mut sender = stream(15);
    let (first, second) = (flushed(&mut sender, &plain), flushed(&mut sender, &text(2, 1000)));
    let mut unpacker = offering();
    assert!(unpacker.unpack(packed_literal(1000, &[&[BEGINS][..], &first].concat())).is_ok());
    // The second goes on from the first; it is not the beginning of anything.
    assert!(unpacker.unpack(packed_literal(1000, &[&[BEGINS][..], &second].concat())).is_err());
    // And the first is not what goes on.
    let mut unpacker = offering();
    assert!(unpacker.unpack(packed_literal(1000, &[&[BEGINS][..], &first].concat())).is_ok());
    assert!(unpacker.unpack(packed_literal(1000, &[&[0][..], &first].concat())).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Text(u64, usize),
    Noise(u64, usize),
    Mixed(u64, usize),
    Report,
    Release,
    Line(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![1usize..100, 100usize..5000, 4000usize..=LITERAL_BYTES_MAX];
    prop_oneof![
        4 => (0u64..4, len()).prop_map(|(seed, len)| Step::Text(seed, len)),
        2 => (any::<u64>(), len()).prop_map(|(seed, len)| Step::Noise(seed, len)),
        2 => (any::<u64>(), len()).prop_map(|(seed, len)| Step::Mixed(seed, len)),
        2 => Just(Step::Report),
        1 => Just(Step::Release),
        1 => prop_oneof![Just(1_000_000), Just(60_000_000), Just(900_000_000)].prop_map(Step::Line),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is tried, succeeds or fails in between, and however much memory there is: the frames come out as they
    /// went in, and none is longer on the way ([`Pair::carry`] asserts both).
    #[test]
    fn frames_come_out_as_they_went_in_and_none_is_longer_on_the_way(
        steps in proptest::collection::vec((step(), any::<bool>()), 1..60),
        limit in prop_oneof![Just(0u64), Just(1 << 20), Just(8 << 20), Just(64 << 20)],
    ) {
        let mut pair = Pair::new(limit);
        for (step, as_data) in steps {
            let bytes = match step {
                Step::Text(seed, len) => text(seed, len),
                Step::Noise(seed, len) => noise(seed, len),
                // Sometimes smaller, sometimes not, and not to be told beforehand.
                Step::Mixed(seed, len) => {
                    let mut bytes = noise(seed, len);
                    bytes[len / 2..][..len / 30].fill(0);
                    bytes
                }
                Step::Report => { pair.report(); continue }
                Step::Release => { pair.carry(Frame::Release(1)); continue }
                Step::Line(rate) => { pair.packer.handle_line(rate); continue }
            };
            pair.carry(if as_data { data(&bytes) } else { Frame::Literal(bytes.into()) });
        }
        let budget = pair.budget.clone();
        drop(pair);
        prop_assert_eq!(budget.free(), limit);
    }

    /// No bytes of a stranger do more than be refused, and none make more than they claim.
    #[test]
    fn any_bytes_are_refused_or_yield_what_they_claim(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        flip in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in 1u32..2000,
    ) {
        let mut forged = [&[BEGINS][..], &window(15, &text(1, 1000))].concat();
        for (at, value) in flip {
            let at = at.index(forged.len());
            forged[at] ^= value;
        }
        for packed in [bytes, forged] {
            if let Ok(Frame::Literal(plain)) = offering().unpack(packed_literal(len, &packed)) {
                prop_assert_eq!(plain.len(), len as usize);
            }
        }
    }
}

/// Both ends of one direction, with one budget.
struct Pair {
    budget: Budget,
    packer: Packer,
    unpacker: Unpacker,
    packed: usize,
}

impl Pair {
    fn new(limit: u64) -> Self {
        let budget = budget(limit);
        let (packer, unpacker) = (Packer::new(true, &budget), Unpacker::new(&budget));
        let mut pair = Self { budget, packer, unpacker, packed: 0 };
        pair.report();
        pair
    }

    /// Tells the sender a credit.
    fn report(&mut self) {
        assert_eq!(self.packer.handle_credit(self.unpacker.announce(1 << 20)), 1 << 20);
    }

    /// Carries a frame and returns its length on the way.
    fn carry(&mut self, frame: Frame<Bytes>) -> usize {
        let on_the_way = self.packer.pack(frame.clone());
        let (before, after) = (wire_len(&frame), wire_len(&on_the_way));
        if let Some((plain, packed)) = lengths(&on_the_way) {
            assert!(after < before, "{after} bytes for {before}");
            assert_eq!(before - after, plain - packed);
            self.packed += 1;
        } else {
            assert_eq!(on_the_way, frame);
        }
        // As the link would have it.
        let mut wire = Vec::new();
        on_the_way.encode(&mut wire);
        let (decoded, _) = Frame::decode(&wire).unwrap().unwrap();
        assert_eq!(self.unpacker.unpack(decoded.map(Bytes::copy_from_slice)), Ok(frame));
        after - HEADER_BYTES
    }
}

fn wire_len(frame: &Frame<Bytes>) -> usize {
    let mut wire = Vec::new();
    frame.encode(&mut wire);
    wire.len()
}

/// An unpacker that offers both contexts.
fn offering() -> Unpacker {
    let mut unpacker = Unpacker::new(&budget(64 << 20));
    let packed = [&[BEGINS][..], &window(15, &text(9, 100_000))].concat();
    unpacker.unpack(packed_literal(100_000, &packed)).unwrap();
    let both = unpacker.announce(0);
    assert_eq!(both, 0x80 | 1);
    // The small context as it is at first.
    unpacker.forget_small();
    unpacker
}

fn packed_literal(len: u32, bytes: &[u8]) -> Frame<Bytes> {
    Frame::PackedLiteral { len, bytes: Bytes::copy_from_slice(bytes) }
}

fn data(bytes: &[u8]) -> Frame<Bytes> {
    assert!(bytes.len() <= BLOCK_BYTES_MAX);
    let reference = Reference {
        digest: Digest([7; 32]),
        secret: Secret([8; 32]),
        key: KeyId([9; 8]),
        len: u32::try_from(bytes.len()).unwrap(),
    };
    Frame::Data { reference, number: 3, bytes: Bytes::copy_from_slice(bytes) }
}

/// A zstd stream with a window of so many bits.
fn stream(log: u32) -> CCtx<'static> {
    let mut zstd = CCtx::create();
    zstd.set_parameter(CParameter::WindowLog(log)).unwrap();
    zstd
}

fn flushed(zstd: &mut CCtx<'_>, plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()) + 64);
    let mut output = OutBuffer::around(&mut packed);
    let mut input = InBuffer::around(plain);
    assert_eq!(zstd.compress_stream2(&mut output, &mut input, ZSTD_EndDirective::ZSTD_e_flush), Ok(0));
    packed
}

fn window(log: u32, plain: &[u8]) -> Vec<u8> {
    flushed(&mut stream(log), plain)
}

fn zstd_safe_whole(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(&mut packed, plain, 3).unwrap();
    packed
}

fn budget(limit: u64) -> Budget {
    Budget::new(limit, IntGauge::new("used", "test").unwrap())
}

/// What a server might answer, over and over.
fn message(number: u64) -> Bytes {
    let date = number * 37 % 60;
    let text = format!(
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 09:00:{date:02} GMT\r\nContent-Type: \
         text/html\r\nContent-Length: {}\r\nLast-Modified: Sat, 21 Nov 2026 08:00:00 GMT\r\nConnection: \
         keep-alive\r\nETag: \"{:x}\"\r\nAccept-Ranges: bytes\r\n\r\n",
        number * 7919 % 100_000,
        number * 2_654_435_761 % (1 << 32),
    );
    text.into()
}

/// Lines of a log.
pub(super) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(len + 100);
    while text.len() < len {
        let (a, b) = (random.next(), random.next());
        let words = ["opened", "closed", "read", "wrote", "renamed"];
        let line = format!(
            "2026-11-{:02} host{:03} daemon[{}]: client 10.2.{}.{} {} /share/reports/{:x}.txt\n",
            a % 28 + 1,
            a >> 8 & 0x7f,
            a >> 16 & 0x3fff,
            b & 0xff,
            b >> 8 & 0xff,
            words[(b >> 16) as usize % words.len()],
            b >> 20 & 0xffff,
        );
        text.extend(line.as_bytes());
    }
    text.truncate(len);
    text
}

/// Letters at random: smaller by their alphabet alone, unless they repeat.
fn noise_text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).into_iter().map(|byte| b'a' + byte % 16).collect()
}

/// Bytes at random.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    words.take(len).collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
