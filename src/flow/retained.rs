//! The blocks that a flow keeps for the other side: those behind references that it has not acknowledged, and those of
//! which a part waits to be sent.
//!
//! They cannot be read again, since we have no credentials at the server, and of a part of 256 bytes the whole block is
//! kept, since that is what the other side may have to fetch. So nobody keeps a block here without a [`Held`], which has
//! its memory out of the node's budget. Parts of one block that follow each other share it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::addr::NodeId;
use crate::block::Block;
use crate::budget::{Budget, Reservation};

/// A block and the memory that it takes. Clones share both; the last one gives the memory back.
#[derive(Debug, Clone)]
pub struct Held(Arc<Room>);

#[derive(Debug)]
struct Room {
    block: Block,
    reservation: Reservation,
    /// Of all blocks that the flow keeps.
    flow_bytes: Arc<AtomicU64>,
}

/// What is kept for one reference.
#[derive(Debug)]
pub struct Retained {
    held: Held,
    /// The link's number that its frame introduced.
    pub introduced: Option<u64>,
    /// The edge that the other side was referred to for it.
    pub referred: Option<NodeId>,
    /// Whether it was sent because of a FETCH.
    pub fetched: bool,
    /// Whether it was named without knowing that the other side has it.
    pub guessed: bool,
}

/// References in the order in which they were sent.
#[derive(Debug)]
pub struct RetainedQueue {
    references: VecDeque<Retained>,
    /// Number of the oldest one; all before it are acknowledged.
    resolved: u64,
    budget: Budget,
    /// Memory of all that is held.
    bytes: Arc<AtomicU64>,
    /// What was held last, if it still is.
    newest: Weak<Room>,
}

impl Held {
    /// Returns the block.
    #[must_use]
    pub fn block(&self) -> &Block {
        &self.0.block
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.flow_bytes.fetch_sub(self.reservation.bytes(), Ordering::Relaxed);
    }
}

impl Retained {
    /// Returns the block.
    #[must_use]
    pub fn block(&self) -> &Block {
        self.held.block()
    }
}

impl RetainedQueue {
    /// Makes an empty one that takes its memory from `budget`.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        Self {
            references: VecDeque::new(),
            resolved: 0,
            budget: budget.clone(),
            bytes: Arc::default(),
            newest: Weak::new(),
        }
    }

    /// Keeps a block, or returns `None` if the node has no memory for it.
    #[must_use]
    pub fn hold(&mut self, block: &Block) -> Option<Held> {
        if let Some(newest) = self.newest.upgrade()
            && newest.block.reference() == block.reference()
        {
            return Some(Held(newest));
        }
        let reservation = self.budget.reserve(u64::from(block.reference().len))?;
        self.bytes.fetch_add(reservation.bytes(), Ordering::Relaxed);
        let flow_bytes = Arc::clone(&self.bytes);
        let room = Arc::new(Room { block: block.clone(), reservation, flow_bytes });
        self.newest = Arc::downgrade(&room);
        Some(Held(room))
    }

    /// Keeps a block until the next reference, which is to it, is acknowledged.
    pub fn push(&mut self, held: Held) {
        let retained = Retained { held, introduced: None, referred: None, fetched: false, guessed: false };
        self.references.push_back(retained);
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

    /// Returns the memory of all blocks that are kept, those behind no reference yet included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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
            let held = retained.hold(&block(n)).expect("there is memory for it");
            retained.push(held);
        }
        assert!(retained.hold(&block(3)).is_none(), "there is no memory for it");
        assert_eq!((retained.bytes(), budget.free()), (3000, 0));
        for (resolved, bytes) in [(1, 3000), (2, 3000), (3, 2000), (4, 1000), (5, 0)] {
            assert!(retained.pop_resolved(resolved).is_some());
            assert!(retained.pop_resolved(resolved).is_none());
            assert_eq!((retained.bytes(), budget.free()), (bytes, 3000 - bytes));
        }
        assert!(retained.pop_resolved(u64::MAX).is_none());
        let held = retained.hold(&block(1)).unwrap();
        retained.push(held);
        assert!(retained.get_mut(4).is_none() && retained.get_mut(5).is_some());
    }

    #[test]
    fn what_waits_and_what_is_behind_a_reference_share_the_memory_of_a_block() {
        let budget = Budget::new(1000, IntGauge::new("used", "test").unwrap());
        let mut retained = RetainedQueue::new(&budget);
        let waits = retained.hold(&block(1)).unwrap();
        retained.push(waits.clone());
        assert_eq!(retained.bytes(), 1000);
        assert!(retained.pop_resolved(1).is_some());
        assert_eq!(retained.bytes(), 1000, "a part of it still waits");
        drop(waits);
        assert_eq!((retained.bytes(), budget.free()), (0, 1000));
    }

    fn block(n: u8) -> Block {
        ServerSecret::plain().mint(Bytes::from(vec![n; 1000]))
    }
}
