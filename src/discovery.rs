//! Discovery.

pub mod answerer;
pub mod asker;
pub mod clock;
mod limit;
pub mod pace;
pub mod state;
