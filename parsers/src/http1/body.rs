//! Walks the body of one message and tells its content from its framing.
//!
//! It keeps no byte. Content of any length is passed over in one step, so its cost does not depend on its size.

use super::{Chunked, Fault, Framing};

/// A run of bytes at the start of an input to [`Body::advance`]; never empty for a non-empty input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Chunk sizes, extensions, trailers and the line ends between them.
    Framing(usize),
    /// Content.
    Content {
        /// Length in bytes.
        len: usize,
        /// Whether the body, or the chunk, ends here.
        last: bool,
    },
}

/// Where in its body a message is.
#[derive(Debug, Clone)]
pub enum Body {
    /// So many bytes are left.
    Length(u64),
    /// Somewhere in a chunked body.
    Chunked(Chunked),
    /// Until the connection closes.
    UntilClose,
}

impl Body {
    /// Returns a walk at the body's first byte.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(len) => Self::Length(len),
            Framing::Chunked => Self::Chunked(Chunked::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the message ends here.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
        }
    }

    /// Takes the first run of bytes of one kind. Not to be called when the body is done.
    ///
    /// # Errors
    /// A [`Fault`] when the first byte of `input` shows it.
    pub fn advance(&mut self, input: &[u8]) -> Result<Piece, Fault> {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= len as u64;
                Ok(Piece::Content { len, last: *left == 0 })
            }
            Self::Chunked(chunked) => chunked.advance(input),
            Self::UntilClose => Ok(Piece::Content { len: input.len(), last: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_known_length_ends_there_however_it_is_cut() {
        for cut in 1..=10 {
            let mut body = Body::new(Framing::Length(10));
            let mut left: &[u8] = &[0; 15];
            while !body.is_done() {
                let Ok(Piece::Content { len, last }) = body.advance(&left[..cut.min(left.len())]) else {
                    panic!("all of it is content");
                };
                left = &left[len..];
                assert_eq!(last, left.len() == 5);
            }
            assert_eq!(left.len(), 5, "pieces of {cut}");
        }
    }

    #[test]
    fn a_body_until_close_never_ends_by_itself() {
        let mut body = Body::new(Framing::UntilClose);
        assert_eq!(body.advance(&[0; 9]), Ok(Piece::Content { len: 9, last: false }));
        assert!(!body.is_done());
    }
}
