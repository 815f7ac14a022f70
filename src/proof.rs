//! Proofs that a node holds a block's hash, and the window that keeps old proofs from being used again. No I/O.
//!
//! Every proof is HMAC-SHA-256 under the hash `H` itself over fields of fixed length, a label first. So a proof of one
//! kind is none of another, nothing about `H` can be read off a proof, and no two different statements have the same
//! bytes. What each proof says:
//!
//! | proof | who shows it to whom | binds |
//! |--|--|--|
//! | [`ask`] | requester, in a datagram to everybody | tag, nonce, time, requester |
//! | [`have`] | responder, in a datagram to the requester | tag, both nonces, both nodes, time, "soon" |
//! | [`get`] | requester, inside TLS to the responder | tag, this very TLS connection |
//! | [`rekey`] | edge, on the link to a core | tag, this very link |
//! | [`rekeyed`] | core, on the link to the edge | tag, this very link, the block's new name |
//!
//! Time is the domain's: milliseconds since 1970 as the core of the key id counts them (see the link's WELCOME), so
//! a node's own clock may be wrong by hours.

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::addr::NodeId;
use crate::block::{BlockHash, Named, Tag};

/// A number used once, chosen at random by whoever sends it.
pub type Nonce = [u8; 16];

/// A proof on the wire.
pub type Proof = [u8; 32];

/// What binds a proof to one TLS connection: exported keying material (RFC 8446 section 7.5).
pub type Exporter = [u8; 32];

/// Label of the exported keying material that [`get`] binds.
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL wanigan get v1";

/// Label of the exported keying material that [`rekey`] and [`rekeyed`] bind.
pub const LINK_EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL wanigan rekey v1";

/// The statement of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The requester's nonce.
    pub nonce: Nonce,
    /// The domain's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who asks.
    pub requester: NodeId,
}

/// The statement of an answer to an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Have {
    /// What was asked.
    pub ask: Ask,
    /// The responder's nonce.
    pub nonce: Nonce,
    /// Who answers.
    pub responder: NodeId,
    /// Whether the block is still on its way to the responder.
    pub soon: bool,
}

/// Proves to everybody who holds the hash that the requester does.
#[must_use]
pub fn ask(hash: &BlockHash, tag: &Tag, ask: &Ask) -> Proof {
    let time = ask.time_ms.to_be_bytes();
    hash.authenticate(&[b"wanigan ask v1", &tag.0, &ask.nonce, &time, &ask.requester.0])
}

/// Proves to the requester that the responder holds the hash.
#[must_use]
pub fn have(hash: &BlockHash, tag: &Tag, have: &Have) -> Proof {
    let time = have.ask.time_ms.to_be_bytes();
    let soon = [u8::from(have.soon)];
    hash.authenticate(&[
        b"wanigan have v1",
        &tag.0,
        &have.ask.nonce,
        &have.nonce,
        &have.ask.requester.0,
        &have.responder.0,
        &time,
        &soon,
    ])
}

/// Proves to the other end of a TLS connection, and to nobody else, that the requester holds the hash.
#[must_use]
pub fn get(hash: &BlockHash, tag: &Tag, exporter: &Exporter) -> Proof {
    hash.authenticate(&[b"wanigan get v1", &tag.0, exporter])
}

/// Proves to the core at the other end of a link that the edge was given the block's older name, to which hash and tag
/// belong.
#[must_use]
pub fn rekey(hash: &BlockHash, tag: &Tag, exporter: &Exporter) -> Proof {
    hash.authenticate(&[b"wanigan rekey v1", &tag.0, exporter])
}

/// Proves to the edge at the other end of a link that the core knows the block's older name, and gives it a new one.
#[must_use]
pub fn rekeyed(hash: &BlockHash, tag: &Tag, exporter: &Exporter, new: &Named) -> Proof {
    hash.authenticate(&[b"wanigan rekeyed v1", &tag.0, exporter, &new.key.0, &new.secret.0])
}

/// Compares two proofs in constant time.
#[must_use]
pub fn agree(one: &Proof, other: &Proof) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

/// Why an ask is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// Its time is further from ours than [`WINDOW_MS`].
    Time,
    /// Its time is from before this window began: a nonce of then may have been forgotten.
    BeforeStart,
    /// Its nonce was seen.
    Replayed,
    /// So many nonces were seen that another could not be remembered.
    Full,
}

/// How far the time of an ask may be from ours, in milliseconds, either way.
pub const WINDOW_MS: u64 = 60_000;

/// Nonces of verified asks that are remembered at most; each is forgotten after twice [`WINDOW_MS`].
pub const NONCES_MAX: usize = 1 << 16;

/// Tells fresh asks from old and repeated ones.
///
/// A nonce is recorded by [`ReplayWindow::record`] only, after a proof was verified, so that nobody without a hash can
/// fill the table.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The domain's time when this window began.
    start_ms: u64,
    seen: HashSet<(NodeId, Nonce)>,
    /// The same in the order they came, with the time after which each may be forgotten.
    order: VecDeque<(u64, (NodeId, Nonce))>,
}

impl ReplayWindow {
    /// Begins a window at a time of the domain.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { start_ms: now_ms, seen: HashSet::new(), order: VecDeque::new() }
    }

    /// Checks an ask at a time of the domain.
    ///
    /// # Errors
    /// [`Stale`] says why it is to be met with silence.
    pub fn check(&mut self, ask: &Ask, now_ms: u64) -> Result<(), Stale> {
        while self.order.front().is_some_and(|(until, _)| *until < now_ms) {
            if let Some((_, key)) = self.order.pop_front() {
                self.seen.remove(&key);
            }
        }
        if ask.time_ms.abs_diff(now_ms) > WINDOW_MS {
            Err(Stale::Time)
        } else if ask.time_ms < self.start_ms {
            Err(Stale::BeforeStart)
        } else if self.seen.contains(&(ask.requester, ask.nonce)) {
            Err(Stale::Replayed)
        } else if self.seen.len() >= NONCES_MAX {
            Err(Stale::Full)
        } else {
            Ok(())
        }
    }

    /// Remembers an ask of which a proof was verified.
    pub fn record(&mut self, ask: &Ask, now_ms: u64) {
        let key = (ask.requester, ask.nonce);
        if self.seen.len() < NONCES_MAX && self.seen.insert(key) {
            self.order.push_back((now_ms.saturating_add(2 * WINDOW_MS), key));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::{ServerSecret, tag};

    #[test]
    fn a_proof_agrees_only_with_itself_in_every_field() {
        let (hash, tag) = block(1);
        let asked = Ask { nonce: [1; 16], time_ms: 5, requester: NodeId([2; 32]) };
        let had = Have { ask: asked, nonce: [3; 16], responder: NodeId([4; 32]), soon: false };
        let proof = ask(&hash, &tag, &asked);
        assert!(agree(&proof, &ask(&hash, &tag, &asked)));
        for other in [
            Ask { nonce: [9; 16], ..asked },
            Ask { time_ms: 6, ..asked },
            Ask { requester: NodeId([9; 32]), ..asked },
        ] {
            assert!(!agree(&proof, &ask(&hash, &tag, &other)));
        }
        let proof = have(&hash, &tag, &had);
        for other in [
            Have { nonce: [9; 16], ..had },
            Have { responder: NodeId([9; 32]), ..had },
            Have { soon: true, ..had },
            Have { ask: Ask { nonce: [9; 16], ..asked }, ..had },
        ] {
            assert!(!agree(&proof, &have(&hash, &tag, &other)));
        }
        let (other_hash, other_tag) = block(2);
        assert!(!agree(&get(&hash, &tag, &[7; 32]), &get(&hash, &tag, &[8; 32])));
        assert!(!agree(&get(&hash, &tag, &[7; 32]), &get(&other_hash, &tag, &[7; 32])));
        assert!(!agree(&get(&hash, &tag, &[7; 32]), &get(&hash, &other_tag, &[7; 32])));
    }

    #[test]
    fn old_early_and_repeated_asks_are_stale() {
        let now = 1_000_000;
        let mut window = ReplayWindow::new(now);
        let fresh = Ask { nonce: [1; 16], time_ms: now, requester: NodeId([2; 32]) };
        assert_eq!(window.check(&fresh, now), Ok(()));
        assert_eq!(window.check(&fresh, now), Ok(()), "what was not verified is not remembered");
        window.record(&fresh, now);
        assert_eq!(window.check(&fresh, now), Err(Stale::Replayed));
        assert_eq!(
            window.check(&Ask { time_ms: now - 1, nonce: [2; 16], ..fresh }, now),
            Err(Stale::BeforeStart)
        );
        let later = now + WINDOW_MS + 1;
        assert_eq!(window.check(&fresh, later), Err(Stale::Time));
        assert_eq!(window.check(&Ask { time_ms: later + WINDOW_MS + 1, ..fresh }, later), Err(Stale::Time));
    }

    #[test]
    fn a_nonce_is_remembered_for_as_long_as_its_ask_could_be_fresh() {
        let now = 1_000_000;
        let mut window = ReplayWindow::new(0);
        let early = Ask { nonce: [1; 16], time_ms: now + WINDOW_MS, requester: NodeId([2; 32]) };
        window.record(&early, now);
        assert_eq!(window.check(&early, now + 2 * WINDOW_MS), Err(Stale::Replayed));
        assert_eq!(window.check(&early, now + 2 * WINDOW_MS + 1), Err(Stale::Time));
        assert!(window.seen.is_empty() && window.order.is_empty());
    }

    #[test]
    fn a_full_table_is_silence() {
        let mut window = ReplayWindow::new(0);
        let ask = |number: usize| {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&number.to_be_bytes());
            Ask { nonce, time_ms: 10, requester: NodeId([2; 32]) }
        };
        for number in 0..NONCES_MAX {
            window.record(&ask(number), 10);
        }
        assert_eq!(window.check(&ask(NONCES_MAX), 10), Err(Stale::Full));
        window.record(&ask(NONCES_MAX), 10);
        assert_eq!(window.seen.len(), NONCES_MAX);
    }

    fn block(fill: u8) -> (BlockHash, Tag) {
        let block = ServerSecret::new([7; 32]).mint(Bytes::from(vec![fill; 100]));
        (BlockHash::of(block.reference()), tag(block.reference()))
    }
}
