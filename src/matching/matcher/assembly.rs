//! Cells whose bytes went on before the cell was whole: put together here, so that they can be sealed as a block.
//!
//! Bounded: so many cells at once ([`ASSEMBLIES_MAX`]), each with room from the node's budget; without room nothing is
//! put together. Only bytes that the receiver still has in its window ([`SEAL_WINDOW`]) are sealed. A cell that is not
//! made whole for a while is sealed as far as it stands without a gap, if that is worth a reference.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan_parsers::wan::{SEAL_SPANS_MAX, SEAL_WINDOW, SealSpan};

use super::CELL_BYTES;
use crate::budget::{Budget, Reservation};
use crate::object::Object;

/// Cells that are put together at once.
const ASSEMBLIES_MAX: usize = 8;

/// The least that is sealed, in bytes.
const SEAL_BYTES_MIN: usize = 512;

/// How long nothing may happen before what stands is sealed: longer than the round trip between two reads.
const IDLE: Duration = Duration::from_millis(250);

/// The cells of one direction of a flow.
#[derive(Debug)]
pub(super) struct Assemblies {
    budget: Budget,
    /// The one used last is at the back.
    cells: VecDeque<Assembly>,
    /// Bytes that went on as they were since the flow began.
    literal: u64,
    deadline: Option<Instant>,
}

/// Bytes to be sealed, and where they are in their object and in the direction.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) object: Object,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    pub(super) spans: Vec<SealSpan>,
}

#[derive(Debug)]
struct Assembly {
    object: Object,
    cell: u64,
    bytes: Vec<u8>,
    /// In the order of the cell; none overlaps another.
    parts: Vec<Part>,
    /// Where the object ends, if that is in this cell and known.
    end: Option<usize>,
    _room: Reservation,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    /// Offset of its first byte in the direction.
    at: u64,
    /// Bytes that had gone on as they were before it.
    literal: u64,
}

impl Assemblies {
    pub(super) fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), cells: VecDeque::new(), literal: 0, deadline: None }
    }

    /// Notes bytes that went on as they are and are not to be sealed.
    pub(super) fn handle_other(&mut self, bytes: usize) {
        self.literal += bytes as u64;
    }

    /// Notes content that went on as it is, from `at` on in the direction. Returns what stands whole now.
    pub(super) fn handle_passed(
        &mut self,
        object: Object,
        mut offset: u64,
        bytes: &[u8],
        mut at: u64,
        ends: bool,
    ) -> Vec<Sealed> {
        self.deadline = None;
        let (mut rest, mut sealed) = (bytes, Vec::new());
        while !rest.is_empty() {
            let room = super::room(offset);
            let (part, behind) = rest.split_at(room.min(rest.len()));
            sealed.extend(self.add(object, offset, part, at, ends && behind.is_empty()));
            (offset, at, rest) = (offset.wrapping_add(part.len() as u64), at + part.len() as u64, behind);
        }
        sealed
    }

    /// Returns whether content at this offset goes on where a cell stands that is not whole.
    pub(super) fn goes_on(&self, object: Object, offset: u64) -> bool {
        let within = within(offset);
        self.find(object, offset - within as u64)
            .is_some_and(|index| self.cells[index].parts.iter().any(|part| part.end == within))
    }

    /// The leg has nothing to say at this moment.
    pub(super) fn handle_wait(&mut self, now: Instant) {
        if self.deadline.is_none() && !self.cells.is_empty() {
            self.deadline = Some(now + IDLE);
        }
    }

    /// Returns what is sealed because nothing more comes.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Sealed> {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return Vec::new();
        }
        self.handle_end()
    }

    /// Returns what is sealed because no more bytes come: nothing is to be said of them after that.
    pub(super) fn handle_end(&mut self) -> Vec<Sealed> {
        self.deadline = None;
        let literal = self.literal;
        self.cells.drain(..).filter_map(|cell| cell.seal(literal)).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn add(&mut self, object: Object, offset: u64, bytes: &[u8], at: u64, ends: bool) -> Vec<Sealed> {
        let before = self.literal;
        self.literal += bytes.len() as u64;
        let start = within(offset);
        let cell = offset - start as u64;
        let mut found = self.find(object, cell).and_then(|index| self.cells.remove(index));
        let mut sealed = Vec::new();
        if found.as_ref().is_some_and(|cell| cell.parts.len() >= SEAL_SPANS_MAX) {
            sealed.extend(found.take().and_then(|full| full.seal(before)));
        }
        let Some(mut assembly) = found.or_else(|| self.begin(object, cell)) else { return sealed };
        let part = Part { start, end: start + bytes.len(), at, literal: before };
        if ends {
            assembly.end = Some(part.end);
        }
        let literal = self.literal;
        if assembly.put(part, bytes) && assembly.is_whole() {
            sealed.extend(assembly.seal(literal));
            return sealed;
        }
        self.cells.push_back(assembly);
        if self.cells.len() > ASSEMBLIES_MAX {
            sealed.extend(self.cells.pop_front().and_then(|oldest| oldest.seal(literal)));
        }
        sealed
    }

    fn begin(&self, object: Object, cell: u64) -> Option<Assembly> {
        let room = self.budget.reserve_spare(CELL_BYTES as u64)?;
        let (bytes, parts) = (Vec::new(), Vec::new());
        Some(Assembly { object, cell, bytes, parts, end: None, _room: room })
    }

    fn find(&self, object: Object, cell: u64) -> Option<usize> {
        self.cells.iter().rposition(|one| one.cell == cell && one.object == object)
    }
}

impl Assembly {
    /// Adds a part. One that overlaps another begins anew, unless it says nothing new. Returns whether it was added.
    fn put(&mut self, part: Part, bytes: &[u8]) -> bool {
        if self.parts.iter().any(|known| known.start <= part.start && part.end <= known.end) {
            return false;
        }
        let overlaps = self.parts.iter().any(|known| known.start < part.end && part.start < known.end);
        if overlaps {
            self.parts.clear();
        }
        if self.bytes.len() < part.end {
            self.bytes.resize(part.end, 0);
        }
        self.bytes[part.start..part.end].copy_from_slice(bytes);
        let index = self.parts.partition_point(|known| known.start < part.start);
        self.parts.insert(index, part);
        true
    }

    fn is_whole(&self) -> bool {
        let run = self.run();
        self.parts[0].start == 0 && run.end == self.end.unwrap_or(CELL_BYTES)
    }

    /// Returns the part from the first byte to the first gap.
    fn run(&self) -> Part {
        let mut run = self.parts[0];
        for part in &self.parts[1..] {
            if part.start != run.end {
                break;
            }
            run.end = part.end;
        }
        run
    }

    /// Returns what stands without a gap, if the receiver has it and it is worth it.
    fn seal(self, literal: u64) -> Option<Sealed> {
        let run = self.run();
        let parts = self.parts.iter().take_while(|part| part.end <= run.end);
        let reach = parts.clone().map(|part| literal - part.literal.min(literal)).max().unwrap_or(0);
        // Slices that are denied are counted late: half the window leaves room for those.
        if run.end - run.start < SEAL_BYTES_MIN || reach > SEAL_WINDOW as u64 / 2 {
            return None;
        }
        let mut spans: Vec<SealSpan> = Vec::new();
        for part in parts {
            let len = u32::try_from(part.end - part.start).expect("no longer than a cell");
            match spans.last_mut() {
                Some(last) if last.offset + u64::from(last.len) == part.at => last.len += len,
                _ => spans.push(SealSpan { offset: part.at, len }),
            }
        }
        let Self { object, cell, bytes, .. } = self;
        let bytes = Bytes::from(bytes).slice(run.start..run.end);
        Some(Sealed { object, offset: cell + run.start as u64, bytes, spans })
    }
}

/// Returns where in its cell an offset is.
fn within(offset: u64) -> usize {
    CELL_BYTES - super::room(offset)
}
