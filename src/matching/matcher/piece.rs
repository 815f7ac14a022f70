//! What the matcher makes of a direction's bytes.

use bytes::Bytes;
use wanigan_parsers::wan::SealSpan;

use crate::block::Hashed;
use crate::fault::OpaqueReason;
use crate::object::Object;

/// Bytes of a direction, matched and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// To be passed on as they are.
    Opaque(Bytes, OpaqueReason),
    /// A block of which every byte has just been read and that nothing was known of.
    New(Hashed),
    /// A block of which every byte has just been read, where the map said.
    Whole(Hashed),
    /// A part of a block, read just now.
    Slice(Slice),
    /// These bytes, passed on as they were before, are a block.
    Seal(Hashed, Vec<SealSpan>),
}

/// What became of a block that the matcher wants to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Here it is.
    Block(Hashed),
    /// The store has it no more.
    Gone,
    /// The store may have it, and does not give it now: its disk hangs.
    NotNow,
}

/// A part of a block that the store has, equal to bytes that were read just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The block.
    pub block: Hashed,
    /// Where in the block the part begins.
    pub skip: usize,
    /// Its length.
    pub len: usize,
    /// Whether every byte of the block was released at this place in this version.
    pub same_version: bool,
    /// What was read, and where in it.
    pub(super) object: Object,
    pub(super) offset: u64,
    /// Where in the direction the part is.
    pub(super) at: u64,
}

impl Slice {
    /// Returns the part's bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.block.bytes().slice(self.skip..self.skip + self.len)
    }
}
