//! Walking over the blocks on disk, newest segments first, a bounded piece at a time.
//!
//! Whoever walks sees each block once that stays where it is; what is written meanwhile, or moved by eviction, it may
//! miss or see again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::super::disk::SegmentId;
use super::super::names::Adopted;
use super::super::segment::Entry;
use super::super::table::Place;
use super::Reader;
use crate::block::{KeyId, Reference};

/// Where a walk goes on. It is of no use to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    segment: SegmentId,
    offset: u32,
}

impl Reader {
    /// Returns up to `max` references that blocks have under `key`, but none of blocks that have one under
    /// `known`; and where to go on, if there is more to look at.
    pub(in crate::store) fn walk(
        &self,
        key: KeyId,
        known: Option<KeyId>,
        from: Option<Cursor>,
        max: usize,
    ) -> (Vec<Reference>, Option<Cursor>) {
        let mut found = Vec::new();
        let last = from.map_or(SegmentId(u32::MAX), |from| from.segment);
        let mut rest = self.segments_until(last);
        let next = rest.split_off(rest.len().min(SEGMENTS_MAX)).first().copied();
        for id in rest {
            let start = from.filter(|from| from.segment == id).map_or(0, |from| from.offset);
            for (offset, reference) in self.named_in(id, key, known, start) {
                if found.len() >= max.max(1) {
                    return (found, Some(Cursor { segment: id, offset }));
                }
                found.push(reference);
            }
        }
        (found, next.map(|segment| Cursor { segment, offset: 0 }))
    }

    /// Returns the segments up to that one, the newest first, and one more than a walk looks at.
    fn segments_until(&self, last: SegmentId) -> Vec<SegmentId> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(..=last).rev().take(SEGMENTS_MAX + 1).map(|(id, _)| *id).collect()
    }

    fn named_in(&self, id: SegmentId, key: KeyId, known: Option<KeyId>, start: u32) -> Vec<(u32, Reference)> {
        let adopted = self.adopted_in(id, key);
        let known_names = known.map(|known| self.adopted_in(id, known)).unwrap_or_default();
        let is_known =
            |entry: &Entry| known == Some(entry.reference.key) || known_names.contains_key(&entry.offset);
        let name = |entry: &Entry| {
            let place = Place { segment: id, offset: entry.offset };
            let (hint, reference) = if entry.reference.key == key {
                (entry.hint(), entry.reference)
            } else {
                let adopted = adopted.get(&entry.offset)?;
                (adopted.hint(key), Reference { key, secret: adopted.secret, ..entry.reference })
            };
            // What was bad or moved is not known here.
            (self.table.peek(&hint) == Some(place)).then_some((entry.offset, reference))
        };
        let entries = self.entries_in(id);
        let first = entries.partition_point(|entry| entry.offset < start);
        entries[first..].iter().filter(|entry| !is_known(entry)).filter_map(name).collect()
    }

    /// Returns a segment's blocks, without letting it push others out of memory.
    fn entries_in(&self, id: SegmentId) -> Arc<[Entry]> {
        let load = || {
            let missed = |miss| self.count(&miss, Place { segment: id, offset: 0 });
            self.load_manifest(id).map_err(missed).unwrap_or_default()
        };
        self.names.manifest(id).unwrap_or_else(load)
    }

    /// Returns what a segment's blocks were adopted under, by place.
    pub(in crate::store) fn adopted_in(&self, id: SegmentId, key: KeyId) -> BTreeMap<u32, Adopted> {
        let fresh = self.names.fresh_of(id, key);
        let row = self.names.row(id, key).or_else(|| self.load_row(id, key)).unwrap_or_default();
        row.iter().map(|adopted| (adopted.offset, *adopted)).chain(fresh).collect()
    }
}

/// Segments that one piece of a walk looks at: some megabytes of manifests.
const SEGMENTS_MAX: usize = 32;
