//! What the map is to be told of the object that is being read, and when.
//!
//! A cursor that runs through the old extents of this very object still needs those that lie before it: after the first
//! insertion everything stands further on than the map has it, and the new order, told at once, would overwrite the old
//! one just where the rest of the read looks for it. So what is new is told as far as the cursor has passed; the rest
//! when the run ends, or where it becomes too much.

use super::super::map::{ContentMap, Extent};
use crate::object::Place;

/// Extents of one run that wait to be told.
#[derive(Debug, Default)]
pub(super) struct News {
    waiting: Vec<(u64, Extent)>,
    /// From here on the map's old word is still needed.
    needed: Option<u64>,
}

impl News {
    /// What the map has of the object from `offset` on is needed, and nothing before that.
    pub(super) fn need(&mut self, offset: u64) {
        self.needed = Some(offset);
    }

    /// Takes what is new.
    pub(super) fn add(&mut self, offset: u64, extent: Extent) {
        self.waiting.push((offset, extent));
    }

    /// Tells what overwrites nothing that is needed.
    pub(super) fn tell(&mut self, map: &mut ContentMap, place: &Place) {
        let is_free = |(offset, extent): &(u64, Extent)| {
            self.needed.is_none_or(|needed| offset.saturating_add(u64::from(extent.len)) <= needed)
        };
        let free = self.waiting.iter().take_while(|news| is_free(news)).count();
        let ready = free.max(self.waiting.len().saturating_sub(WAITING_MAX));
        for (offset, extent) in self.waiting.drain(..ready) {
            map.learn(place, offset, extent);
        }
    }

    /// Tells everything: the run is over.
    pub(super) fn tell_all(&mut self, map: &mut ContentMap, place: &Place) {
        self.needed = None;
        self.tell(map, place);
    }
}

/// Extents that wait at most: 64 MiB of content in whole cells.
const WAITING_MAX: usize = 1024;
