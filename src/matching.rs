//! How a sender knows that the bytes it has just read are bytes that the other side holds, so that a reference can
//! stand for them: `docs/matching.md` has the whole machine.
//!
//! [`record`] guesses which blocks the other side holds; [`compress`] makes what must go in full smaller.

pub mod compress;
pub mod record;

pub use record::{Knowledge, Record};
