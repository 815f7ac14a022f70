//! Whether a flow sends in full what it could name: after the other side missed a block, for a while.
//!
//! A reference that is missed costs a round trip, and who misses one block is likely to miss the next. So after a miss
//! 32 blocks go in full that would have been named, and after each further one twice as many. Who was referred to a
//! neighbour and found nothing there goes on to be referred, since it gets more of them there, unless that fails again
//! and again.

/// What one flow has found out.
#[derive(Debug)]
pub struct Pushing {
    /// Blocks that still go in full.
    left: u32,
    /// How many the last miss asked for.
    length: u32,
    /// Referrals that led to nothing since the last that did not.
    failed_referrals: u32,
}

impl Default for Pushing {
    fn default() -> Self {
        Self { left: 0, length: AFTER_MISS / 2, failed_referrals: 0 }
    }
}

impl Pushing {
    /// Returns whether the next block that could be named goes in full.
    #[must_use]
    pub fn pushes(&self) -> bool {
        self.left > 0
    }

    /// Notes that a block went in full that could have been named.
    pub fn handle_pushed(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Notes that the other side missed a block; `alone` says that nobody else could give it.
    pub fn handle_missed(&mut self, alone: bool) {
        self.failed_referrals += u32::from(!alone);
        if alone || self.failed_referrals > REFERRALS_FAILED_MAX {
            self.failed_referrals = 0;
            if self.left == 0 {
                self.length = (self.length * 2).min(AFTER_MISS_MAX);
            }
            self.left = self.length;
        }
    }

    /// Notes that the other side got a block where it was referred to.
    pub fn handle_referral_led(&mut self) {
        self.failed_referrals = 0;
    }
}

/// Blocks that go in full after a first miss.
const AFTER_MISS: u32 = 32;

/// The most blocks that go in full after a miss before one is named again.
const AFTER_MISS_MAX: u32 = 4096;

/// Referrals that may lead to nothing, one after the other, before blocks go in full.
const REFERRALS_FAILED_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_miss_pushes_twice_as_many_blocks_and_misses_together_count_as_one() {
        let mut pushing = Pushing::default();
        let lengths: Vec<u32> = (0..9)
            .map(|_| {
                (0..3).for_each(|_| pushing.handle_missed(true));
                pushed(&mut pushing)
            })
            .collect();
        assert_eq!(lengths, [32, 64, 128, 256, 512, 1024, 2048, 4096, 4096]);
    }

    #[test]
    fn referrals_are_given_up_when_none_of_many_leads_anywhere() {
        let mut pushing = Pushing::default();
        for _ in 0..2 {
            (0..REFERRALS_FAILED_MAX).for_each(|_| pushing.handle_missed(false));
            assert!(!pushing.pushes());
            pushing.handle_referral_led();
        }
        (0..=REFERRALS_FAILED_MAX).for_each(|_| pushing.handle_missed(false));
        assert_eq!(pushed(&mut pushing), AFTER_MISS);
    }

    fn pushed(pushing: &mut Pushing) -> u32 {
        let mut blocks = 0;
        while pushing.pushes() {
            pushing.handle_pushed();
            blocks += 1;
        }
        blocks
    }
}
