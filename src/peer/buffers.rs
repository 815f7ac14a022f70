//! Memory of blocks that were received, used again for the next.
//!
//! A block's memory goes from the task that reads to whoever asked, and is let go in yet another. An allocator gives so
//! much of it back to the kernel in between that the page faults were a sixteenth of a receiver's CPU time. A few spare
//! buffers are kept; a block that is held for long simply does not come back.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::block::BLOCK_BYTES_MAX;

/// Spare buffers. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// Returns a spare buffer with anything in it, if there is one.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Returns bytes whose memory comes back here when nobody uses them any longer.
    pub(super) fn lend(&self, memory: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { memory, home: self.clone() })
    }
}

/// The memory of a block in use.
struct Lent {
    memory: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX && self.memory.capacity() <= BLOCK_BYTES_MAX {
            spare.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Spare buffers at most: 4 MiB of usual blocks.
const SPARE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_user_is_gone_and_only_so_much_is_kept() {
        let buffers = Buffers::default();
        let block = buffers.lend(vec![1; 1_000]);
        let (slice, place) = (block.slice(10..20), block.as_ptr());
        drop(block);
        assert!(buffers.take().is_none());
        assert_eq!(slice, [1; 10][..]);
        drop(slice);
        assert_eq!(buffers.take().unwrap().as_ptr(), place);
        drop((0..=SPARE_MAX).map(|_| buffers.lend(vec![0; 10])).collect::<Vec<_>>());
        assert_eq!(std::iter::from_fn(|| buffers.take()).count(), SPARE_MAX);
    }
}
