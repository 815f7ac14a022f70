//! Whether to name a block of which nothing is known: a core that was started again has forgotten what its edges hold,
//! and a site may have learned blocks elsewhere.
//!
//! A flow asks by the rule of `matching/asking.rs`: after some blocks one is named, while the next go in full still. So
//! a cold site pays a round trip for one block out of many, in which the line is not idle. Most flows are over before
//! that. So all flows of an edge count together too, and one that has not been answered with no itself goes by what
//! the others found out: many small files are asked about as one large one is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::matching::asking::Asking;

/// What one flow has found out, and the edge's flows together.
#[derive(Debug, Default)]
pub struct Guessing {
    own: Asking,
    /// An answer to this flow was no.
    missed: bool,
    edge: Arc<Mutex<Asking>>,
}

impl Guessing {
    /// Makes what a new flow of an edge knows.
    #[must_use]
    pub fn new(edge: Arc<Mutex<Asking>>) -> Self {
        Self { own: Asking::default(), missed: false, edge }
    }

    /// Returns whether the next unknown block is to be named.
    #[must_use]
    pub fn guesses(&self) -> bool {
        self.own.asks() || (!self.missed && self.edge().asks())
    }

    /// Notes that an unknown block was named.
    pub fn handle_guess(&mut self) {
        self.own.handle_asked();
        self.edge().handle_asked();
    }

    /// Notes that an unknown block went in full.
    pub fn handle_pushed(&mut self) {
        self.own.handle_pushed();
        self.edge().handle_pushed();
    }

    /// Notes that the other side had a block that was named.
    pub fn handle_hit(&mut self) {
        self.own.handle_hit();
        self.edge().handle_hit();
    }

    /// Notes that it did not.
    pub fn handle_miss(&mut self) {
        self.missed = true;
        self.own.handle_miss();
        self.edge().handle_miss();
    }

    fn edge(&self) -> MutexGuard<'_, Asking> {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guessing {
    /// What was asked is not answered any more.
    fn drop(&mut self) {
        self.edge().handle_lost(self.own.unanswered());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_one_block_each_are_asked_about_together() {
        let edge = Arc::default();
        for _ in 0..8 {
            assert!(!read_one_block(&edge, true));
        }
        for _ in 0..100 {
            assert!(read_one_block(&edge, true), "the first answer was yes");
        }
        assert!(read_one_block(&edge, false));
        for _ in 0..64 {
            assert!(!read_one_block(&edge, true), "the last answer was no");
        }
        assert!(read_one_block(&edge, true));
    }

    #[test]
    fn a_flow_that_was_answered_goes_by_its_own_answers() {
        let edge = Arc::default();
        let (mut cold, mut warm) = (Guessing::new(Arc::clone(&edge)), Guessing::new(Arc::clone(&edge)));
        cold.handle_guess();
        cold.handle_miss();
        warm.handle_guess();
        warm.handle_hit();
        assert!(!cold.guesses());
        cold.handle_guess();
        cold.handle_miss();
        assert!(warm.guesses());
    }

    #[test]
    fn a_flow_that_ends_unanswered_leaves_the_question_to_others() {
        let edge = Arc::default();
        let mut flow = Guessing::new(Arc::clone(&edge));
        (0..8).for_each(|_| flow.handle_pushed());
        flow.handle_guess();
        let mut other = Guessing::new(edge);
        (0..7).for_each(|_| other.handle_pushed());
        assert!(!other.guesses());
        other.handle_pushed();
        drop(flow);
        assert!(other.guesses());
    }

    /// Returns whether the block was named; the other side has it or not.
    fn read_one_block(edge: &Arc<Mutex<Asking>>, is_held: bool) -> bool {
        let mut flow = Guessing::new(Arc::clone(edge));
        let named = flow.guesses();
        match (named, is_held) {
            (false, _) => flow.handle_pushed(),
            (true, true) => {
                flow.handle_guess();
                flow.handle_hit();
            }
            (true, false) => {
                flow.handle_guess();
                flow.handle_miss();
            }
        }
        named
    }
}
