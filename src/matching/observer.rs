//! What a receiver learns of the content that passes through it: which block's bytes lie where.
//!
//! An edge that has given a file to a client so knows it again when the client writes an edited one, and a core that
//! passed an upload on when somebody reads it. Only what came as blocks is learned. Nothing is said of versions: what
//! a receiver knows of who may read a file is hearsay.

use bytes::Bytes;
use std::sync::PoisonError;

use super::anchors;
use super::map::{Extent, MapHandle};
use super::matcher::CELL_BYTES;
use crate::block::Digest;
use crate::shim::{Span, SpanKind};

/// Which part of which block bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The block.
    pub digest: Digest,
    /// Its length.
    pub block_len: u32,
    /// Where in it the bytes begin.
    pub skip: u32,
}

/// Learns from one direction of a flow.
#[derive(Debug)]
pub struct Observer {
    map: MapHandle,
    server: Vec<u8>,
}

impl Observer {
    /// Makes the observer of what comes from or goes to a server.
    #[must_use]
    pub fn new(map: MapHandle, server: &[u8]) -> Self {
        Self { map, server: server.to_vec() }
    }

    /// Takes bytes of a block that pass, with the spans that the shim made of them.
    pub fn handle_block(&self, origin: &Origin, bytes: &Bytes, spans: &[Span]) {
        // Other nodes may make longer blocks. What the matcher finds here goes in full at times, for which no more
        // than a cell always has credit.
        if origin.block_len as usize > CELL_BYTES {
            return;
        }
        let mut at = 0;
        for span in spans {
            if let SpanKind::Content { offset, object: Some(object), .. } = span.kind {
                let place = object.place.at(&self.server);
                let narrow = |len: usize| u32::try_from(len).expect("a block is far below 4 GiB");
                let (skip, len) = (origin.skip + narrow(at), narrow(span.len));
                let extent =
                    Extent { digest: origin.digest, block_len: origin.block_len, skip, len, version: None };
                let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
                let is_known = map.at(&place, offset).is_some_and(|(start, known)| {
                    known.digest == origin.digest
                        && u64::from(known.skip) + (offset - start) == u64::from(skip)
                });
                if !is_known {
                    map.learn(&place, offset, extent);
                    drop(map);
                    let anchors = anchors::of_block(&bytes[at..at + span.len]);
                    let digest = (len == origin.block_len).then_some(&origin.digest);
                    let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
                    map.index_all(&place, offset, digest, &anchors);
                }
            }
            at += span.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::block::Hashed;
    use crate::fault::OpaqueReason;
    use crate::matching::ContentMap;
    use crate::object::{Object, Place, Version};

    #[test]
    fn what_passes_as_a_block_is_known_by_place_and_digest_and_in_no_version() {
        let map: MapHandle = Arc::new(Mutex::new(ContentMap::new(100, 100)));
        let observer = Observer::new(Arc::clone(&map), b"server");
        let block = Hashed::of(vec![7; 5_000].into());
        let origin = Origin { digest: *block.digest(), block_len: 5_000, skip: 0 };
        let object = Object { place: Place([1; 16]), version: Some(Version([2; 16])) };
        let content = Span {
            len: 4_000,
            kind: SpanKind::Content { offset: 100, last: true, end: false, object: Some(object) },
        };
        observer.handle_block(&origin, block.bytes(), &[Span::opaque(1_000, OpaqueReason::Framing), content]);
        let place = object.place.at(b"server");
        let expected =
            Extent { digest: origin.digest, block_len: 5_000, skip: 1_000, len: 4_000, version: None };
        assert_eq!(map.lock().unwrap().at(&place, 200), Some((100, expected)));
        let unknown = Span::content(5_000, 0, true);
        observer.handle_block(&origin, block.bytes(), &[unknown]);
        assert_eq!(map.lock().unwrap().extents(), 1);
    }
}
