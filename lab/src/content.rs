//! Content of test files, the same for the same seed: incompressible, edited, or text; and its digests.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digests bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Digests a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).with_context(|| format!("read {}", path.display()))? {
                0 => return Ok(Self(hasher.finalize().into())),
                length => hasher.update(&buffer[..length]),
            }
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns `length` incompressible bytes.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    // Neighbouring seeds start far apart, or their streams would be each other's shifted.
    let mut state = splitmix(&mut seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&splitmix(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes such a file and returns its digest.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, seed: u64, length: usize) -> Result<Digest> {
    let bytes = bytes(seed, length);
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(&bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

/// Returns the bytes with `count` insertions, each of 1 to 2,000 incompressible bytes at a place of its own.
#[must_use]
pub fn with_inserts(bytes: &[u8], seed: u64, count: usize) -> Vec<u8> {
    let mut state = splitmix(&mut seed.wrapping_mul(0x9fb2_1c65_1e98_df25));
    let mut below = |limit: usize| (splitmix(&mut state) % limit as u64) as usize;
    let mut places: Vec<usize> = (0..count).map(|_| below(bytes.len() + 1)).collect();
    places.sort_unstable();
    let (mut edited, mut at) = (Vec::with_capacity(bytes.len() + count * INSERT_BYTES_MAX), 0);
    for (number, place) in places.into_iter().enumerate() {
        edited.extend_from_slice(&bytes[at..place]);
        let length = 1 + below(INSERT_BYTES_MAX);
        edited.extend(self::bytes(seed.wrapping_mul(1000) + number as u64, length));
        at = place;
    }
    edited.extend_from_slice(&bytes[at..]);
    edited
}

/// Returns `length` bytes of text: files of this machine's own packages, one after the other in an order of chance that is the
/// same for the same seed. None is in it twice.
///
/// # Errors
/// If there is not so much.
pub fn text(seed: u64, length: usize) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    let mut waiting = vec![PathBuf::from("/usr/share")];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort_by_cached_key(|path| Sha256::digest(format!("{seed} {}", path.display())));
    let (mut text, mut seen) = (Vec::with_capacity(length), HashSet::new());
    for path in files {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let is_text = TEXT_BYTES.contains(&bytes.len()) && std::str::from_utf8(&bytes).is_ok_and(is_plain);
        if is_text && seen.insert(<[u8; 32]>::from(Sha256::digest(&bytes))) {
            text.extend_from_slice(&bytes);
        }
        if text.len() >= length {
            text.truncate(length);
            return Ok(text);
        }
    }
    bail!("there are only {} bytes of text on this machine, not {length}", text.len())
}

fn is_plain(text: &str) -> bool {
    !text.contains('\0')
}

/// Steps splitmix64.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const INSERT_BYTES_MAX: usize = 2000;
/// Smaller ones say little, and larger ones are tables.
const TEXT_BYTES: RangeInclusive<usize> = 1 << 10..=1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_one_others() {
        assert_eq!(bytes(1, 1000), bytes(1, 1000));
        assert_eq!(bytes(1, 1000)[..500], bytes(1, 500));
        assert_ne!(bytes(1, 1000), bytes(2, 1000));
    }

    #[test]
    fn inserts_leave_the_old_bytes_in_order() {
        let old = bytes(4, 100_000);
        let new = with_inserts(&old, 5, 24);
        assert_eq!(new, with_inserts(&old, 5, 24));
        assert_ne!(new, with_inserts(&old, 6, 24));
        assert!((old.len() + 24..=old.len() + 24 * INSERT_BYTES_MAX).contains(&new.len()));
        let mut rest = new.iter();
        assert!(old.iter().all(|byte| rest.any(|other| other == byte)));
    }

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(write(&path, 3, 3_000_000).unwrap(), Digest::of_file(&path).unwrap());
        assert_eq!(
            format!("{:?}", Digest::of(b"")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
