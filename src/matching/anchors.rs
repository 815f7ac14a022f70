//! Anchors: places in content that content itself chooses, so that they move along when bytes before them are
//! inserted or deleted.
//!
//! A *gear* hash rolls over the bytes: shifted by one bit a byte, it has forgotten a byte after [`ANCHOR_BYTES`] more.
//! Where its upper bits are zero is an anchor, and the hash, mixed, is its key: whoever meets the same bytes finds the
//! same key, wherever they lie and however they are cut. A key is a hint: two anchors may share one.
//!
//! Content that repeats one byte has no anchors at all, and no other content can have more than one a byte: what an
//! anchor leads to has to be cheap, or bounded by whoever looks.

/// Bytes that an anchor depends on: those just before it.
pub const ANCHOR_BYTES: usize = 64;

/// Bytes from one anchor to the next, on average.
pub const ANCHOR_DISTANCE: usize = 1 << DISTANCE_BITS;

/// Finds anchors in content that comes in any pieces.
#[derive(Debug, Clone, Default)]
pub struct Gear {
    hash: u64,
    /// Bytes since the content began, up to [`ANCHOR_BYTES`].
    seen: usize,
}

impl Gear {
    /// Begins other content: no anchor depends on a byte before this.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Takes the next bytes and shows each anchor in them: the number of these bytes up to it, and its key.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8], mut found: impl FnMut(usize, u64)) {
        // The last byte that completes the first window may end at an anchor, so it is not one of these.
        let early = (ANCHOR_BYTES - 1).saturating_sub(self.seen).min(bytes.len());
        let mut hash = bytes[..early].iter().fold(self.hash, |hash, byte| roll(hash, *byte));
        for (index, byte) in bytes[early..].iter().enumerate() {
            hash = roll(hash, *byte);
            if is_anchor(hash) {
                found(early + index + 1, mixed(hash));
            }
        }
        self.hash = hash;
        self.seen = (self.seen + bytes.len()).min(ANCHOR_BYTES);
    }
}

/// The anchors of a block: each the number of its bytes up to it, and its key. Of bytes that have very many, not all.
#[must_use]
pub fn of_block(bytes: &[u8]) -> Vec<(usize, u64)> {
    let mut anchors = Vec::new();
    Gear::default().scan(bytes, |end, key| {
        if anchors.len() < BLOCK_ANCHORS_MAX {
            anchors.push((end, key));
        }
    });
    anchors
}

#[inline]
fn roll(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(TABLE[byte as usize])
}

/// The upper bits depend on all bytes of the window, the lower ones on the last few only.
#[inline]
fn is_anchor(hash: u64) -> bool {
    hash >> (u64::BITS - DISTANCE_BITS) == 0
}

/// The end of splitmix64 (Steele, Lea, Flood 2014): one to one, and every bit of the key depends on every bit.
const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = SEED;
    let mut byte = 0;
    while byte < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        table[byte] = mixed(state);
        byte += 1;
    }
    table
}

/// Anchors of one block that are used; one of 64 KiB has a quarter as many on average.
const BLOCK_ANCHORS_MAX: usize = 256;
const DISTANCE_BITS: u32 = 10;
/// Chosen so that no run of one byte is an anchor: zeros are what files have most of.
const SEED: u64 = 0;
static TABLE: [u64; 256] = table();

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_of_one_byte_has_no_anchors() {
        for byte in 0..=u8::MAX {
            assert_eq!(anchors(&[byte; 1_000]), [], "{byte:#x}");
        }
    }

    #[test]
    fn anchors_come_once_in_a_kibibyte_on_average_and_their_keys_differ() {
        let bytes = noise(1, 4 << 20);
        let mut keys: Vec<u64> = anchors(&bytes).iter().map(|(_, key)| *key).collect();
        let expected = bytes.len() / ANCHOR_DISTANCE;
        assert!((expected * 9 / 10..expected * 11 / 10).contains(&keys.len()), "{}", keys.len());
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
        // Well mixed: each bit is set in about half of the keys.
        for bit in 0..64 {
            let set = keys.iter().filter(|key| **key >> bit & 1 == 1).count();
            assert!((count * 4 / 10..count * 6 / 10).contains(&set), "bit {bit}: {set} of {count}");
        }
    }

    #[test]
    fn an_anchor_depends_on_the_bytes_just_before_it_alone() {
        let bytes = noise(2, 300_000);
        let all = anchors(&bytes);
        assert!(all.len() > 200);
        for &(at, key) in &all {
            let window = &bytes[at - ANCHOR_BYTES..at];
            assert_eq!(anchors(window), [(ANCHOR_BYTES, key)]);
            assert_eq!(anchors(&window[1..]), []);
        }
        let moved: Vec<_> = anchors(&[&noise(3, 77)[..], &bytes].concat())
            .into_iter()
            .filter_map(|(at, key)| Some((at.checked_sub(77).filter(|at| *at >= ANCHOR_BYTES)?, key)))
            .collect();
        assert_eq!(moved, all);
    }

    #[test]
    fn nothing_before_a_reset_counts() {
        let bytes = noise(4, 10_000);
        let mut gear = Gear::default();
        gear.scan(&noise(5, 1_000), |_, _| {});
        gear.reset();
        let mut found = Vec::new();
        gear.scan(&bytes, |at, key| found.push((at, key)));
        assert_eq!(found, anchors(&bytes));
    }

    proptest! {
        #[test]
        fn anchors_are_the_same_however_the_bytes_are_cut(
            seed: u64,
            cuts in proptest::collection::vec(0_usize..3_000, 1..20),
        ) {
            let bytes = noise(seed, 20_000);
            let mut gear = Gear::default();
            let mut found = Vec::new();
            let mut at = 0;
            for cut in cuts.iter().chain([&20_000]) {
                let end = bytes.len().min(at + cut);
                gear.scan(&bytes[at..end], |upto, key| found.push((at + upto, key)));
                at = end;
            }
            prop_assert_eq!(found, anchors(&bytes));
        }
    }

    fn anchors(bytes: &[u8]) -> Vec<(usize, u64)> {
        let mut found = Vec::new();
        Gear::default().scan(bytes, |at, key| found.push((at, key)));
        found
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|n| mixed(mixed(seed) ^ n) as u8).collect()
    }
}
