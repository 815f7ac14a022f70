//! Byte strings to look for in a large file, thousands at once.
//!
//! A string is recognised by its first eight bytes: a bit table says at each offset of the file whether any string begins
//! so, and only then is the rest compared. That runs at some hundred megabytes a second without optimisation.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

/// What is looked for, each with a name.
#[derive(Debug, Clone)]
pub struct Needles {
    by_beginning: HashMap<u64, Vec<(Vec<u8>, String)>>,
    table: Vec<u64>,
    longest: usize,
}

impl Needles {
    /// Returns none.
    #[must_use]
    pub fn new() -> Self {
        Self { by_beginning: HashMap::new(), table: vec![0; 1 << (TABLE_BITS - 6)], longest: BEGINNING }
    }

    /// Adds a string.
    ///
    /// # Panics
    /// If it has less than 16 bytes, which chance could bring.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 16, "{name} is too short to be looked for");
        let beginning = beginning(bytes);
        let place = place(beginning);
        self.table[place >> 6] |= 1 << (place & 63);
        self.longest = self.longest.max(bytes.len());
        self.by_beginning.entry(beginning).or_default().push((bytes.to_vec(), name.to_owned()));
    }

    /// Adds pieces of 16 bytes, one of every `stride`: whatever contains `stride + 16` bytes in a row contains one.
    pub fn add_pieces(&mut self, name: &str, bytes: &[u8], stride: usize) {
        for (number, piece) in bytes.chunks(stride).enumerate().filter(|(_, piece)| piece.len() >= 16) {
            self.add(&format!("{name} at {}", number * stride), &piece[..16]);
        }
    }

    /// Returns how many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_beginning.values().map(Vec::len).sum()
    }

    /// Returns the names of those that a file has somewhere.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn find_in(&self, path: &Path) -> Result<Vec<String>> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut found = BTreeSet::new();
        let mut window = Vec::with_capacity(WINDOW);
        loop {
            let kept = window.len();
            let limit = (WINDOW - kept) as u64;
            file.by_ref().take(limit).read_to_end(&mut window).context("read what is searched")?;
            self.find(&window, &mut found);
            if window.len() == kept {
                return Ok(found.into_iter().map(str::to_owned).collect());
            }
            // A string may begin in this window and end in the next one.
            window.drain(..window.len().saturating_sub(self.longest - 1));
        }
    }

    fn find<'n>(&'n self, bytes: &[u8], found: &mut BTreeSet<&'n str>) {
        for (offset, beginning) in bytes.windows(BEGINNING).map(beginning).enumerate() {
            let place = place(beginning);
            if self.table[place >> 6] & (1 << (place & 63)) == 0 {
                continue;
            }
            let here = self.by_beginning.get(&beginning).into_iter().flatten();
            found.extend(
                here.filter(|(needle, _)| bytes[offset..].starts_with(needle)).map(|(_, name)| name.as_str()),
            );
        }
    }
}

impl Default for Needles {
    fn default() -> Self {
        Self::new()
    }
}

fn beginning(bytes: &[u8]) -> u64 {
    let mut beginning = [0; BEGINNING];
    beginning.copy_from_slice(&bytes[..BEGINNING]);
    u64::from_le_bytes(beginning)
}

/// Spreads beginnings over the table; the upper bits of a product depend on all of its factors' bits.
fn place(beginning: u64) -> usize {
    (beginning.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS)) as usize
}

const BEGINNING: usize = 8;
const TABLE_BITS: u32 = 22;
const WINDOW: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content;

    #[test]
    fn what_is_there_is_found_wherever_it_is_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("haystack");
        let mut haystack = content::bytes(1, WINDOW * 2 + 500);
        let secret = content::bytes(2, 32);
        let absent = content::bytes(3, 32);
        let mut needles = Needles::new();
        needles.add("secret", &secret);
        needles.add("absent", &absent);
        let last = haystack.len() - 32;
        for offset in [0, 777, WINDOW - 32, WINDOW - 31, WINDOW - 1, WINDOW, 2 * WINDOW - 16, last] {
            std::fs::write(&path, &haystack).unwrap();
            assert!(needles.find_in(&path).unwrap().is_empty());
            let before = haystack.clone();
            haystack[offset..offset + 32].copy_from_slice(&secret);
            std::fs::write(&path, &haystack).unwrap();
            assert_eq!(needles.find_in(&path).unwrap(), ["secret"], "at {offset}");
            haystack = before;
        }
    }

    #[test]
    fn a_packet_of_content_has_a_piece_of_it_at_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packet");
        let content = content::bytes(4, 100_000);
        let mut needles = Needles::new();
        needles.add_pieces("content", &content, 512);
        for offset in (0..90_000).step_by(4001) {
            std::fs::write(&path, &content[offset..offset + 528]).unwrap();
            assert!(!needles.find_in(&path).unwrap().is_empty(), "{offset}");
        }
    }
}
