//! The layout of a segment file, version 2. All numbers are little-endian.
//!
//! ```text
//!  offset     bytes
//!  0          64     header
//!  64         ...    blocks, back to back, each 92 bytes longer than its content
//!  end        88n+16 manifest, sealed
//!  end+88n+16 16     trailer
//! ```
//!
//! Header, in the clear:
//!
//! ```text
//!  0               8       12      16              32                              64
//!  +---------------+-------+-------+---------------+-------------------------------+
//!  | "wanigSEG"    |version|id     |store id       |salt of the segment's key      |
//!  +---------------+-------+-------+---------------+-------------------------------+
//! ```
//!
//! A block is one seal (see [`Sealed::Block`]) over its reference and its content; associated data is the segment's
//! id and the block's offset. The digest is inside of the seal, beside the bytes that it is the digest of, rather
//! than in the associated data: so a table entry that points at another block is told from rotten bytes.
//!
//! ```text
//!  0                               32                              64      72  76
//!  +-------------------------------+-------------------------------+-------+---+------------+-------+
//!  |digest                         |secret                         |key id |len|content, len|tag, 16|
//!  +-------------------------------+-------------------------------+-------+---+------------+-------+
//! ```
//!
//! The manifest is one seal (see [`Sealed::Manifest`]) over an entry for each block; header and trailer are its
//! associated data. It holds block secrets, hence sealed. An entry, in the order of their places:
//!
//! ```text
//!  0                               32                              64      72  76  80      88
//!  +-------------------------------+-------------------------------+-------+---+---+-------+
//!  |digest                         |secret                         |key id |len|off|tag    |
//!  +-------------------------------+-------------------------------+-------+---+---+-------+
//! ```
//!
//! The last are the first bytes of the block's tag. They follow from the rest, but a start that had to hash for
//! each block would take several times as long.
//!
//! Trailer, in the clear:
//!
//! ```text
//!  0       4       8               16
//!  +-------+-------+---------------+
//!  |blocks |end    |"wanigEND"     |
//!  +-------+-------+---------------+
//! ```
//!
//! The index's row of a segment is the same three, header, sealed manifest and trailer, one after the other: see
//! [`Manifest`].
//!
//! A reader of this version drops files of any other; a cache is refilled sooner than it is converted.

use bytes::Bytes;

use super::disk::{DiskFile, SegmentId};
use super::name::{Hint, Name, TagPrefix};
use super::seal::{BrokenSeal, Sealed, SegmentKey, SegmentSecret, StoreKey, TAG_BYTES};
use crate::block::{Block, Digest, KeyId, Reference, Secret};

/// Bytes before the first block.
pub(super) const HEADER_BYTES: usize = 64;
/// Blocks in one segment, at most: bounds a manifest to 704 KiB, however short the blocks.
pub(super) const BLOCKS_MAX: usize = 8192;

/// Who a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: SegmentId,
    pub(super) store_id: [u8; 16],
    pub(super) salt: [u8; 32],
}

/// A block's place in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) reference: Reference,
    pub(super) offset: u32,
    /// The first bytes of the reference's tag.
    pub(super) prefix: TagPrefix,
}

/// Every block of a segment, or of its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) header: Header,
    pub(super) entries: Vec<Entry>,
    /// Where the last block ends.
    pub(super) end: u32,
}

/// A block read from a segment.
#[derive(Debug)]
pub(super) enum Record {
    /// The block that was asked for.
    Found(Block),
    /// Another block is there; or the same one, which was written under another secret.
    Other(Block),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(HEADER_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.id.0.to_le_bytes());
        out[16..32].copy_from_slice(&self.store_id);
        out[32..].copy_from_slice(&self.salt);
        out
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut rest = &bytes[..];
        let known = take::<8>(&mut rest)? == *HEADER_MAGIC && take_u32(&mut rest)? == VERSION;
        let id = SegmentId(take_u32(&mut rest)?);
        let header = Self { id, store_id: take(&mut rest)?, salt: take(&mut rest)? };
        known.then_some(header)
    }

    pub(super) fn secret(&self, key: &StoreKey) -> SegmentSecret {
        key.segment_secret(self.id.0, &self.salt)
    }
}

impl Manifest {
    pub(super) fn new(header: Header) -> Self {
        Self { header, entries: Vec::new(), end: HEADER_BYTES as u32 }
    }

    /// Returns the length of the file whose footer is this manifest.
    pub(super) fn file_bytes(&self) -> u64 {
        u64::from(self.end) + footer_bytes(self.entries.len()) as u64
    }

    /// Returns the index's row: header, sealed manifest, trailer.
    pub(super) fn encode(&self, key: &SegmentKey) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(footer_bytes(self.entries.len()) + HEADER_BYTES);
        for entry in &self.entries {
            put_reference(&mut sealed, &entry.reference);
            sealed.extend_from_slice(&entry.offset.to_le_bytes());
            sealed.extend_from_slice(&entry.prefix);
        }
        let (header, trailer) = (self.header.encode(), self.trailer());
        key.seal(Sealed::Manifest(self.blocks()), &[&header[..], &trailer].concat(), &mut sealed);
        [&header[..], &sealed, &trailer].concat()
    }

    /// Reads the row of the segment `id`; `None` when it is not one that this store wrote.
    pub(super) fn decode(store_key: &StoreKey, id: SegmentId, row: &[u8]) -> Option<Self> {
        Self::decode_with(|header| header.secret(store_key), id, row)
    }

    /// Reads a row as [`Manifest::decode`] does, for whoever has the segment's secret only.
    pub(super) fn decode_with(
        secret: impl FnOnce(&Header) -> SegmentSecret,
        id: SegmentId,
        row: &[u8],
    ) -> Option<Self> {
        let (header, rest) = row.split_first_chunk::<HEADER_BYTES>()?;
        let (sealed, trailer) = rest.split_last_chunk::<TRAILER_BYTES>()?;
        let (blocks, end) = decode_trailer(trailer)?;
        let sealed_header = header;
        let header = Header::decode(header).filter(|header| header.id == id)?;
        if sealed.len() + TRAILER_BYTES != footer_bytes(blocks as usize) {
            return None;
        }
        let mut plain = sealed.to_vec();
        let key = secret(&header).key();
        key.open(Sealed::Manifest(blocks), &[&sealed_header[..], trailer].concat(), &mut plain).ok()?;
        let entries: Option<Vec<_>> = plain.chunks_exact(ENTRY_BYTES).map(Entry::decode).collect();
        Some(Self { header, entries: entries?, end })
    }

    /// Reads the footer of a segment file; `None` when it has none that this store wrote.
    pub(super) fn read(
        secret: impl FnOnce(&Header) -> SegmentSecret,
        id: SegmentId,
        file: &dyn DiskFile,
    ) -> std::io::Result<Option<Self>> {
        let len = file.len()?;
        let Some(trailer_at) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        file.read_at(trailer_at, &mut trailer)?;
        let Some((blocks, end)) = decode_trailer(&trailer) else { return Ok(None) };
        let footer = footer_bytes(blocks as usize);
        if (end as usize) < HEADER_BYTES || u64::from(end) + footer as u64 != len {
            return Ok(None);
        }
        let mut row = vec![0; HEADER_BYTES + footer];
        file.read_at(0, &mut row[..HEADER_BYTES])?;
        file.read_at(u64::from(end), &mut row[HEADER_BYTES..])?;
        Ok(Self::decode_with(secret, id, &row))
    }

    fn trailer(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[..4].copy_from_slice(&self.blocks().to_le_bytes());
        out[4..8].copy_from_slice(&self.end.to_le_bytes());
        out[8..].copy_from_slice(TRAILER_MAGIC);
        out
    }

    fn blocks(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("a segment holds at most BLOCKS_MAX blocks")
    }
}

impl Entry {
    /// Makes the entry of a block that is written at `offset`.
    pub(super) fn new(reference: Reference, offset: u32) -> Self {
        Self { reference, offset, prefix: Name::of(&reference).hint().prefix }
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let (reference, offset) = (take_reference(&mut bytes)?, take_u32(&mut bytes)?);
        Some(Self { reference, offset, prefix: take(&mut bytes)? })
    }

    /// Returns what the block is found by.
    pub(super) fn hint(&self) -> Hint {
        Hint { key: self.reference.key, prefix: self.prefix }
    }

    /// Returns where the block ends.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + record_bytes(self.reference.len) as u64
    }
}

/// Returns how many bytes a block of that length takes in a segment.
pub(super) fn record_bytes(len: u32) -> usize {
    REFERENCE_BYTES + len as usize + TAG_BYTES
}

/// Returns how many bytes follow the blocks.
pub(super) fn footer_bytes(blocks: usize) -> usize {
    ENTRY_BYTES * blocks + TAG_BYTES + TRAILER_BYTES
}

/// Returns the bytes that lie in the segment at `offset` for the block.
pub(super) fn encode_record(key: &SegmentKey, id: SegmentId, offset: u32, block: &Block) -> Vec<u8> {
    let mut record = Vec::with_capacity(record_bytes(block.reference().len));
    put_reference(&mut record, block.reference());
    record.extend_from_slice(block.bytes());
    key.seal(Sealed::Block(offset), &record_aad(id, offset), &mut record);
    record
}

/// Opens what lies in the segment at `offset` and compares it with what was asked for, secret and all.
///
/// # Errors
/// [`BrokenSeal`] when those are not bytes that were written there.
pub(super) fn decode_record(
    key: &SegmentKey,
    id: SegmentId,
    offset: u32,
    wanted: &Reference,
    mut record: Vec<u8>,
) -> Result<Record, BrokenSeal> {
    key.open(Sealed::Block(offset), &record_aad(id, offset), &mut record)?;
    let reference = take_reference(&mut &record[..]).ok_or(BrokenSeal)?;
    let block = Block::from_seal(reference, Bytes::from(record).slice(REFERENCE_BYTES..));
    Ok(if reference == *wanted { Record::Found(block) } else { Record::Other(block) })
}

fn record_aad(id: SegmentId, offset: u32) -> [u8; 8] {
    let mut aad = [0; 8];
    aad[..4].copy_from_slice(&id.0.to_le_bytes());
    aad[4..].copy_from_slice(&offset.to_le_bytes());
    aad
}

fn decode_trailer(trailer: &[u8; TRAILER_BYTES]) -> Option<(u32, u32)> {
    let mut rest = &trailer[..];
    let (blocks, end) = (take_u32(&mut rest)?, take_u32(&mut rest)?);
    (take::<8>(&mut rest)? == *TRAILER_MAGIC && blocks as usize <= BLOCKS_MAX).then_some((blocks, end))
}

fn put_reference(out: &mut Vec<u8>, reference: &Reference) {
    out.extend_from_slice(&reference.digest.0);
    out.extend_from_slice(&reference.secret.0);
    out.extend_from_slice(&reference.key.0);
    out.extend_from_slice(&reference.len.to_le_bytes());
}

fn take_reference(bytes: &mut &[u8]) -> Option<Reference> {
    Some(Reference {
        digest: Digest(take(bytes)?),
        secret: Secret(take(bytes)?),
        key: KeyId(take(bytes)?),
        len: take_u32(bytes)?,
    })
}

/// Takes a number from the front.
pub(super) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

/// Takes bytes from the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

const VERSION: u32 = 2;
const HEADER_MAGIC: &[u8; 8] = b"wanigSEG";
const TRAILER_MAGIC: &[u8; 8] = b"wanigEND";
const TRAILER_BYTES: usize = 16;
const REFERENCE_BYTES: usize = 76;
const ENTRY_BYTES: usize = REFERENCE_BYTES + 4 + size_of::<TagPrefix>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn a_record_opens_at_its_place_for_its_whole_reference_only() {
        let (header, key) = segment();
        let block = block(b"content");
        let record = encode_record(&key, header.id, 64, &block);
        assert_eq!(record.len(), record_bytes(7));
        let decode = |id, offset, wanted: &Reference| decode_record(&key, id, offset, wanted, record.clone());
        match decode(header.id, 64, block.reference()).unwrap() {
            Record::Found(found) => assert_eq!(found.bytes(), "content"),
            Record::Other(_) => panic!("the block is there"),
        }
        let wrong_secret = Reference { secret: Secret([0; 32]), ..*block.reference() };
        assert!(matches!(decode(header.id, 64, &wrong_secret), Ok(Record::Other(_))));
        assert!(decode(header.id, 65, block.reference()).is_err());
        assert!(decode(SegmentId(8), 64, block.reference()).is_err());
    }

    #[test]
    fn a_record_hides_digest_secret_and_content() {
        let (header, key) = segment();
        let block = block(b"some content that can be told");
        let record = encode_record(&key, header.id, 64, &block);
        let manifest = manifest(header, &[&block]).encode(&key);
        for bytes in [record, manifest] {
            for hidden in [&block.reference().digest.0[..8], &block.reference().secret.0[..8], b"some con"] {
                assert!(!bytes.windows(8).any(|window| window == hidden));
            }
        }
    }

    #[test]
    fn a_manifest_is_what_was_encoded_or_nothing() {
        let (header, key) = segment();
        let manifest = manifest(header, &[&block(b"one"), &block(b"two")]);
        let row = manifest.encode(&key);
        assert_eq!(row, manifest.encode(&key), "the row and the footer are the same bytes");
        assert_eq!(Manifest::decode(&store_key(), header.id, &row), Some(manifest));
        assert_eq!(Manifest::decode(&store_key(), SegmentId(8), &row), None);
        assert_eq!(Manifest::decode(&StoreKey::new([9; 32]), header.id, &row), None);
        for at in 0..row.len() {
            let mut bad = row.clone();
            bad[at] ^= 1;
            assert_eq!(Manifest::decode(&store_key(), header.id, &bad), None, "byte {at}");
            assert_eq!(Manifest::decode(&store_key(), header.id, &row[..at]), None, "cut at {at}");
        }
    }

    fn store_key() -> StoreKey {
        StoreKey::new([1; 32])
    }

    fn segment() -> (Header, SegmentKey) {
        let header = Header { id: SegmentId(7), store_id: [2; 16], salt: [3; 32] };
        let key = header.secret(&store_key()).key();
        (header, key)
    }

    fn block(bytes: &'static [u8]) -> Block {
        ServerSecret::new([4; 32]).mint(Bytes::from_static(bytes))
    }

    fn manifest(header: Header, blocks: &[&Block]) -> Manifest {
        let mut manifest = Manifest::new(header);
        for block in blocks {
            let entry = Entry::new(*block.reference(), manifest.end);
            manifest.end = u32::try_from(entry.end()).unwrap();
            manifest.entries.push(entry);
        }
        manifest
    }
}
