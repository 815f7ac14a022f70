//! What the servers have: every version of every file, and how a file is made and edited.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;

use crate::dice::Dice;

/// All versions of all files, by path; the last one is served.
#[derive(Default)]
pub(crate) struct Truth(Mutex<HashMap<String, Vec<Bytes>>>);

/// What a client got for what it asked for.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// As the server counts them.
    pub(crate) version: usize,
    pub(crate) bytes: Vec<u8>,
    /// Whether that is all that the server said it would send.
    pub(crate) whole: bool,
}

/// What a client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) path: String,
    /// `None`: all of it.
    pub(crate) range: Option<Range<usize>>,
    /// The version that was served when it asked.
    pub(crate) since: usize,
}

impl Truth {
    /// Returns the version that is served, and its number.
    pub(crate) fn now(&self, path: &str) -> (usize, Bytes) {
        let files = self.0.lock().unwrap();
        let versions = files.get(path).unwrap_or_else(|| panic!("no file {path}"));
        (versions.len() - 1, versions.last().unwrap().clone())
    }

    /// Puts a new version in place of the old one and returns its number.
    pub(crate) fn write(&self, path: &str, content: Vec<u8>) -> usize {
        let mut files = self.0.lock().unwrap();
        let versions = files.entry(path.to_owned()).or_default();
        versions.push(content.into());
        versions.len() - 1
    }

    /// Writes into the version that is served, which makes another one.
    pub(crate) fn write_at(&self, path: &str, offset: usize, data: &[u8]) -> usize {
        let mut content = self.now(path).1.to_vec();
        content.resize(content.len().max(offset + data.len()), 0);
        content[offset..offset + data.len()].copy_from_slice(data);
        self.write(path, content)
    }

    /// Fails unless the answer is what a server that is asked directly gives: bytes of one version, none older than
    /// what was served when it was asked.
    #[track_caller]
    pub(crate) fn check(&self, ask: &Ask, answer: &Answer) {
        let Ask { path, range, since } = ask;
        let Answer { version, bytes, whole } = answer;
        let content = {
            let files = self.0.lock().unwrap();
            let versions = &files[path];
            assert!(
                (*since..versions.len()).contains(version),
                "{path}: {version} is stale, {since} was asked"
            );
            versions[*version].clone()
        };
        let expected = part(&content, range.clone());
        let told = format!("{path} {range:?}, version {version} of {} bytes", content.len());
        assert!(bytes.len() <= expected.len(), "{told}: {} bytes, not {}", bytes.len(), expected.len());
        assert!(!whole || bytes.len() == expected.len(), "{told}: {} of {}", bytes.len(), expected.len());
        let wrong = bytes.iter().zip(expected).position(|(got, right)| got != right);
        assert_eq!(wrong, None, "{told}: byte {wrong:?} of {} is wrong", bytes.len());
    }
}

/// Returns what a server gives of a content.
pub(crate) fn part(content: &[u8], range: Option<Range<usize>>) -> &[u8] {
    let range = range.unwrap_or(0..usize::MAX);
    let end = range.end.min(content.len());
    &content[range.start.min(end)..end]
}

/// Makes content of one of the kinds that matter: without any repetition, text, or one byte for long runs.
pub(crate) fn content(len: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    match dice.below(10) {
        0 => {
            while bytes.len() < len {
                let line = format!("{} entries of section {}\n", dice.below(50), bytes.len() / 4_000);
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        1 => {
            while bytes.len() < len {
                let (run, byte) = (1 + dice.below(150_000), dice.pick(&[0, 0, 0xff]));
                bytes.resize(bytes.len() + run.min(len - bytes.len()), byte);
                bytes.extend(dice.bytes::<64>());
            }
        }
        _ => noise(len, dice, &mut bytes),
    }
    bytes.truncate(len);
    bytes
}

/// Makes content that nobody has seen.
pub(crate) fn fresh(len: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    noise(len, dice, &mut bytes);
    bytes.truncate(len);
    bytes
}

fn noise(len: usize, dice: &mut Dice, bytes: &mut Vec<u8>) {
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.next().to_le_bytes());
    }
}

/// Edits a content, once or a few times.
pub(crate) fn edit(content: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..dice.pick(&[1, 1, 1, 2, 4]) {
        edit_once(content, other, dice);
        content.truncate(FILE_BYTES_MAX);
    }
}

fn edit_once(content: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let at = dice.below(content.len() + 1);
    let size = dice.pick(&[1, 40, 700, 5_000, 70_000, 200_000]);
    let size = 1 + dice.below(size);
    let end = (at + size).min(content.len());
    match dice.below(9) {
        0 | 1 => drop(content.splice(at..at, fresh(size, dice))),
        2 => drop(content.drain(at..end)),
        3 => {
            let new = fresh(end - at, dice);
            content[at..end].copy_from_slice(&new);
        }
        4 => {
            // Two parts change places.
            let cut = content.drain(at..end).collect::<Vec<_>>();
            let to = dice.below(content.len() + 1);
            drop(content.splice(to..to, cut));
        }
        5 => content.extend(fresh(size, dice)),
        6 => content.truncate(content.len().saturating_sub(size)),
        7 => {
            let from = dice.below(other.len() + 1);
            let part = &other[from..(from + size).min(other.len())];
            drop(content.splice(at..at, part.iter().copied()));
        }
        _ => {
            let len = 1 + dice.below(FILE_BYTES_MAX / 2);
            *content = if dice.chance(500) { other.to_vec() } else { self::content(len, dice) };
        }
    }
}

/// No file is longer.
pub(crate) const FILE_BYTES_MAX: usize = 3 << 19;
