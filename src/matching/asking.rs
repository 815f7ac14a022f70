//! When to name a block of which nothing is known, as a question: the rule, and what the answers so far make of it.
//!
//! After some blocks went in full, one is named. If the other side had it, all that follow are, until one is missed; if
//! not, eight times as many blocks go before the next question. What was named together and missed is one question.

/// Blocks that go in full before the first question: a file this small is read while an answer would take as long.
const FIRST: u32 = 8;

/// How much longer the next question waits after one that was answered with no.
const FACTOR: u32 = 8;

/// The most blocks that go in full before a question: 256 MiB of whole cells, beside which a round trip is nothing.
const MOST: u32 = 4096;

/// What was found out so far, by one flow or by all of an edge.
#[derive(Debug)]
pub struct Asking {
    /// Blocks that went in full since the last question, and how many must.
    pushed: u32,
    next: u32,
    /// Questions that are not answered.
    asked: u32,
    /// The last answer was yes.
    is_warm: bool,
}

impl Default for Asking {
    fn default() -> Self {
        Self { pushed: 0, next: FIRST, asked: 0, is_warm: false }
    }
}

impl Asking {
    /// Returns whether the next unknown block is to be named.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.is_warm || (self.asked == 0 && self.pushed >= self.next)
    }

    /// Notes that an unknown block was named.
    pub fn handle_asked(&mut self) {
        self.asked = self.asked.saturating_add(1);
        self.pushed = 0;
    }

    /// Notes that an unknown block went in full.
    pub fn handle_pushed(&mut self) {
        self.pushed = self.pushed.saturating_add(1);
    }

    /// Notes that the other side had a block that was named.
    pub fn handle_hit(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        self.is_warm = true;
        self.next = FIRST;
    }

    /// Notes that it did not.
    pub fn handle_miss(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        self.is_warm = false;
        if self.asked == 0 {
            self.next = self.next.saturating_mul(FACTOR).min(MOST);
        }
    }

    /// Notes that so many questions will not be answered.
    pub fn handle_lost(&mut self, questions: u32) {
        self.asked = self.asked.saturating_sub(questions);
    }

    /// Returns how many questions are not answered.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_site_is_asked_ever_more_rarely_and_a_warm_one_is_trusted_until_it_misses() {
        let mut asking = Asking::default();
        assert_eq!(pushed_before_a_question(&mut asking), 8);
        assert!(!asking.asks(), "one question at a time");
        asking.handle_miss();
        assert_eq!(pushed_before_a_question(&mut asking), 64);
        asking.handle_hit();
        assert!(asking.asks());
        asking.handle_asked();
        assert!(asking.asks());
        asking.handle_miss();
        for expected in [64, 512, 4096, 4096] {
            assert_eq!(pushed_before_a_question(&mut asking), expected);
            asking.handle_miss();
        }
    }

    #[test]
    fn however_many_blocks_of_a_cold_file_were_named_after_a_warm_one_they_are_one_question() {
        let mut asking = Asking::default();
        pushed_before_a_question(&mut asking);
        asking.handle_hit();
        (0..100).for_each(|_| asking.handle_asked());
        (0..100).for_each(|_| asking.handle_miss());
        assert_eq!(pushed_before_a_question(&mut asking), 64);
    }

    /// Asks, as soon as that is due.
    fn pushed_before_a_question(asking: &mut Asking) -> u32 {
        let mut blocks = 0;
        while !asking.asks() {
            asking.handle_pushed();
            blocks += 1;
        }
        asking.handle_asked();
        blocks
    }
}
