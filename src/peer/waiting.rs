//! Where requests of peers wait for blocks that this node does not have yet.
//!
//! A node that said "soon" gets requests for blocks that are still on their way to it. Each takes a place here under its
//! tag; when a block arrives, [`Waiting::handle_block`] tells those that wait for it. The tag is a hash of a hash, so
//! for the many blocks that arrive while nobody waits it is not even computed.
//!
//! Places are limited. Whether a request may have the block is not decided here: its proof is checked by who serves it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::serving::Places;
use crate::block::{Block, KeyId, Tag, tag};

/// Requests of all connections that wait at most.
pub(super) const PLACES_MAX: usize = 4_096;

/// The places of one node. Clones are the same places.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Inner>);

#[derive(Default)]
struct Inner {
    taken: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiters: HashMap<(KeyId, Tag), Vec<Waiter>>,
    next: u64,
}

/// A block that arrived, for the request with this number.
pub(super) type Arrival = (u32, Block);

struct Waiter {
    number: u64,
    request: u32,
    arrivals: mpsc::Sender<Arrival>,
}

impl Waiting {
    /// Returns places without anybody in them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the requests that wait for this block. Costs next to nothing while none waits for any.
    pub fn handle_block(&self, block: &Block) {
        if self.0.taken.load(Ordering::SeqCst) == 0 {
            return;
        }
        let key = (block.reference().key, tag(block.reference()));
        let waiters = self.with_table(|table| table.waiters.remove(&key)).unwrap_or_default();
        self.0.taken.fetch_sub(waiters.len(), Ordering::SeqCst);
        for waiter in waiters {
            // The channel has room for every request that the connection may have open; a closed one needs nothing.
            let _ = waiter.arrivals.try_send((waiter.request, block.clone()));
        }
    }

    /// Returns how many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Returns whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the places as one connection sees them, which hears of its blocks through `arrivals`.
    #[must_use]
    pub fn places(&self, arrivals: mpsc::Sender<Arrival>) -> ConnectionPlaces {
        ConnectionPlaces { waiting: self.clone(), arrivals }
    }

    fn with_table<T>(&self, call: impl FnOnce(&mut Table) -> T) -> T {
        call(&mut self.0.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiting({} of {PLACES_MAX})", self.len())
    }
}

/// The places, and how one connection hears of blocks.
#[derive(Debug)]
pub struct ConnectionPlaces {
    waiting: Waiting,
    arrivals: mpsc::Sender<Arrival>,
}

impl Places for ConnectionPlaces {
    type Ticket = Ticket;

    fn take(&self, request: u32, key: KeyId, tag: Tag) -> Option<Ticket> {
        let number = self.waiting.with_table(|table| {
            let taken = &self.waiting.0.taken;
            if taken.load(Ordering::SeqCst) >= PLACES_MAX {
                return None;
            }
            taken.fetch_add(1, Ordering::SeqCst);
            let number = table.next;
            table.next += 1;
            let waiter = Waiter { number, request, arrivals: self.arrivals.clone() };
            table.waiters.entry((key, tag)).or_default().push(waiter);
            Some(number)
        })?;
        Some(Ticket { waiting: self.waiting.clone(), key: (key, tag), number })
    }
}

/// A place. It is free again when this is dropped, or when its block has come.
#[derive(Debug)]
pub struct Ticket {
    waiting: Waiting,
    key: (KeyId, Tag),
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = self.waiting.with_table(|table| {
            let Some(waiters) = table.waiters.get_mut(&self.key) else { return false };
            let before = waiters.len();
            waiters.retain(|waiter| waiter.number != self.number);
            let left = waiters.len() < before;
            if waiters.is_empty() {
                table.waiters.remove(&self.key);
            }
            left
        });
        if left {
            self.waiting.0.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn who_waits_for_a_block_is_told_once_and_others_are_not() {
        let (waiting, block, other) = (Waiting::new(), block(1), block(2));
        let (sender, mut arrivals) = mpsc::channel(8);
        let places = waiting.places(sender);
        let key = block.reference().key;
        let _one = places.take(7, key, tag(block.reference())).unwrap();
        let _two = places.take(8, key, tag(block.reference())).unwrap();
        let three = places.take(9, key, tag(other.reference())).unwrap();
        waiting.handle_block(&block);
        assert_eq!(arrivals.try_recv().unwrap().0, 7);
        assert_eq!(arrivals.try_recv().unwrap().0, 8);
        assert!(arrivals.try_recv().is_err());
        waiting.handle_block(&block);
        assert!(arrivals.try_recv().is_err());
        assert_eq!(waiting.len(), 1);
        drop(three);
        assert!(waiting.is_empty() && waiting.with_table(|table| table.waiters.is_empty()));
    }

    #[test]
    fn a_block_of_another_domain_is_not_the_one() {
        let (waiting, block) = (Waiting::new(), block(1));
        let (sender, mut arrivals) = mpsc::channel(8);
        let _ticket = waiting.places(sender).take(7, KeyId::PLAIN, tag(block.reference())).unwrap();
        waiting.handle_block(&block);
        assert!(arrivals.try_recv().is_err());
    }

    #[test]
    fn there_are_only_so_many_places() {
        let waiting = Waiting::new();
        let (sender, _arrivals) = mpsc::channel(1);
        let places = waiting.places(sender);
        let take = |request| places.take(request, KeyId([1; 8]), Tag([2; 32]));
        let tickets: Vec<_> = (0..u32::try_from(PLACES_MAX).unwrap()).map(take).collect();
        assert!(tickets.iter().all(Option::is_some));
        assert!(take(0).is_none());
        drop(tickets);
        assert!(take(0).is_some());
        assert!(waiting.is_empty());
    }

    fn block(fill: u8) -> Block {
        ServerSecret::new([7; 32]).mint(Bytes::from(vec![fill; 100]))
    }
}
