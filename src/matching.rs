//! How a sender knows that the bytes it has just read are bytes that the other side holds, so that a reference can
//! stand for them: `docs/matching.md` has the whole machine.
//!
//! [`record`] guesses which blocks the other side holds, and [`asking`] when to ask where it says nothing; [`map`] remembers which block's bytes lie where in an object,
//! and [`anchors`] give places in content names by which they are found again wherever they moved; [`matcher`] puts
//! these together, and [`observer`] learns from what was received. [`uploads`] knows which blocks an edge may refer to, and [`compress`] makes
//! what must go in full smaller.

pub mod anchors;
pub mod asking;
pub mod compress;
pub mod map;
pub mod matcher;
pub mod observer;
pub mod record;
pub mod uploads;

pub use map::{ContentMap, Extent, MapHandle};
pub use record::{Knowledge, Record};
