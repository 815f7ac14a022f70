//! Whether the disk answers: what keeps one that hangs from holding everybody up, one read after the other.
//!
//! Owns when the reads began that are under way. While one of them takes longer than any disk that works, no other is
//! begun: whoever asks gets what is in memory, and at once. The same for some time after it came back, or a disk that
//! is merely far too slow would be waited for again and again. Refuses to know what is read, and how long somebody
//! waits for a read of his own.
//!
//! What can go wrong: a read that never ends leaves the store without its disk for as long as the process runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Watches over reads.
pub(super) struct Watch {
    state: Mutex<State>,
    slow_after: Duration,
}

#[derive(Default)]
struct State {
    /// In the order in which they began.
    under_way: BTreeMap<u64, Instant>,
    begun: u64,
    rest_until: Option<Instant>,
    /// The log says that the disk hangs.
    told: bool,
}

/// A read that is under way, until it is dropped.
pub(super) struct UnderWay {
    watch: Arc<Watch>,
    number: u64,
}

impl Watch {
    /// Makes a watch for a disk that answers sooner than that.
    pub(super) fn new(slow_after: Duration) -> Self {
        Self { state: Mutex::default(), slow_after }
    }

    /// Returns whether reads may begin.
    pub(super) fn answers(&self, now: Instant) -> bool {
        let mut state = self.state();
        let oldest = state.under_way.first_key_value();
        let hangs = oldest.is_some_and(|(_, began)| now.saturating_duration_since(*began) >= self.slow_after);
        let answers = !hangs && state.rest_until.is_none_or(|until| until <= now);
        if answers == state.told {
            state.told = !answers;
            if answers {
                tracing::info!("the store's disk answers again");
            } else {
                tracing::warn!(
                    "the store's disk does not answer, what is not in memory is fetched meanwhile"
                );
            }
        }
        answers
    }

    /// Learns that a read begins, on the thread that does it.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        UnderWay { watch: self.clone(), number: self.note_begin(Instant::now()) }
    }

    fn note_begin(&self, now: Instant) -> u64 {
        let mut state = self.state();
        state.begun += 1;
        let number = state.begun;
        state.under_way.insert(number, now);
        number
    }

    fn note_end(&self, number: u64, now: Instant) {
        let mut state = self.state();
        let Some(began) = state.under_way.remove(&number) else { return };
        if now.saturating_duration_since(began) >= self.slow_after {
            state.rest_until = Some(now + self.slow_after * RESTS);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change above is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.watch.note_end(self.number, Instant::now());
    }
}

/// How much longer than a read may take the disk is left alone when one has taken longer.
const RESTS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_that_end_in_time_do_not_keep_others_back_however_many() {
        let (watch, start) = (Watch::new(SECOND), Instant::now());
        for n in 0..100 {
            let now = start + SECOND * n / 2;
            assert!(watch.answers(now));
            let (one, other) = (watch.note_begin(now), watch.note_begin(now + SECOND / 4));
            assert!(watch.answers(now + SECOND * 99 / 100));
            watch.note_end(one, now + SECOND * 99 / 100);
            watch.note_end(other, now + SECOND);
        }
        assert!(watch.state().under_way.is_empty());
    }

    #[test]
    fn no_read_begins_while_one_hangs_and_for_some_time_after_it() {
        let (watch, start) = (Watch::new(SECOND), Instant::now());
        let (hung, quick) = (watch.note_begin(start), watch.note_begin(start));
        watch.note_end(quick, start + SECOND / 2);
        for seconds in [1, 2, 100] {
            assert!(!watch.answers(start + SECOND * seconds), "{seconds}");
        }
        watch.note_end(hung, start + SECOND * 100);
        assert!(!watch.answers(start + SECOND * 104));
        assert!(watch.answers(start + SECOND * 105));
    }

    #[test]
    fn a_read_that_nobody_waited_for_counts_too() {
        let (watch, start) = (Watch::new(SECOND), Instant::now());
        let late = watch.note_begin(start);
        watch.note_end(late, start + SECOND * 3);
        assert!(!watch.answers(start + SECOND * 3));
        assert!(watch.answers(start + SECOND * 8));
    }

    #[test]
    fn a_panic_in_a_read_ends_it() {
        let watch = Arc::new(Watch::new(SECOND));
        let reading = watch.clone();
        let read = std::thread::spawn(move || {
            let _under_way = reading.begin();
            panic!("as a test of what comes after it");
        });
        assert!(read.join().is_err());
        assert!(watch.answers(Instant::now() + SECOND * 60));
    }

    const SECOND: Duration = Duration::from_secs(1);
}
