//! READ requests that wait for their responses.
//!
//! Bounded by [`PENDING_READS_MAX`], which is as many requests as servers grant credits for (Windows and Samba: 8192).
//! Refuses to know what a response must look like. What can go wrong: a client with more READs under way than that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use wanigan_parsers::smb2::MessageId;

use super::files::OpenId;
use super::walk::Tree;

/// The most READ requests remembered for a connection.
pub(super) const PENDING_READS_MAX: usize = 8192;

/// What a READ request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingRead {
    /// Where in the file.
    pub(super) offset: u64,
    /// How much, in bytes.
    pub(super) length: u32,
    /// On which tree, as far as the request told.
    pub(super) tree: Option<Tree>,
    /// Of which file, if it was opened on this connection.
    pub(super) open: Option<OpenId>,
}

/// READ requests by MessageId. `None` stands for an id that was used twice, whose responses cannot be told apart.
#[derive(Default)]
pub(super) struct PendingReads {
    by_id: BTreeMap<MessageId, Option<PendingRead>>,
}

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableFull;

impl PendingReads {
    /// Remembers a request.
    ///
    /// # Errors
    /// [`TableFull`] when there is no room.
    pub(super) fn insert(&mut self, message_id: MessageId, read: PendingRead) -> Result<(), TableFull> {
        let full = self.by_id.len() >= PENDING_READS_MAX;
        match self.by_id.entry(message_id) {
            Entry::Occupied(mut entry) => {
                entry.insert(None);
                Ok(())
            }
            Entry::Vacant(_) if full => Err(TableFull),
            Entry::Vacant(entry) => {
                entry.insert(Some(read));
                Ok(())
            }
        }
    }

    /// Forgets a request and returns it, unless there is none or more than one of that id.
    pub(super) fn remove(&mut self, message_id: MessageId) -> Option<PendingRead> {
        self.by_id.remove(&message_id).flatten()
    }

    /// Forgets the oldest request.
    pub(super) fn remove_oldest(&mut self) {
        self.by_id.pop_first();
    }
}
