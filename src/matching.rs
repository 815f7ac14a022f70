//! How a sender knows that the bytes it has just read are bytes that the other side holds, so that a reference can
//! stand for them: `docs/matching.md` has the whole machine.
//!
//! [`record`] guesses which blocks the other side holds; [`map`] which block's bytes lie where in an object, and
//! [`anchors`] give places in content names by which it is found again wherever it moved. [`uploads`] knows which blocks
//! an edge may refer to.

pub mod anchors;
pub mod map;
pub mod record;
pub mod uploads;

pub use map::{ContentMap, Extent};
pub use record::{Knowledge, Record};
