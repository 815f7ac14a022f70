//! What a flow's receiver keeps of the bytes that came as LITERAL, so that a SEAL can say which of them are a block.
//!
//! The sender of a SEAL had the bytes in pieces too small to be worth a block each, and had to send them before the
//! block was whole. Here they are kept for a while after they went to the leg: the newest [`SEAL_WINDOW`] bytes, for as
//! long as the flow is in use, and only where the node has memory to spare. A SEAL that names what is not here
//! stores nothing; it costs a block that crosses again, never a byte of anybody's stream.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{SEAL_WINDOW, SealSpan};

use crate::budget::{Budget, Reservation};

/// A SEAL names bytes that did not come yet, or more than came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("seal of bytes that did not come")]
pub struct NotYetCome;

/// The newest literals of a flow.
#[derive(Debug)]
pub struct Recent {
    pieces: VecDeque<Piece>,
    /// Bytes of `pieces`.
    bytes: usize,
    reservation: Reservation,
    /// Bytes that the flow carried in this direction.
    carried: u64,
    /// Bytes that came as LITERAL and that no SEAL named yet, of the newest.
    unsealed: u64,
    /// When what is kept was of no use for so long that it goes.
    deadline: Option<Instant>,
}

/// One literal. Its bytes are an allocation of their own, as every frame's are, so its length is what it costs.
#[derive(Debug)]
struct Piece {
    offset: u64,
    bytes: Bytes,
}

impl Recent {
    /// Makes one that takes its memory from `budget`.
    ///
    /// # Panics
    /// Never: an empty reservation always fits.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        Self {
            pieces: VecDeque::new(),
            bytes: 0,
            reservation: budget.reserve(0).expect("nothing always fits"),
            carried: 0,
            unsealed: 0,
            deadline: None,
        }
    }

    /// Takes note of bytes that came in other frames than LITERAL.
    pub fn handle_named(&mut self, bytes: u64) {
        self.carried += bytes;
    }

    /// Keeps a literal, if there is room.
    pub fn handle_literal(&mut self, bytes: &Bytes, now: Instant) {
        let offset = self.carried;
        self.carried += bytes.len() as u64;
        self.unsealed = (self.unsealed + bytes.len() as u64).min(SEAL_WINDOW as u64);
        while self.bytes + bytes.len() > SEAL_WINDOW || self.pieces.len() >= PIECES_MAX {
            if !self.drop_oldest() {
                break;
            }
        }
        let budget = self.reservation.budget();
        // Half of the node's memory stays for what flows cannot do without.
        if budget.free() < budget.limit() / 2 || !self.reservation.grow(cost(bytes)) {
            self.clear();
            return;
        }
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { offset, bytes: bytes.clone() });
        self.deadline = Some(now + KEPT_FOR);
    }

    /// Drops what is kept when its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.clear();
        }
    }

    /// Returns when [`Recent::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the bytes of a SEAL's spans, or `None` where some of them are not kept.
    ///
    /// # Errors
    /// [`NotYetCome`] if a span ends beyond what came, or if literals are named more than once: so that nobody makes
    /// this node hash and store more than it was sent.
    pub fn handle_seal(&mut self, spans: &[SealSpan]) -> Result<Option<Bytes>, NotYetCome> {
        let ends_early = |span: &SealSpan| {
            span.offset.checked_add(u64::from(span.len)).is_some_and(|end| end <= self.carried)
        };
        if !spans.iter().all(ends_early) {
            return Err(NotYetCome);
        }
        let len: u64 = spans.iter().map(|span| u64::from(span.len)).sum();
        self.unsealed = self.unsealed.checked_sub(len).ok_or(NotYetCome)?;
        let mut block = Vec::with_capacity(usize::try_from(len).map_err(|_| NotYetCome)?);
        let whole = spans.iter().all(|span| self.gather(*span, &mut block));
        Ok(whole.then(|| block.into()))
    }

    /// Appends the bytes of a span. Returns whether all of them are kept.
    fn gather(&self, span: SealSpan, out: &mut Vec<u8>) -> bool {
        let (mut at, end) = (span.offset, span.offset + u64::from(span.len));
        let first = self.pieces.partition_point(|piece| piece.end() <= at);
        for piece in self.pieces.range(first..) {
            if at == end || piece.offset > at {
                break;
            }
            let upto = end.min(piece.end());
            out.extend_from_slice(&piece.bytes[piece.place(at)..piece.place(upto)]);
            at = upto;
        }
        at == end
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(piece) = self.pieces.pop_front() else { return false };
        self.bytes -= piece.bytes.len();
        self.reservation.shrink(cost(&piece.bytes));
        true
    }

    fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.bytes = 0;
        self.reservation.shrink(self.reservation.bytes());
        self.deadline = None;
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Returns where an offset of the flow is in this piece, which has it.
    fn place(&self, offset: u64) -> usize {
        usize::try_from(offset - self.offset).expect("inside of a literal")
    }
}

/// What a literal occupies here.
fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + PIECE_OVERHEAD
}

/// Literals kept at most: what is shorter than a packet each is not what blocks are made of.
const PIECES_MAX: usize = 4096;

/// Memory for a literal beside its bytes.
const PIECE_OVERHEAD: u64 = 96;

/// How long literals are kept after the last one came.
const KEPT_FOR: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;

    #[test]
    fn a_seal_gathers_bytes_across_literals_and_around_what_came_otherwise() {
        let mut recent = Recent::new(&budget(64 << 20));
        give(&mut recent, b"head:abc");
        give(&mut recent, b"def");
        recent.handle_named(1000);
        give(&mut recent, b"xghi");
        assert_eq!(recent.handle_seal(&[span(1012, 3), span(5, 6)]), Ok(Some("ghiabcdef".into())));
        // What a reference stood for is not here.
        assert_eq!(recent.handle_seal(&[span(9, 3)]), Ok(None));
        assert_eq!(recent.handle_seal(&[span(1010, 2)]), Ok(None));
    }

    #[test]
    fn what_did_not_come_cannot_be_sealed_and_nothing_twice() {
        let mut recent = Recent::new(&budget(64 << 20));
        give(&mut recent, b"0123456789");
        assert_eq!(recent.handle_seal(&[span(5, 6)]), Err(NotYetCome));
        assert_eq!(recent.handle_seal(&[span(u64::MAX, 1)]), Err(NotYetCome));
        assert!(recent.handle_seal(&[span(0, 8)]).unwrap().is_some());
        assert_eq!(recent.handle_seal(&[span(0, 3)]), Err(NotYetCome));
        assert!(recent.handle_seal(&[span(8, 2)]).unwrap().is_some());
        // Nor can a sender save up.
        for _ in 0..20 {
            give(&mut recent, &[7; 64 << 10]);
        }
        let sealed = (0..20).filter(|n| recent.handle_seal(&[span(10 + n * (64 << 10), 64 << 10)]).is_ok());
        assert_eq!(sealed.count(), SEAL_WINDOW / (64 << 10));
    }

    #[test]
    fn the_newest_bytes_are_kept_and_their_memory_is_counted() {
        let budget = budget(64 << 20);
        let mut recent = Recent::new(&budget);
        for n in 0..40_u8 {
            give(&mut recent, &vec![n; 60_000]);
        }
        let kept = SEAL_WINDOW / 60_000;
        assert_eq!((64 << 20) - budget.free(), kept as u64 * (60_000 + PIECE_OVERHEAD));
        let newest = 40 * 60_000;
        let oldest_kept = newest - kept as u64 * 60_000;
        assert_eq!(recent.handle_seal(&[span(oldest_kept - 1, 2)]), Ok(None));
        assert_eq!(recent.handle_seal(&[span(oldest_kept, 1)]), Ok(Some(vec![40 - kept as u8].into())));
        assert_eq!(recent.handle_seal(&[span(newest - 1, 1)]), Ok(Some(vec![39].into())));
        for _ in 0..3 * PIECES_MAX {
            give(&mut recent, b"x");
        }
        assert_eq!(recent.pieces.len(), PIECES_MAX);
        drop(recent);
        assert_eq!(budget.free(), 64 << 20);
    }

    #[test]
    fn an_idle_flow_and_a_busy_node_keep_nothing() {
        let budget = budget(1 << 20);
        let mut recent = Recent::new(&budget);
        give(&mut recent, b"abc");
        let due = recent.poll_timeout().expect("something is kept");
        recent.handle_timeout(due);
        assert_eq!((recent.poll_timeout(), budget.free()), (None, 1 << 20));
        assert_eq!(recent.handle_seal(&[span(0, 1)]), Ok(None));

        give(&mut recent, b"def");
        let others = budget.reserve(600 << 10).unwrap();
        give(&mut recent, b"ghi");
        assert_eq!(budget.free(), 424 << 10);
        drop(others);
        give(&mut recent, b"jkl");
        assert_eq!(recent.handle_seal(&[span(8, 1)]), Ok(None));
        assert_eq!(recent.handle_seal(&[span(9, 3)]), Ok(Some("jkl".into())));
    }

    fn give(recent: &mut Recent, bytes: &[u8]) {
        recent.handle_literal(&Bytes::copy_from_slice(bytes), Instant::now());
    }

    fn span(offset: u64, len: u32) -> SealSpan {
        SealSpan { offset, len }
    }

    fn budget(limit: u64) -> Budget {
        Budget::new(limit, IntGauge::new("used", "test").unwrap())
    }
}
