//! The splitter: content is cut on a grid of 64 KiB of the object's offset.
//!
//! It takes the bytes of one direction with the spans a shim made of them and gives pieces in the same order: opaque
//! bytes, and candidates for blocks. A candidate is the part of one READ, body or chunk that lies in one cell of the
//! grid. The splitter holds at most one cell, and only while more content of the cell can follow at once: it is given
//! up when the content ends, when other bytes come between, or after [`HOLD`] of waiting for bytes that do not come.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::fault::OpaqueReason;
use crate::shim::{Span, SpanKind};

/// Bytes of a cell of the grid, and so the longest block this splitter makes.
pub const CELL_BYTES: usize = 64 << 10;

/// Content shorter than this costs less as it is than by reference.
pub const BLOCK_BYTES_MIN: usize = 4 << 10;

/// How long an unfinished cell waits for its next bytes: longer than a server's read from a disk takes, shorter than
/// anyone notices on a WAN.
pub const HOLD: Duration = Duration::from_millis(20);

/// Bytes of a flow, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// To be passed on as they are.
    Opaque(Bytes, OpaqueReason),
    /// Content that may become a block.
    Content(Bytes),
}

/// Cuts one direction of a flow.
#[derive(Debug, Default)]
pub struct Splitter {
    held: BytesMut,
    /// Object offset that continues `held`, or the cell that is passed on as it is after a stall.
    next_offset: u64,
    /// The rest of the current cell goes as it is, since its beginning already went.
    stalled: bool,
    deadline: Option<Instant>,
    pieces: VecDeque<Piece>,
}

impl Splitter {
    /// Takes the next bytes, partitioned by `spans`.
    ///
    /// # Panics
    /// If the spans do not sum to the bytes, which is a bug of the shim.
    pub fn handle_input(&mut self, mut bytes: Bytes, spans: &[Span]) {
        for span in spans {
            let run = bytes.split_to(span.len);
            match span.kind {
                SpanKind::Opaque(reason) => {
                    self.flush();
                    self.stalled = false;
                    self.pieces.push_back(Piece::Opaque(run, reason));
                }
                SpanKind::Content { offset, last, .. } => self.handle_content(&run, offset, last),
            }
        }
        assert!(bytes.is_empty(), "a shim's spans cover its input");
        self.deadline = None;
    }

    /// Begins to wait for the next bytes. Until this is called a pause is ours, not the server's.
    pub fn handle_wait(&mut self, now: Instant) {
        if self.deadline.is_none() && !self.held.is_empty() {
            self.deadline = Some(now + HOLD);
        }
    }

    /// Gives up waiting for the rest of a cell when its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            let held = mem::take(&mut self.held).freeze();
            self.pieces.push_back(Piece::Opaque(held, OpaqueReason::Stalled));
            self.stalled = true;
        }
    }

    /// Gives everything that is held: no more bytes will come.
    pub fn handle_end(&mut self) {
        self.flush();
        self.deadline = None;
    }

    /// Returns when [`Splitter::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the next piece.
    pub fn poll_piece(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    fn handle_content(&mut self, mut run: &[u8], mut offset: u64, last: bool) {
        if offset != self.next_offset {
            self.flush();
            self.stalled = false;
        }
        while !run.is_empty() {
            let room = CELL_BYTES - usize::try_from(offset % CELL_BYTES as u64).expect("less than a cell");
            let (part, rest) = run.split_at(room.min(run.len()));
            let ends_cell = part.len() == room;
            if self.stalled {
                self.pieces.push_back(Piece::Opaque(Bytes::copy_from_slice(part), OpaqueReason::Stalled));
                self.stalled = !ends_cell;
            } else {
                if self.held.is_empty() {
                    self.held.reserve(room);
                }
                self.held.extend_from_slice(part);
                if ends_cell {
                    self.flush();
                }
            }
            // Offsets are what a server said; the sum of two may be no offset.
            offset = offset.wrapping_add(part.len() as u64);
            run = rest;
        }
        self.next_offset = offset;
        if last {
            self.flush();
            self.stalled = false;
        }
    }

    fn flush(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let held = mem::take(&mut self.held).freeze();
        self.pieces.push_back(if held.len() < BLOCK_BYTES_MIN {
            Piece::Opaque(held, OpaqueReason::TooSmall)
        } else {
            Piece::Content(held)
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_read_is_cut_on_the_grid_of_the_file() {
        let pieces = split(
            &[Span::opaque(84, OpaqueReason::Framing), Span::content(100_000, 60_000, true)],
            &[100_084],
        );
        assert_eq!(lengths(&pieces), [84, 5_536, 65_536, 28_928]);
        assert!(matches!(pieces[1], Piece::Content(_)));
    }

    #[test]
    fn small_content_is_opaque() {
        let pieces = split(&[Span::content(4_095, 0, true)], &[4_095]);
        assert!(matches!(pieces[..], [Piece::Opaque(_, OpaqueReason::TooSmall)]));
    }

    #[test]
    fn what_is_held_goes_on_after_a_pause_and_so_does_the_rest_of_its_cell() {
        let start = Instant::now();
        let mut splitter = Splitter::default();
        splitter.handle_input(Bytes::from(vec![1; 10_000]), &[Span::content(10_000, 0, false)]);
        assert_eq!(splitter.poll_piece(), None);
        assert_eq!(splitter.poll_timeout(), None);
        splitter.handle_wait(start);
        splitter.handle_wait(start + HOLD / 2);
        assert_eq!(splitter.poll_timeout(), Some(start + HOLD));
        splitter.handle_timeout(start + HOLD);
        assert_eq!(splitter.poll_piece(), Some(Piece::Opaque(vec![1; 10_000].into(), OpaqueReason::Stalled)));
        let rest = CELL_BYTES - 10_000;
        splitter.handle_input(
            Bytes::from(vec![2; rest + CELL_BYTES]),
            &[Span::content(rest + CELL_BYTES, 10_000, true)],
        );
        assert_eq!(splitter.poll_piece(), Some(Piece::Opaque(vec![2; rest].into(), OpaqueReason::Stalled)));
        assert_eq!(splitter.poll_piece(), Some(Piece::Content(vec![2; CELL_BYTES].into())));
    }

    proptest! {
        #[test]
        fn content_that_comes_without_pause_is_cut_alike_however_it_arrives(
            runs in proptest::collection::vec((1usize..200_000, 0u64..300_000, any::<bool>()), 1..5),
            cuts in proptest::collection::vec(1usize..100_000, 1..8),
        ) {
            let spans: Vec<Span> = runs
                .iter()
                .map(|&(len, offset, content)| if content {
                    Span::content(len, offset, true)
                } else {
                    Span::opaque(len, OpaqueReason::Framing)
                })
                .collect();
            let total: usize = spans.iter().map(|span| span.len).sum();
            let whole = split(&spans, &[total]);
            let cut = split(&spans, &cuts);
            prop_assert_eq!(joined(&whole), joined(&cut));
            prop_assert_eq!(contents(&whole), contents(&cut));
        }
    }

    /// Feeds bytes that count up, in inputs of the given lengths over and over.
    fn split(spans: &[Span], cuts: &[usize]) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        let total: usize = spans.iter().map(|span| span.len).sum();
        let bytes: Bytes = (0..total).map(|i| (i % 251) as u8).collect();
        let (mut at, mut spans) = (0, spans.to_vec());
        for cut in cuts.iter().cycle() {
            if at == total {
                break;
            }
            let end = total.min(at + cut);
            splitter.handle_input(bytes.slice(at..end), &take_spans(&mut spans, end - at));
            at = end;
        }
        splitter.handle_end();
        std::iter::from_fn(|| splitter.poll_piece()).collect()
    }

    fn take_spans(spans: &mut Vec<Span>, mut len: usize) -> Vec<Span> {
        let mut taken = Vec::new();
        while len > 0 {
            let span = spans.remove(0);
            let part = span.len.min(len);
            let rest = span.len - part;
            taken.push(match span.kind {
                SpanKind::Opaque(reason) => Span::opaque(part, reason),
                SpanKind::Content { offset, last, .. } => Span::content(part, offset, last && rest == 0),
            });
            if rest > 0 {
                spans.insert(
                    0,
                    match span.kind {
                        SpanKind::Opaque(reason) => Span::opaque(rest, reason),
                        SpanKind::Content { offset, last, .. } => {
                            Span::content(rest, offset + part as u64, last)
                        }
                    },
                );
            }
            len -= part;
        }
        taken
    }

    fn bytes_of(piece: &Piece) -> &Bytes {
        match piece {
            Piece::Opaque(bytes, _) | Piece::Content(bytes) => bytes,
        }
    }

    fn lengths(pieces: &[Piece]) -> Vec<usize> {
        pieces.iter().map(|piece| bytes_of(piece).len()).collect()
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| bytes_of(piece).to_vec()).collect()
    }

    fn contents(pieces: &[Piece]) -> Vec<Bytes> {
        pieces
            .iter()
            .filter(|piece| matches!(piece, Piece::Content(_)))
            .map(|piece| bytes_of(piece).clone())
            .collect()
    }
}
