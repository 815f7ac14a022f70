//! An object's extents as bytes, for whoever keeps them. All numbers are little-endian.
//!
//! ```text
//!  0        1          3                          3 + 16 n
//!  +--------+----------+--------------------------+----------------------------------------- - -
//!  | format | n: u16   | n versions, 16 bytes each | extents, 54 bytes each, in order of offset
//!  +--------+----------+--------------------------+----------------------------------------- - -
//!  an extent:
//!  0           8                     40         44      48     52           54
//!  +-----------+---------------------+----------+-------+------+------------+
//!  | offset    | digest              | block len| skip  | len  | version    |  ffff: in none that is known
//!  +-----------+---------------------+----------+-------+------+------------+
//! ```
//!
//! Bytes that break a rule (extents that overlap or are none, a version that is not there) are no extents at all.

use std::collections::HashMap;

use super::Extent;
use crate::block::{BLOCK_BYTES_MAX, Digest};
use crate::object::Version;

/// Writes extents, which come in order of their offset.
pub(super) fn encode<'a>(extents: impl Iterator<Item = (u64, &'a Extent)>, count: usize) -> Vec<u8> {
    let mut numbers: HashMap<Version, u16> = HashMap::new();
    let mut versions: Vec<u8> = Vec::new();
    let mut rows: Vec<u8> = Vec::with_capacity(count * ROW_BYTES);
    for (offset, extent) in extents {
        let next = u16::try_from(numbers.len()).unwrap_or(NO_VERSION);
        let version = match extent.version {
            None => NO_VERSION,
            Some(version) => *numbers.entry(version).or_insert_with(|| {
                if next < NO_VERSION {
                    versions.extend_from_slice(&version.0);
                }
                // More than can be numbered: what is not known of a version is only a saving less.
                next
            }),
        };
        rows.extend_from_slice(&offset.to_le_bytes());
        rows.extend_from_slice(&extent.digest.0);
        rows.extend_from_slice(&extent.block_len.to_le_bytes());
        rows.extend_from_slice(&extent.skip.to_le_bytes());
        rows.extend_from_slice(&extent.len.to_le_bytes());
        rows.extend_from_slice(&version.to_le_bytes());
    }
    let count = u16::try_from(versions.len() / VERSION_BYTES).unwrap_or(NO_VERSION);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + versions.len() + rows.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&versions);
    bytes.extend_from_slice(&rows);
    bytes
}

/// Reads what [`encode`] wrote, if that is at least one extent and at most `extents_max`.
pub(super) fn decode(bytes: &[u8], extents_max: usize) -> Option<Vec<(u64, Extent)>> {
    let ([FORMAT, n @ ..], rest) = bytes.split_first_chunk::<HEADER_BYTES>()? else { return None };
    let (versions, rows) = rest.split_at_checked(usize::from(u16::from_le_bytes(*n)) * VERSION_BYTES)?;
    let (versions, _) = versions.as_chunks::<VERSION_BYTES>();
    let (rows, []) = rows.as_chunks::<ROW_BYTES>() else { return None };
    if rows.is_empty() || rows.len() > extents_max {
        return None;
    }
    let mut extents = Vec::with_capacity(rows.len());
    let mut end = 0;
    for row in rows {
        let (offset, extent) = decode_row(row, versions)?;
        if offset < end || !extent.is_sound(offset) || extent.block_len as usize > BLOCK_BYTES_MAX {
            return None;
        }
        end = offset + u64::from(extent.len);
        extents.push((offset, extent));
    }
    Some(extents)
}

fn decode_row(mut row: &[u8], versions: &[[u8; VERSION_BYTES]]) -> Option<(u64, Extent)> {
    let offset = u64::from_le_bytes(take(&mut row)?);
    let digest = Digest(take(&mut row)?);
    let block_len = u32::from_le_bytes(take(&mut row)?);
    let skip = u32::from_le_bytes(take(&mut row)?);
    let len = u32::from_le_bytes(take(&mut row)?);
    let version = match u16::from_le_bytes(take(&mut row)?) {
        NO_VERSION => None,
        number => Some(Version(*versions.get(usize::from(number))?)),
    };
    Some((offset, Extent { digest, block_len, skip, len, version }))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 3;
const VERSION_BYTES: usize = 16;
const ROW_BYTES: usize = 8 + 32 + 3 * 4 + 2;
const NO_VERSION: u16 = u16::MAX;
