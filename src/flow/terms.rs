//! On what terms a flow's receiver takes references.
//!
//! A core's are taken at its word: it names what a server has just released to the client of that very flow. An edge's
//! are judged before anything else happens, since to resolve one from the core's store is to give away a block. With
//! the block's secret, or after the block crossed between the two (see
//! [`matching::uploads`](crate::matching::uploads)), the edge is entitled. Without either it has to show that it has the
//! bytes: the store is not asked, the edge is, and an edge that knows the digest alone has nothing to answer. A secret
//! that is wrong resets the flow at once. Either way no byte of the block reaches the server.

use std::sync::{Arc, PoisonError, RwLock};

use crate::block::{Block, Digest, KeyId, Named, Naming, Reference};
use crate::matching::uploads::KnownOnLink;
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

/// A reference as the receiver goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The name that this node's own store has the block by.
    pub reference: Reference,
    /// Its name under the older server secret.
    pub older: Option<Named>,
    /// Whether the store may be asked. Otherwise the block comes from its sender, who has to have it.
    pub entitled: bool,
}

/// A secret under a server secret of this core's that is not the block's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("forged secret of block {0:?}")]
pub struct Forged(pub Digest);

impl Terms {
    /// Judges a reference.
    ///
    /// # Errors
    /// [`Forged`] when the flow must be reset.
    pub fn admit(&self, reference: Reference, older: Option<Named>) -> Result<Admitted, Forged> {
        match self {
            Self::OfCore => {}
            Self::OfRememberedCore(known) => known.learn(&reference.digest, Some(named(&reference))),
            Self::OfEdge(entitlement) => return entitlement.admit(&reference),
        }
        Ok(Admitted { reference, older, entitled: true })
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
    fn admit(&self, reference: &Reference) -> Result<Admitted, Forged> {
        let digest = &reference.digest;
        let (current, older) = self.names(digest);
        let claimed = named(reference);
        // Under a secret that has ended it is no more than a digest, which is no reason to think ill of its sender.
        let known_key = std::iter::once(current).chain(older).find(|good| good.key == claimed.key);
        let has_secret = known_key.is_some_and(|good| agree(&good.secret.0, &claimed.secret.0));
        if known_key.is_some() && !has_secret {
            return Err(Forged(*digest));
        }
        let crossed = self.holder.crossed();
        let entitled = (has_secret && claimed.key != KeyId::PLAIN) || crossed.contains(digest);
        if entitled {
            crossed.insert(digest);
        }
        Ok(Admitted { reference: reference.under(current), older, entitled })
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
