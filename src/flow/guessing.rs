//! Whether to name a block of which nothing is known: a core that was started again has forgotten what its edges hold,
//! and a site may have learned blocks elsewhere.
//!
//! After some blocks of a flow went in full, one is named instead, as a question, while the next go in full still. If
//! the other side had it, the rest of the flow is named until something is missed; if not, eight times as many blocks
//! go before the next question. So a cold site pays a round trip for one block out of many, in which the line is not
//! idle, and a flow that is short is never asked about.

/// Blocks that go in full before the first question: a file this small is read while an answer would take as long.
const FIRST: u32 = 8;

/// How much longer the next question waits after one that was answered with no.
const FACTOR: u32 = 8;

/// What one flow has found out.
#[derive(Debug)]
pub struct Guessing {
    /// Blocks that went in full since the last question, and how many must.
    pushed: u32,
    next: u32,
    /// Questions that are not answered.
    asked: u32,
    /// The last answer was yes.
    is_warm: bool,
}

impl Default for Guessing {
    fn default() -> Self {
        Self { pushed: 0, next: FIRST, asked: 0, is_warm: false }
    }
}

impl Guessing {
    /// Returns whether the next unknown block is to be named.
    #[must_use]
    pub fn guesses(&self) -> bool {
        self.is_warm || (self.asked == 0 && self.pushed >= self.next)
    }

    /// Notes that an unknown block was named.
    pub fn handle_guess(&mut self) {
        self.asked += 1;
        self.pushed = 0;
    }

    /// Notes that an unknown block went in full.
    pub fn handle_pushed(&mut self) {
        self.pushed += 1;
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
        self.next = self.next.saturating_mul(FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_site_is_asked_ever_more_rarely_and_a_warm_one_is_trusted_until_it_misses() {
        let mut guessing = Guessing::default();
        let blocks_before_a_question = |guessing: &mut Guessing| {
            let mut blocks = 0;
            while !guessing.guesses() {
                guessing.handle_pushed();
                blocks += 1;
            }
            guessing.handle_guess();
            blocks
        };
        assert_eq!(blocks_before_a_question(&mut guessing), 8);
        assert!(!guessing.guesses(), "one question at a time");
        guessing.handle_miss();
        assert_eq!(blocks_before_a_question(&mut guessing), 64);
        guessing.handle_hit();
        assert!(guessing.guesses());
        guessing.handle_guess();
        assert!(guessing.guesses());
        guessing.handle_miss();
        assert_eq!(blocks_before_a_question(&mut guessing), 64);
    }
}
