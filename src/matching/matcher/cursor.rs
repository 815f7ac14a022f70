//! Where in known content the next bytes are expected.

use super::super::map::{ContentMap, Extent};
use crate::block::Hashed;
use crate::object::Place;

/// Where in known content the held bytes are thought to be.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) source: Place,
    /// Offset in the source of the first byte held.
    pub(super) at: u64,
    pub(super) extent_start: u64,
    pub(super) extent: Extent,
    pub(super) block: Option<Hashed>,
    /// The block was matched from its first byte on.
    pub(super) from_start: bool,
}

impl Cursor {
    /// Sets it where the map has an extent.
    pub(super) fn at(map: &mut ContentMap, source: Place, at: u64) -> Option<Self> {
        let (extent_start, extent) = map.at(&source, at)?;
        Some(Self { source, at, extent_start, extent, block: None, from_start: false })
    }

    /// Returns where in its block it is.
    pub(super) fn skip(&self) -> usize {
        let within = usize::try_from(self.at - self.extent_start).expect("in a block");
        self.extent.skip as usize + within
    }

    /// Returns the bytes from it to the end of the extent.
    pub(super) fn left(&self) -> usize {
        (self.extent.skip + self.extent.len) as usize - self.skip()
    }

    /// Returns whether a whole block lies before it.
    pub(super) fn is_at_whole_block(&self) -> bool {
        self.skip() == 0 && self.left() == self.extent.block_len as usize
    }
}
