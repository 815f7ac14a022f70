//! On what terms a flow's receiver takes references.
//!
//! A core's are taken at its word: it names what a server has just released to the client of that very flow. An edge's
//! are judged before anything else happens, since to resolve one from the core's store is to give away a block: see
//! [`matching::uploads`](crate::matching::uploads) for what makes an edge entitled. What is refused resets the flow on
//! both legs, and no byte of the block reaches the server.

use std::sync::{Arc, PoisonError, RwLock};

use crate::block::{Block, Digest, KeyId, Named, Naming, Reference};
use crate::matching::uploads::{KnownOnLink, UNNAMED};
use crate::proof::agree;
use crate::referral::Holder;

/// The sender's side of the link, as its receiver sees it.
#[derive(Debug, Default)]
pub enum Terms {
    /// A core, whose word is taken.
    #[default]
    OfCore,
    /// A core, whose word is taken and remembered: what it names, this edge may refer to in uploads.
    OfRememberedCore(KnownOnLink),
    /// An edge, which has to be entitled to what it names.
    OfEdge(Entitlement),
}

/// What a core knows of one edge's right to blocks.
#[derive(Debug)]
pub struct Entitlement {
    /// The core's server secrets.
    pub naming: Arc<RwLock<Naming>>,
    /// The edge.
    pub holder: Arc<Holder>,
}

/// An edge knows a digest, or guessed a secret, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the edge has no right to block {0:?}")]
pub struct NotEntitled(pub Digest);

impl Terms {
    /// Judges a reference, and returns the names that the receiver's own store has the block by.
    ///
    /// # Errors
    /// [`NotEntitled`] when the flow must be reset.
    pub fn admit(
        &self,
        reference: Reference,
        older: Option<Named>,
    ) -> Result<(Reference, Option<Named>), NotEntitled> {
        match self {
            Self::OfCore => Ok((reference, older)),
            Self::OfRememberedCore(known) => {
                known.learn(&reference.digest, Some(named(&reference)));
                Ok((reference, older))
            }
            Self::OfEdge(entitlement) => entitlement.admit(&reference),
        }
    }

    /// Takes a block that came in full or was put together from what came, and returns it under the name that the
    /// receiver's own store is to have it by.
    #[must_use]
    pub fn take(&self, block: Block) -> Block {
        match self {
            Self::OfCore => block,
            Self::OfRememberedCore(known) => {
                known.learn(&block.reference().digest, Some(named(block.reference())));
                block
            }
            Self::OfEdge(entitlement) => entitlement.take(block),
        }
    }
}

impl Entitlement {
    fn admit(&self, reference: &Reference) -> Result<(Reference, Option<Named>), NotEntitled> {
        let digest = &reference.digest;
        let (current, older) = self.names(digest);
        let crossed = self.holder.crossed();
        let entitled = if reference.key == KeyId::PLAIN {
            reference.secret == UNNAMED.secret && crossed.contains(digest)
        } else {
            let mut good = std::iter::once(current).chain(older);
            good.any(|good| good.key == reference.key && agree(&good.secret.0, &reference.secret.0))
        };
        if !entitled {
            return Err(NotEntitled(*digest));
        }
        crossed.insert(digest);
        Ok((reference.under(current), older))
    }

    fn take(&self, block: Block) -> Block {
        let reference = *block.reference();
        self.holder.handle_given(&reference.digest);
        let (current, _) = self.names(&reference.digest);
        block.under(reference.under(current)).expect("another name is of the same content")
    }

    fn names(&self, digest: &Digest) -> (Named, Option<Named>) {
        let naming = self.naming.read().unwrap_or_else(PoisonError::into_inner);
        (naming.current.name(digest), naming.older.as_ref().map(|secret| secret.name(digest)))
    }
}

fn named(reference: &Reference) -> Named {
    Named { key: reference.key, secret: reference.secret }
}
