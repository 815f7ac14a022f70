//! The blocks behind references that the other side has not acknowledged.
//!
//! They cannot be read again, since we have no credentials at the server. Slices of one block that follow each other
//! retain it once.

use std::collections::VecDeque;

use crate::addr::NodeId;
use crate::block::Block;
use crate::budget::{Budget, Reservation};

/// What is kept for one reference.
#[derive(Debug)]
pub struct Retained {
    /// The block.
    pub block: Block,
    /// The link's number that its frame introduced.
    pub introduced: Option<u64>,
    /// The edge that the other side was referred to for it.
    pub referred: Option<NodeId>,
    /// Whether it was sent because of a FETCH.
    pub fetched: bool,
    /// Whether it was named without knowing that the other side has it.
    pub guessed: bool,
    /// Bytes of the reservation that are for it.
    reserved: u64,
}

/// References in the order in which they were sent.
#[derive(Debug)]
pub struct RetainedQueue {
    references: VecDeque<Retained>,
    reservation: Reservation,
    /// Number of the oldest one; all before it are acknowledged.
    resolved: u64,
}

impl RetainedQueue {
    /// Makes an empty one that takes its memory from `budget`.
    ///
    /// # Panics
    /// Never: an empty reservation always fits.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        let reservation = budget.reserve(0).expect("nothing always fits");
        Self { references: VecDeque::new(), reservation, resolved: 0 }
    }

    /// Keeps the block of the next reference, or nothing if the node has no memory for it.
    #[must_use]
    pub fn push(&mut self, mut block: Block) -> bool {
        let mut reserved = u64::from(block.reference().len);
        if let Some(last) = self.references.back()
            && last.block.reference() == block.reference()
        {
            (block, reserved) = (last.block.clone(), 0);
        } else if !self.reservation.grow(reserved) {
            return false;
        }
        let retained =
            Retained { block, introduced: None, referred: None, fetched: false, guessed: false, reserved };
        self.references.push_back(retained);
        true
    }

    /// Notes which number the frame of the newest reference introduces.
    pub fn handle_introduced(&mut self, number: u64) {
        if let Some(last) = self.references.back_mut() {
            last.introduced = Some(number);
        }
    }

    /// Notes that the newest reference is a guess.
    pub fn handle_guessed(&mut self) {
        if let Some(last) = self.references.back_mut() {
            last.guessed = true;
        }
    }

    /// Takes the oldest reference if it is one of the `resolved` that the other side acknowledged.
    pub fn pop_resolved(&mut self, resolved: u64) -> Option<Retained> {
        if self.resolved >= resolved {
            return None;
        }
        let retained = self.references.pop_front()?;
        self.resolved += 1;
        match self.references.front_mut() {
            Some(next) if next.reserved == 0 => next.reserved = retained.reserved,
            _ => self.reservation.shrink(retained.reserved),
        }
        Some(retained)
    }

    /// Returns a reference by its number in the flow.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Retained> {
        let index = usize::try_from(number.checked_sub(self.resolved)?).ok()?;
        self.references.get_mut(index)
    }

    /// Goes through all references.
    pub fn iter(&self) -> impl Iterator<Item = &Retained> {
        self.references.iter()
    }

    /// Returns whether everything is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    /// Returns the memory in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reservation.bytes()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus::IntGauge;

    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn slices_that_follow_each_other_retain_their_block_once_and_until_the_last() {
        let budget = Budget::new(3000, IntGauge::new("used", "test").unwrap());
        let mut retained = RetainedQueue::new(&budget);
        for n in [1, 1, 1, 2, 1] {
            assert!(retained.push(block(n)));
        }
        assert!(!retained.push(block(3)), "there is no memory for it");
        assert_eq!(retained.bytes(), 3000);
        for (resolved, bytes) in [(1, 3000), (2, 3000), (3, 2000), (4, 1000), (5, 0)] {
            assert!(retained.pop_resolved(resolved).is_some());
            assert!(retained.pop_resolved(resolved).is_none());
            assert_eq!(retained.bytes(), bytes);
        }
        assert!(retained.pop_resolved(u64::MAX).is_none());
        assert!(retained.push(block(1)));
        assert!(retained.get_mut(4).is_none() && retained.get_mut(5).is_some());
    }

    fn block(n: u8) -> Block {
        ServerSecret::plain().mint(Bytes::from(vec![n; 1000]))
    }
}
