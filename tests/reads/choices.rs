//! What the seed decides: who reads or writes what, in which pieces, and what happens meanwhile.

use std::ops::Range;

use crate::client::{Connection, Protocol, Visit};
use crate::office::{End, Loss};
use crate::run::{Meanwhile, PATHS, Run};
use crate::truth::edit;

impl Run {
    pub(crate) fn choose_restart(&mut self) -> (Option<usize>, End, Loss) {
        let which = self.dice.chance(500).then(|| self.dice.below(self.office.edges.len()));
        let end = self.dice.pick(&[End::Stop, End::Crash]);
        let loss = self.dice.pick(&[Loss::Nothing, Loss::Nothing, Loss::Nothing, Loss::Store, Loss::Map]);
        (which, end, loss)
    }

    pub(crate) fn choose_meanwhile(&mut self) -> Meanwhile {
        if self.dice.chance(500) {
            return Meanwhile::Edit;
        }
        let (which, end, loss) = self.choose_restart();
        Meanwhile::Restart(which, end, loss)
    }

    pub(crate) fn choose_way(&mut self) -> (usize, Protocol) {
        (self.dice.below(self.office.edges.len()), self.dice.pick(&[Protocol::Http, Protocol::Smb]))
    }

    pub(crate) fn choose_visit(&mut self) -> Visit {
        let path = self.dice.pick(&PATHS).to_owned();
        let len = self.truth.now(&path).1.len();
        let asks = if len == 0 || self.dice.chance(350) {
            vec![None; 1 + self.dice.below(2)]
        } else {
            self.choose_ranges(len)
        };
        let hangs_up = self.dice.chance(100).then(|| {
            let limit = self.dice.pick(&[100, 50_000, 500_000]);
            (1 + self.dice.below(limit), self.dice.chance(500))
        });
        let depth = self.dice.pick(&[1, 1, 2, 8]);
        Visit { path, asks, depth, anew: self.dice.chance(500), hangs_up }
    }

    fn choose_ranges(&mut self, len: usize) -> Vec<Option<Range<usize>>> {
        let limit = self.dice.pick(&[1, 600, 4_096, 20_000, 65_536, 150_000, 300 << 10]);
        let exact = self.dice.chance(500);
        let in_order = self.dice.chance(700);
        let mut at = if self.dice.chance(500) { 0 } else { self.dice.below(len) };
        let mut ranges = Vec::new();
        for _ in 0..1 + self.dice.below(40) {
            let size = if exact { limit } else { 1 + self.dice.below(limit) };
            ranges.push(Some(at..at + size));
            at = if in_order { at + size } else { self.dice.below(len) };
            if at >= len {
                break;
            }
        }
        if self.dice.chance(200) {
            ranges.reverse();
        }
        ranges
    }

    /// Returns an edited copy of a file.
    pub(crate) fn edited(&mut self, path: &str) -> Vec<u8> {
        let mut content = self.truth.now(path).1.to_vec();
        let other = self.truth.now(self.dice.pick(&PATHS)).1;
        edit(&mut content, &other, &mut self.dice);
        content
    }

    pub(crate) fn take_kept(&mut self, edge: usize, protocol: Protocol) -> Option<Connection> {
        let fits = |kept: &(usize, Protocol, Connection)| (kept.0, kept.1) == (edge, protocol);
        let at = self.kept.iter().position(fits).filter(|_| self.dice.chance(700))?;
        Some(self.kept.swap_remove(at).2)
    }
}
