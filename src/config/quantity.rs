//! Sizes and durations with their unit in the text: `"200 GiB"`, `"5 s"`.
//!
//! A bare number is refused on purpose: whoever reads the file need not know which unit a key counts in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An amount of memory or disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Text that is no size or duration; [`fmt::Display`] of the key's accepted form says the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number with a unit")]
pub struct QuantityError;

impl ByteSize {
    /// Takes a number of bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Takes a number of MiB, saturating.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// Takes a number of GiB, saturating.
    #[must_use]
    pub const fn gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1 << 30))
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes for sizes of buffers: saturates where `usize` is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        scaled(text, SIZE_UNITS).map(Self)
    }
}

/// Writes the largest binary unit that divides the size, so that what is written parses to the same size.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, BINARY_UNITS)
    }
}

/// A duration as the configuration writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        scaled(text, TIME_UNITS).map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), TIME_UNITS)
    }
}

type Units = &'static [(&'static str, u64)];

/// Largest first, as [`write_scaled`] needs them.
const BINARY_UNITS: Units =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const SIZE_UNITS: Units = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// In milliseconds, largest first.
const TIME_UNITS: Units = &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

fn scaled(text: &str, units: Units) -> Result<u64, QuantityError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(QuantityError)?;
    let number: u64 = text[..digits].parse().map_err(|_| QuantityError)?;
    let name = text[digits..].trim_start();
    let (_, factor) = units.iter().find(|(unit, _)| *unit == name).ok_or(QuantityError)?;
    number.checked_mul(*factor).ok_or(QuantityError)
}

fn write_scaled(f: &mut fmt::Formatter<'_>, value: u64, units: Units) -> fmt::Result {
    let (unit, factor) = units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .or(units.last())
        .expect("each table has units");
    write!(f, "{} {unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        assert_eq!("200 GiB".parse(), Ok(ByteSize::gib(200)));
        assert_eq!("512MiB".parse(), Ok(ByteSize::mib(512)));
        assert_eq!("3 MB".parse(), Ok(ByteSize::bytes(3_000_000)));
        assert_eq!("0 B".parse(), Ok(ByteSize::bytes(0)));
    }

    #[test]
    fn a_size_without_a_known_unit_or_beyond_64_bits_is_refused() {
        for text in ["", "200", "GiB", "1.5 GiB", "-1 B", "5 gib", "20000000 TiB", "5 s", "1 GiB x", "é"] {
            assert_eq!(text.parse::<ByteSize>(), Err(QuantityError), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_each_unit() {
        for (text, ms) in
            [("5 s", 5_000), ("250ms", 250), ("2 min", 120_000), ("1 h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any::<u64>(), shift in 0..50u32) {
            let size = ByteSize::bytes(value >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let span = Span(Duration::from_millis(value));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Span>();
        }
    }
}
