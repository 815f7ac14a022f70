//! How a transfer is measured: its time by the client that ran, its bytes by the link, and medians of either.

use std::time::Duration;

use anyhow::{Context, Result};
use wanigan_lab::clients::Received;
use wanigan_lab::content::Digest;
use wanigan_lab::topology::Lab;

use super::WAN;

/// What one transfer took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Bytes that entered the link, both ways together.
    pub(crate) wan_bytes: u64,
}

/// What one client received in one run, with what it should be.
pub(crate) type Files = Vec<(Received, Digest)>;

/// Builds a lab, and shows its logs if what is done in it fails.
pub(crate) fn in_a_lab<T>(clients: usize, body: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let lab = Lab::new(clients, WAN)?;
    let result = body(&lab);
    if result.is_err() {
        eprintln!("{}", lab.logs());
    }
    result
}

/// Measures a client that receives files; one that gets wrong bytes counts for nothing.
pub(crate) fn files(lab: &Lab, transfer: impl FnOnce() -> Result<Files>) -> Result<Cost> {
    let mut files = Vec::new();
    let cost = timed(lab, || {
        files = transfer()?;
        Ok(files.first().context("something was received")?.0.took)
    })?;
    files.iter().try_for_each(|(received, digest)| received.expect(*digest))?;
    Ok(cost)
}

/// Counts what crosses until the link is quiet again, for whatever says how long it took.
pub(crate) fn timed(lab: &Lab, transfer: impl FnOnce() -> Result<Duration>) -> Result<Cost> {
    let before = settled(lab);
    let took = transfer()?;
    let wan_bytes = settled(lab) - before;
    eprintln!("  {:.2} s, {wan_bytes} bytes", took.as_secs_f64());
    Ok(Cost { seconds: took.as_secs_f64(), wan_bytes })
}

/// Returns what entered the link since it was opened, when it is quiet.
pub(crate) fn settled(lab: &Lab) -> u64 {
    lab.wan().settled(QUIET).entered_bytes()
}

/// Measures three times; times and bytes have each their own median.
pub(crate) fn median(run: impl FnMut() -> Result<Cost>) -> Result<Cost> {
    median_of(std::iter::repeat_with(run).take(ROUNDS).collect::<Result<_>>()?)
}

/// Returns the medians of several costs.
pub(crate) fn median_of(costs: Vec<Cost>) -> Result<Cost> {
    let seconds = middle(costs.iter().map(|cost| cost.seconds).collect())?;
    let mut wan_bytes: Vec<u64> = costs.iter().map(|cost| cost.wan_bytes).collect();
    wan_bytes.sort_unstable();
    Ok(Cost { seconds, wan_bytes: wan_bytes[wan_bytes.len() / 2] })
}

/// Returns the median: of an even number of figures, what lies between the two in the middle.
pub(crate) fn middle(mut figures: Vec<f64>) -> Result<f64> {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    let upper = *figures.get(half).context("a median of nothing")?;
    Ok(if figures.len() % 2 == 1 { upper } else { f64::midpoint(figures[half - 1], upper) })
}

impl Cost {
    /// Returns the bytes that crossed as percent of the content.
    pub(crate) fn percent(self, content: usize) -> f64 {
        self.wan_bytes as f64 / content as f64 * 100.0
    }

    /// Returns it as the tables show it.
    pub(crate) fn cell(self, content: usize) -> String {
        format!("{:.2} s, {:.2} %", self.seconds, self.percent(content))
    }

    /// Returns how its time and its bytes are to another's.
    pub(crate) fn to(self, other: Self) -> (f64, f64) {
        (self.seconds / other.seconds, self.wan_bytes as f64 / other.wan_bytes as f64)
    }
}

/// How often a thing is measured that is not said to be measured otherwise.
pub(crate) const ROUNDS: usize = 3;
/// Longer than a round trip and a delayed acknowledgement, and shorter than the silence between two signs of life of a link.
const QUIET: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle_of_its_own_figures() {
        assert_eq!(middle(vec![3.0, 1.0, 2.0]).unwrap(), 2.0);
        assert_eq!(middle(vec![4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5);
        assert!(middle(Vec::new()).is_err());
        let cost = |seconds, wan_bytes| Cost { seconds, wan_bytes };
        let costs = vec![cost(1.0, 30), cost(2.0, 10), cost(3.0, 20)];
        assert_eq!(median_of(costs).unwrap(), cost(2.0, 20));
    }
}
