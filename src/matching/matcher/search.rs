//! The search for the place where a cursor can be set: what the map has at this offset, what it has behind a gap, and
//! where the anchors of the held bytes lead.
//!
//! A place is a guess until its block is there and agrees with the bytes: whoever searches gets [`Candidate`]s, one at
//! a time, and not more than [`CANDIDATES_MAX`] for anchors between two matches of a cell.

use std::collections::VecDeque;
use std::sync::PoisonError;

use super::super::anchors::{self, ANCHOR_BYTES, Gear};
use super::super::map::{ContentMap, Extent, MapHandle};
use super::SLICE_BYTES_MIN;
use crate::block::{Digest, Hashed};
use crate::object::Place;

/// Blocks that are looked at in vain for the anchors of what is held, before the next match or the next cell.
const CANDIDATES_MAX: u32 = 4;

/// Bytes between two extents that were no block, and some that agree by chance. What lies further on is found by anchors.
const GAP_BYTES_MAX: usize = 1 << 10;

/// Bytes that are searched for anchors at a time, so that an anchor that leads somewhere is tried before the next.
const STEP: usize = 1 << 10;

/// Where in the bytes that are held, and in the map, a search stands. It begins anew at each cut.
#[derive(Debug, Default)]
pub(super) struct Search {
    gear: Gear,
    /// Bytes of what is held that the gear has seen.
    scanned: usize,
    /// Anchors among them that were not looked up yet.
    anchors: VecDeque<(usize, u64)>,
    /// Where the map's own word for this offset led to nothing.
    hint_tried: Option<u64>,
    /// Where in the source the cursor was lost.
    lost: Option<(Place, u64)>,
    /// Where the map's word for an offset further on led to nothing.
    gap_tried: Option<u64>,
    candidates: u32,
}

/// Where a match may begin or go on.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Bytes held before it.
    pub(super) held: usize,
    /// Bytes of the extent before it.
    pub(super) within: usize,
    /// Bytes before it that have to agree, where the extent has so many.
    pub(super) before: usize,
    pub(super) source: Place,
    pub(super) extent_start: u64,
    pub(super) extent: Extent,
}

impl Search {
    /// Begins at `start` of the object, where the map's own word led to nothing; `lost` says where in the source the
    /// cursor was lost.
    pub(super) fn new(start: u64, lost: Option<(Place, u64)>) -> Self {
        Self { hint_tried: Some(start), lost, ..Self::default() }
    }

    /// The map's own word for the bytes from `start` on led to nothing.
    pub(super) fn handle_hint(&mut self, start: u64) {
        self.hint_tried = Some(start);
    }

    /// The cursor is set, or moved on: what is held is no longer what was searched.
    pub(super) fn handle_match(&mut self) {
        *self = Self::default();
    }

    /// Returns whether the map's word for the first byte held is still to be tried.
    pub(super) fn may_take_hint(&self, start: u64) -> bool {
        self.scanned == 0 && self.hint_tried != Some(start)
    }

    /// Looks where the map has content again, behind where the cursor was lost or at the same place: what lies between
    /// was too short to be made a block. `reach` bytes that are held can tell.
    pub(super) fn look_beyond_gap(
        &mut self,
        map: &MapHandle,
        place: Place,
        start: u64,
        reach: usize,
    ) -> Option<Candidate> {
        if self.gap_tried == Some(start) || reach == 0 {
            return None;
        }
        let (source, from) = self.lost.unwrap_or((place, start));
        let next = map.lock().unwrap_or_else(PoisonError::into_inner).after(&source, from.saturating_add(1));
        let (extent_start, extent) = next?;
        let held = usize::try_from(extent_start - from).ok().filter(|gap| *gap < reach.min(GAP_BYTES_MAX))?;
        let here = (place, start);
        self.gap_tried = self.lost.take().is_none_or(|lost| lost == here).then_some(start);
        Some(Candidate { held, within: 0, before: 0, source, extent_start, extent })
    }

    /// Looks up the anchors of what is held, from where the last search ended.
    pub(super) fn find_anchor(&mut self, map: &MapHandle, near: &Near, held: &[u8]) -> Option<Candidate> {
        while self.candidates < CANDIDATES_MAX {
            let Some((end, key)) = self.anchors.pop_front() else {
                let (from, to) = (self.scanned, held.len().min(self.scanned + STEP));
                if from >= to {
                    return None;
                }
                self.gear.scan(&held[from..to], |end, key| self.anchors.push_back((from + end, key)));
                self.scanned = to;
                continue;
            };
            let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(found) = near.find(&mut map, key).or_else(|| anywhere(&mut map, key)) else { continue };
            self.candidates += 1;
            return Some(found.candidate(end));
        }
        None
    }
}

impl Candidate {
    /// Compares what is held with the block around the candidate. Returns how many bytes before it agree, if that and
    /// what agrees from it on are enough.
    pub(super) fn agreement(&self, held: &[u8], block: &Hashed) -> Option<usize> {
        let low = self.extent.skip as usize;
        let (middle, high) = (low + self.within, low + self.extent.len as usize);
        let before = common_suffix(&held[..self.held], &block.bytes()[low..middle]);
        let reach = (held.len() - self.held).min(high - middle);
        let after =
            common_prefix(&held[self.held..self.held + reach], &block.bytes()[middle..middle + reach]);
        let agrees = before >= self.before.min(self.within) && before + after >= SLICE_BYTES_MIN;
        agrees.then_some(before)
    }
}

/// The block where the cursor was lost last: the usual edit leaves the rest of it as it was, some bytes further on or
/// back.
#[derive(Debug, Default)]
pub(super) struct Near {
    digest: Option<Digest>,
    /// While more of the run is held.
    block: Option<Hashed>,
    source: Option<Place>,
    /// Offset in the source of the block's first byte.
    base: u64,
    /// Keys of the anchors from some byte on, in order, and how many bytes of the block end there.
    anchors: Vec<(u64, usize)>,
    from: usize,
}

impl Near {
    /// The cursor was lost `from` bytes into a block that begins at `base` of the source.
    pub(super) fn set(&mut self, block: &Hashed, source: Place, base: u64, from: usize) {
        let is_same = self.digest == Some(*block.digest())
            && (self.source, self.base) == (Some(source), base)
            && self.from <= from;
        self.block = Some(block.clone());
        if is_same {
            return;
        }
        let found = anchors::of_block(&block.bytes()[from..]);
        let mut anchors: Vec<_> = found.into_iter().map(|(end, key)| (key, from + end)).collect();
        anchors.sort_unstable();
        (self.digest, self.source) = (Some(*block.digest()), Some(source));
        (self.base, self.anchors, self.from) = (base, anchors, from);
    }

    /// Returns the block if it is this one and still here.
    pub(super) fn block(&self, digest: &Digest) -> Option<Hashed> {
        self.block.clone().filter(|block| block.digest() == digest)
    }

    /// Lets go of the block's bytes: nothing is held, and the next bytes may be long in coming.
    pub(super) fn let_go(&mut self) {
        self.block = None;
    }

    /// Returns where the map has an anchor of the block, if it has the block there as it was when the cursor was lost:
    /// what comes behind an older edit stands elsewhere.
    fn find(&self, map: &mut ContentMap, key: u64) -> Option<Found> {
        let index = self.anchors.partition_point(|(known, _)| *known < key);
        let (_, end) = self.anchors.get(index).filter(|(known, _)| *known == key)?;
        let found = Found::at(map, self.source?, self.base.wrapping_add(*end as u64))?;
        let is_there =
            self.digest == Some(found.extent.digest) && found.extent.skip as usize + found.within == *end;
        is_there.then_some(found)
    }
}

/// An extent that an anchor leads to.
struct Found {
    source: Place,
    extent_start: u64,
    extent: Extent,
    /// Bytes of it up to the anchor.
    within: usize,
}

impl Found {
    /// The anchor's last byte is in the extent; what follows it may be in the next.
    fn at(map: &mut ContentMap, source: Place, at: u64) -> Option<Self> {
        let (extent_start, extent) = map.at(&source, at.checked_sub(1)?)?;
        let within = usize::try_from(at - extent_start).expect("in a block");
        Some(Self { source, extent_start, extent, within })
    }

    fn candidate(self, held: usize) -> Candidate {
        let Self { source, extent_start, extent, within } = self;
        Candidate { held, within, before: ANCHOR_BYTES, source, extent_start, extent }
    }
}

/// Returns where the map has an anchor.
fn anywhere(map: &mut ContentMap, key: u64) -> Option<Found> {
    let (source, at) = map.find(key)?;
    Found::at(map, source, at)
}

/// How far the map's word for an offset is worth loading a block: of a file that was written anew in place nothing is
/// as the map has it, and each cell would cost a read of the disk.
#[derive(Debug, Default)]
pub(super) struct Trust {
    failed: u32,
}

impl Trust {
    /// A block was loaded and agreed.
    pub(super) fn handle_match(&mut self) {
        self.failed = 0;
    }

    /// A block that the map named is not what came. Returns whether it is to be loaded, to see whether a part is.
    pub(super) fn loads_another(&mut self) -> bool {
        self.failed += 1;
        self.failed <= FAILURES_MAX || self.failed.is_multiple_of(FAILURES_MAX)
    }
}

/// Blocks that are loaded in vain, one after the other, before only one in so many is.
const FAILURES_MAX: u32 = 8;

pub(super) fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 64;
    let whole =
        one.chunks_exact(STEP).zip(other.chunks_exact(STEP)).take_while(|(a, b)| a == b).count() * STEP;
    whole + one[whole..].iter().zip(&other[whole..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count()
}
