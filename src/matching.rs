//! How a sender knows that the bytes it has just read are bytes that the other side holds, so that a reference can
//! stand for them: `docs/matching.md` has the whole machine.
//!
//! [`record`] guesses which blocks the other side holds. [`uploads`] knows which of them an edge may refer to.

pub mod record;
pub mod uploads;

pub use record::{Knowledge, Record};
