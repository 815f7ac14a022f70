//! What a TREE_CONNECT and a CREATE request name.
//!
//! Owns how a share's path and a file's name become a [`Place`], in which spellings of one file come together, and an
//! exact name, in which none do. Refuses to know of responses. What can go wrong: a name that is not in the message, or
//! contexts that are not known to leave the name its meaning; such a file has no name.

use wanigan_parsers::smb2::{CreateContext, CreateRequest, Flags, TreeConnectRequest};

use super::walk::Message;
use crate::object::{Place, Version};

/// The most bytes of a TREE_CONNECT request's body that are looked at; server and share names have 255 and 80 letters.
pub(super) const TREE_CONNECT_BYTES_MAX: usize = 2 << 10;

/// The most bytes of a CREATE request's body that are looked at: a name and the usual contexts.
pub(super) const CREATE_BYTES_MAX: usize = 64 << 10;

/// Create contexts that leave the name its meaning. DHnC and DH2C are not among them: they take up a handle again, for
/// which servers need not look at the name (MS-SMB2 3.3.5.9.7).
const HARMLESS: [&[u8]; 12] = [
    b"ExtA",
    b"SecD",
    b"DHnQ",
    b"DH2Q",
    b"AlSi",
    b"MxAc",
    b"QFid",
    b"RqLs",
    b"AAPL",
    // SMB2_CREATE_APP_INSTANCE_ID and _VERSION, and the POSIX extensions' context.
    b"\x45\xbc\xa6\x6a\xef\xa7\xf7\x4a\x90\x08\xfa\x46\x2e\x14\x4d\x74",
    b"\xb9\x82\xd0\xb7\x3b\x56\x07\x4f\xa0\x7b\x52\x4a\x81\x16\xa0\x10",
    b"\x93\xad\x25\x50\x9c\xb4\x11\xe7\xb4\x23\x83\xde\x96\x8b\xcd\x7c",
];

/// A share, as its TREE_CONNECT request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// In small letters and without the server, which goes by several names and addresses.
    folded: String,
    /// The bytes of the path.
    exact: Vec<u8>,
}

/// A file, as its CREATE request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileName {
    /// The same for any case of letters.
    pub(super) place: Place,
    /// Of the exact bytes.
    pub(super) exact: Version,
}

impl Share {
    /// Reads the path of a request.
    pub(super) fn requested(message: &Message<'_>) -> Option<Self> {
        let (_, request) = TreeConnectRequest::parse(message.body).ok()?;
        let offset = usize::from(request.path_offset);
        if request.flags & TreeConnectRequest::EXTENSION_PRESENT != 0
            || offset < TreeConnectRequest::PATH_OFFSET_MIN
        {
            return None;
        }
        let exact = message.bytes(offset, usize::from(request.path_length))?;
        let path = fold(exact)?;
        let (_, share) = path.strip_prefix(r"\\")?.split_once('\\')?;
        Some(Self { folded: share.to_owned(), exact: exact.to_vec() })
    }
}

impl FileName {
    /// Reads the name of a request on a share.
    pub(super) fn requested(message: &Message<'_>, request: &CreateRequest, share: &Share) -> Option<Self> {
        if request.options & CreateRequest::OPEN_BY_FILE_ID != 0 {
            return None;
        }
        let (offset, length) = (usize::from(request.name_offset), usize::from(request.name_length));
        let name = match length {
            0 => &[][..],
            _ if offset < CreateRequest::BUFFER_OFFSET_MIN => return None,
            _ => message.bytes(offset, length)?,
        };
        let snapshot = snapshot(message, request)?;
        let folded = fold(name)?;
        let dfs = message.header.flags.contains(Flags::DFS_OPERATIONS);
        let path = if dfs { without_server(&folded) } else { folded.trim_start_matches('\\') };
        Some(Self {
            place: Place::of(&[b"smb", share.folded.as_bytes(), plain_stream(path).as_bytes(), snapshot]),
            exact: Version::of(&[b"smb", &share.exact, name, snapshot, &[u8::from(dfs)]]),
        })
    }
}

/// Returns the snapshot that a request asks for, empty for the live file.
fn snapshot<'a>(message: &'a Message<'_>, request: &CreateRequest) -> Option<&'a [u8]> {
    let length = usize::try_from(request.contexts_length).ok()?;
    if length == 0 {
        return Some(&[]);
    }
    let offset = usize::try_from(request.contexts_offset).ok()?;
    if offset < CreateRequest::BUFFER_OFFSET_MIN {
        return None;
    }
    let mut snapshot = &[][..];
    for context in CreateContext::list(message.bytes(offset, length)?) {
        let context = context?;
        if context.name == CreateContext::TIMEWARP {
            if !snapshot.is_empty() || context.data.is_empty() {
                return None;
            }
            snapshot = context.data;
        } else if !HARMLESS.contains(&context.name) {
            return None;
        }
    }
    Some(snapshot)
}

/// Turns UTF-16 into small letters; `None` for half a unit.
fn fold(name: &[u8]) -> Option<String> {
    let (units, []) = name.as_chunks::<2>() else { return None };
    let letters = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)));
    let letters = letters.map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER));
    Some(letters.flat_map(char::to_lowercase).collect())
}

/// Returns what follows server and share in a DFS path (MS-SMB2 2.2.13).
fn without_server(path: &str) -> &str {
    path.trim_start_matches('\\').splitn(3, '\\').nth(2).unwrap_or_default()
}

/// Drops what need not be said of a stream: the type of a stream of data, and that it is the unnamed one.
fn plain_stream(path: &str) -> &str {
    let path = path.strip_suffix(":$data").unwrap_or(path);
    path.strip_suffix(':').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_folded_and_halves_of_pairs_survive() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(fold(&utf16("ÄB\\c")), Some("äb\\c".to_owned()));
        assert_eq!(fold(&[0x41, 0, 0, 0xd8]), Some("a\u{fffd}".to_owned()));
        assert_eq!(fold(&[0x41]), None);
        assert_eq!(fold(&[]), Some(String::new()));
    }

    #[test]
    fn the_unnamed_stream_is_the_file() {
        for (path, plain) in
            [("a", "a"), ("a::$data", "a"), ("a:s:$data", "a:s"), ("a:s", "a:s"), (":$data", "")]
        {
            assert_eq!(plain_stream(path), plain, "{path}");
        }
    }

    #[test]
    fn a_dfs_path_is_known_without_its_server_and_share() {
        assert_eq!(without_server(r"srv\share\a\b"), r"a\b");
        assert_eq!(without_server(r"\srv\share"), "");
        assert_eq!(without_server(""), "");
    }
}
