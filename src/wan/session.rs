//! The decisions of a link without its I/O: whose hello is accepted, and whether the two sides still hear each other.

use std::time::{Duration, Instant};

use wanigan_parsers::wan::{Refusal, VERSION};

/// The lowest protocol version this node speaks.
pub const VERSION_MIN: u16 = 3;

/// Chooses the version of a link.
///
/// # Errors
/// [`Refusal::Version`] when the ranges do not meet.
pub fn choose_version(min: u16, max: u16) -> Result<u16, Refusal> {
    let version = max.min(VERSION);
    if min <= max && version >= min.max(VERSION_MIN) { Ok(version) } else { Err(Refusal::Version) }
}

/// How often the transport says something where nothing else is said; an edge's signs of life are more frequent.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How often an edge sends a sign of life: some 500 bytes a second, both ways together.
pub const SIGN_EVERY: Duration = Duration::from_millis(500);

/// Silence after which new connections go direct.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(1_800);

/// Silence after which a link is given up and its flows are reset.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Silence after which a new flow keeps its first bytes back until the core has answered, so that it can still go
/// direct: somewhat more than [`SIGN_EVERY`] and a round trip.
pub const QUIET_AFTER: Duration = Duration::from_millis(900);

/// How well the other side is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// As it should be.
    Clear,
    /// Not for [`QUIET_AFTER`].
    Quiet,
    /// Not for [`SUSPECT_AFTER`].
    Lost,
}

/// Judges [`Hearing`] by the signs of life that came back: each says that the other side hears us, and we it.
#[derive(Debug)]
pub struct Liveness {
    returned: u64,
    last_heard: Instant,
}

impl Liveness {
    /// Begins with a link that was heard at this moment.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { returned: 0, last_heard: now }
    }

    /// Takes the number of the latest sign of life that came back.
    pub fn handle_count(&mut self, returned: u64, now: Instant) -> Hearing {
        if returned != self.returned {
            self.returned = returned;
            self.last_heard = now;
        }
        match now.saturating_duration_since(self.last_heard) {
            silence if silence < QUIET_AFTER => Hearing::Clear,
            silence if silence < SUSPECT_AFTER => Hearing::Quiet,
            _ => Hearing::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(choose_version(VERSION_MIN, VERSION_MIN), Ok(VERSION_MIN));
        assert_eq!(choose_version(1, 9), Ok(VERSION));
        assert_eq!(choose_version(1, VERSION_MIN - 1), Err(Refusal::Version));
        assert_eq!(choose_version(VERSION + 1, VERSION + 2), Err(Refusal::Version));
        assert_eq!(choose_version(0, 0), Err(Refusal::Version));
        assert_eq!(choose_version(5, 1), Err(Refusal::Version));
    }

    #[test]
    fn a_silent_link_is_suspected_and_trusted_again_once_heard() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let heard = start + SIGN_EVERY;
        assert_eq!(liveness.handle_count(3, heard), Hearing::Clear);
        assert_eq!(liveness.handle_count(3, heard + QUIET_AFTER), Hearing::Quiet);
        assert_eq!(liveness.handle_count(3, heard + SUSPECT_AFTER), Hearing::Lost);
        assert_eq!(liveness.handle_count(4, heard + SUSPECT_AFTER), Hearing::Clear);
    }
}
