//! How a flow's sender names blocks, and what it thinks the other side has.
//!
//! The two kinds of node differ in nothing else. A core names what a server released under its server secret, and may
//! send the other side to a neighbour. An edge names what its client uploads: by a secret that the core told it, by the
//! digest alone where the block crossed this link before, or not at all, and then the block goes in full with its digest
//! and nothing more. For its own store it has a secret of its own, which no core and no peer ever hears of.

use std::sync::{Arc, PoisonError, RwLock};

use wanigan_parsers::wan::Referral;

use super::guessing::Guessing;
use crate::addr::NodeId;
use crate::block::{Block, Digest, Hashed, Named, Naming, Reference, ServerSecret};
use crate::matching::Knowledge;
use crate::matching::uploads::{KnownOnLink, UNNAMED};
use crate::referral::Neighbours;
use crate::wan::numbering::Numbers;

/// What makes references.
#[derive(Debug)]
pub enum Minter {
    /// Where the content server's answers arrive.
    Core {
        /// The core's server secrets.
        naming: Arc<RwLock<Naming>>,
        /// What the edge at the other side and its neighbours were sent.
        neighbours: Neighbours,
        /// The link's numbers for references.
        numbers: Arc<Numbers>,
    },
    /// Where a client's uploads arrive.
    Edge {
        /// Names blocks in the edge's own store.
        own: ServerSecret,
        /// What the core at the other side has.
        known: KnownOnLink,
        /// The link's numbers for references.
        numbers: Arc<Numbers>,
    },
}

impl Minter {
    /// Makes a block of bytes that came from the leg, and its name under the older server secret.
    #[must_use]
    pub fn mint(&self, content: Hashed) -> (Block, Option<Named>) {
        match self {
            Self::Core { naming, .. } => {
                let naming = naming.read().unwrap_or_else(PoisonError::into_inner);
                let block = naming.current.mint_hashed(content);
                let older = naming.older.as_ref().map(|secret| secret.name(&block.reference().digest));
                (block, older)
            }
            Self::Edge { own, .. } => (own.mint_hashed(content), None),
        }
    }

    /// Returns the reference that may stand for a block of [`Minter::mint`], if the other side has it or can get it.
    pub fn known(&mut self, reference: &Reference) -> Option<Reference> {
        match self {
            Self::Core { neighbours, .. } => neighbours.knows(&reference.digest).then_some(*reference),
            Self::Edge { known, .. } => known.refer(&reference.digest).map(|named| reference.under(named)),
        }
    }

    /// Returns whether the other side may be told of a block of which it is sent a part. What a core names entitles to
    /// the whole: the edge was sent it before, or somebody was, of this version of this file, for which servers grant
    /// reading in whole. An edge names what its client has.
    ///
    /// That an edge *uploaded* a block is not enough, though it has shown every byte of it. It was never told the
    /// block's secret, and a core tells that for bytes that a server released alone, never for what an edge says. Else
    /// an edge could upload guesses, of which a server need release no more than the few bytes that everybody knows,
    /// and would have for each the tag by which to ask its neighbours whether they hold it (docs/threat-model.md,
    /// *Uploads*). So what was just written is read back in pieces as literals, once: they are sealed, and the edge
    /// then has the block by the core's own word.
    #[must_use]
    pub fn may_name_part(&self, digest: &Digest, same_version: bool) -> bool {
        match self {
            Self::Core { neighbours, .. } => {
                same_version || neighbours.record().knows(digest) == Knowledge::Held
            }
            Self::Edge { .. } => true,
        }
    }

    /// Returns the reference that goes with a block in full.
    #[must_use]
    pub fn in_full(&self, reference: &Reference) -> Reference {
        match self {
            Self::Core { .. } => *reference,
            Self::Edge { .. } => reference.under(UNNAMED),
        }
    }

    /// Returns the number by which the other side knows a reference, if it does.
    #[must_use]
    pub fn number(&self, reference: &Reference) -> Option<u64> {
        match self {
            Self::Core { numbers, .. } => numbers.find(reference),
            // By whatever name it went: numbers are for content.
            Self::Edge { numbers, .. } => numbers.find(&reference.under(UNNAMED)),
        }
    }

    /// Notes that the other side knows a number.
    pub fn confirm(&self, number: u64) {
        let (Self::Core { numbers, .. } | Self::Edge { numbers, .. }) = self;
        numbers.confirm(number);
    }

    /// Returns the number of a reference that goes out.
    pub fn introduce(&self, reference: &Reference) -> u64 {
        match self {
            Self::Core { neighbours, numbers, .. } => {
                neighbours.handle_named(&reference.digest);
                numbers.assign(reference)
            }
            Self::Edge { numbers, .. } => numbers.assign(&reference.under(UNNAMED)),
        }
    }

    /// Notes that a block goes out in full. Exactly one of the next two calls follows for it.
    pub fn handle_sent(&self, digest: &Digest) {
        if let Self::Core { neighbours, .. } = self {
            neighbours.handle_sent(digest);
        }
    }

    /// Notes that the other side has a block that went out in full.
    pub fn handle_taken(&self, digest: &Digest) {
        match self {
            Self::Core { neighbours, .. } => neighbours.handle_received(digest),
            Self::Edge { known, .. } => known.learn(digest, None),
        }
    }

    /// Notes that a block that went out in full may not have arrived.
    pub fn handle_lost(&self, digest: &Digest) {
        if let Self::Core { neighbours, .. } = self {
            neighbours.handle_lost(digest);
        }
    }

    /// Notes that the other side has a block, wherever it took it from.
    pub fn handle_resolved(&self, digest: &Digest) {
        match self {
            Self::Core { neighbours, .. } => neighbours.record().learn(digest),
            Self::Edge { known, .. } => known.learn(digest, None),
        }
    }

    /// Returns where the other side may get a block, if `refer` asks for it and it is not from here.
    pub fn refer(&mut self, digest: &Digest, refer: bool) -> Option<Referral> {
        match self {
            Self::Core { neighbours, .. } if refer => neighbours.refer(digest),
            Self::Core { .. } | Self::Edge { .. } => None,
        }
    }

    /// Notes that the other side does not have a block, nor an edge that it was referred to for it.
    pub fn handle_missed(&self, digest: &Digest, referred: Option<NodeId>) {
        match self {
            Self::Core { neighbours, .. } => {
                if let Some(node) = referred {
                    neighbours.forget(node, digest);
                }
                neighbours.handle_missed(digest);
            }
            Self::Edge { known, .. } => known.forget(digest),
        }
    }

    /// Returns what a new flow knows of the blocks of which nothing is known.
    #[must_use]
    pub fn guessing(&self) -> Guessing {
        match self {
            Self::Core { neighbours, .. } => Guessing::new(neighbours.asking()),
            Self::Edge { .. } => Guessing::default(),
        }
    }

    /// Returns whether the other side may be sent elsewhere for blocks.
    #[must_use]
    pub fn refers(&self) -> bool {
        matches!(self, Self::Core { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::referral::Holders;

    #[test]
    fn a_part_of_what_an_edge_uploaded_names_the_block_only_once_the_server_released_all_of_it() {
        let holders = Arc::new(Holders::new(100, Vec::new()));
        let holder = holders.of(NodeId([1; 32]), &"lisbon".parse().unwrap()).unwrap();
        let naming = Naming { current: ServerSecret::new([1; 32]), older: None };
        let mut minter = Minter::Core {
            naming: Arc::new(RwLock::new(naming)),
            neighbours: Neighbours::new(holders, Arc::clone(&holder), 0),
            numbers: Arc::default(),
        };
        let (block, _) = minter.mint(Hashed::of(vec![7; 9000].into()));
        let digest = block.reference().digest;
        holder.handle_given(&digest);
        assert!(minter.known(block.reference()).is_some(), "the whole may be named");
        assert!(!minter.may_name_part(&digest, false));
        assert!(minter.may_name_part(&digest, true), "who may read a part may read the rest");
        minter.handle_sent(&digest);
        assert!(!minter.may_name_part(&digest, false), "the edge has not said that it took it");
        minter.handle_taken(&digest);
        assert!(minter.may_name_part(&digest, false));
    }
}
