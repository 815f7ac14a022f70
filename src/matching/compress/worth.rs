//! Whether bytes are worth a try, before any context sees them.

/// Returns whether bytes may become smaller: whether some values are clearly more frequent than others.
///
/// It looks at 4 KiB at most, spread over the whole. Two bytes of random content are equal once in 256 pairs; of text
/// once in 16. One in 233 is asked for, so that 3 % of zeros in random content are noticed. What repeats long random strings is missed;
/// such content is what references are for.
#[must_use]
pub fn looks_compressible(bytes: &[u8]) -> bool {
    let mut counts = [0u64; 256];
    let runs = SAMPLE_BYTES / RUN_BYTES;
    if bytes.len() <= SAMPLE_BYTES {
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    } else {
        let stride = (bytes.len() - RUN_BYTES) / (runs - 1);
        let sampled = (0..runs).flat_map(|run| &bytes[run * stride..][..RUN_BYTES]);
        sampled.for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    let sampled = bytes.len().min(SAMPLE_BYTES) as u64;
    let equal_pairs: u64 = counts.iter().map(|count| count * count.saturating_sub(1)).sum();
    let pairs = sampled * sampled.saturating_sub(1);
    equal_pairs * 256 * 10 > pairs * 11
}

/// Tries less often where trying does not pay.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    skip: u32,
    length: u32,
}

impl Backoff {
    /// Returns whether to try this time.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        due
    }

    /// It did not pay: the next 1, 2, 4 and so on are not tried.
    pub(super) fn handle_failure(&mut self) {
        self.length = (self.length * 2).clamp(1, SKIP_MAX);
        self.skip = self.length;
    }

    /// It did.
    pub(super) fn handle_success(&mut self) {
        self.length = 0;
    }
}

/// Bytes that are looked at.
const SAMPLE_BYTES: usize = 4 << 10;

/// Bytes that are looked at in one place.
const RUN_BYTES: usize = 256;

/// Frames that go untried at most, after failures one after the other.
const SKIP_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::compress::tests::{noise, text};

    #[test]
    fn random_bytes_are_told_from_text_and_from_what_is_partly_text() {
        for seed in 0..50 {
            let random = noise(seed, 64 << 10);
            assert!(!looks_compressible(&random));
            assert!(!looks_compressible(&random[..4096]));
            let mut mixed = random;
            mixed[20_000..30_000].fill(0);
            assert!(looks_compressible(&mixed));
        }
        assert!(looks_compressible(&text(1, 64 << 10)));
        assert!(looks_compressible(&text(1, 600)));
        assert!(!looks_compressible(&[]));
        assert!(!looks_compressible(&[7]));
    }

    #[test]
    fn failures_in_a_row_are_tried_less_and_less_and_a_success_ends_that() {
        let mut backoff = Backoff::default();
        let mut tries = 0;
        for _ in 0..1000 {
            if backoff.is_due() {
                tries += 1;
                backoff.handle_failure();
            }
        }
        assert!((15..30).contains(&tries), "{tries}");
        while !backoff.is_due() {}
        backoff.handle_success();
        assert!(backoff.is_due() && backoff.is_due());
    }
}
