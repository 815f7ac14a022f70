//! The sender's side of a flow's credit: how many frame bytes may still go out. The receiver's side, which says what
//! it is for, is `window.rs`.

use bytes::Bytes;
use wanigan_parsers::wan::Frame;

use super::window::CREDIT_BASE;

/// Credit given and used, as totals since the flow began.
#[derive(Debug)]
pub struct Credit {
    given: u64,
    used: u64,
}

impl Credit {
    /// Makes the credit of a flow that may send `given` frame bytes at first.
    #[must_use]
    pub fn new(given: u64) -> Self {
        Self { given: given.min(TOTAL_MAX), used: 0 }
    }

    /// Takes the total that the other side has given. An older report changes nothing.
    pub fn handle_given(&mut self, total: u64) {
        self.given = self.given.max(total.min(TOTAL_MAX));
    }

    /// Returns the frame bytes that may go out.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.given.saturating_sub(self.used)
    }

    /// Uses credit for a frame.
    pub fn spend(&mut self, cost: u64) {
        self.used += cost;
    }

    /// Returns what an idle flow has beyond its base and can give back.
    #[must_use]
    pub fn spare(&self) -> u64 {
        self.room().saturating_sub(CREDIT_BASE)
    }
}

/// Returns the credit that a frame uses: what it is likely to occupy at the receiver.
#[must_use]
pub fn frame_cost(frame: &Frame<Bytes>) -> u64 {
    match frame {
        Frame::Literal(bytes) | Frame::Data { bytes, .. } => bytes.len() as u64 + FRAME_OVERHEAD,
        Frame::Ref { .. } | Frame::Slice { .. } => FRAME_OVERHEAD,
        Frame::Run { count, .. } => u64::from(*count) * FRAME_OVERHEAD,
        _ => 0,
    }
}

/// Credit that a frame uses beside its content, in bytes: its place in the receiver's queue.
pub const FRAME_OVERHEAD: u64 = 160;

/// No flow lives to use so much; keeps sums with what another node claims in range.
const TOTAL_MAX: u64 = u64::MAX / 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_reports_take_nothing_back_and_none_is_beyond_measure() {
        let mut credit = Credit::new(1000);
        credit.spend(900);
        credit.handle_given(500);
        assert_eq!((credit.room(), credit.spare()), (100, 0));
        credit.handle_given(900 + CREDIT_BASE + 7);
        assert_eq!(credit.spare(), 7);
        credit.handle_given(u64::MAX);
        credit.spend(credit.spare());
        assert_eq!(credit.room(), CREDIT_BASE);
    }
}
