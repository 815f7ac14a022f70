//! The chunked transfer coding (RFC 9112 section 7.1): chunk sizes, extensions, trailers.
//!
//! ```text
//! size [;extension] CRLF  data  CRLF   ...   0 [;extension] CRLF  trailers  CRLF
//! ```
//!
//! Sizes, extensions and trailers are walked byte by byte and not kept; data is passed over in one step.

use super::{Fault, HEAD_BYTES_MAX, Piece, is_text, is_token};

/// The longest line of a chunk's size and extensions, in bytes.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;

/// The most digits of a chunk's size: 2^60 is beyond any chunk, and no sum of offsets overflows.
const SIZE_DIGITS_MAX: usize = 15;

/// Walks one chunked body.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    /// The size of the chunk at hand; when in its data, what is left of it.
    left: u64,
    /// Bytes of the line, or of the trailer section, at hand.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    /// Returns a walk at the first chunk's size.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Size, left: 0, line: 0 }
    }

    /// Whether the last byte of the body has passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the first run of bytes of one kind; see [`super::Body::advance`].
    ///
    /// # Errors
    /// A [`Fault`] when the first byte of `input` shows it.
    pub fn advance(&mut self, input: &[u8]) -> Result<Piece, Fault> {
        if self.state == State::Data {
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            self.left -= len as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
            return Ok(Piece::Content { len, last: self.left == 0 });
        }
        for (taken, byte) in input.iter().enumerate() {
            if matches!(self.state, State::Data | State::Done) {
                return Ok(Piece::Framing(taken));
            }
            match self.next(*byte) {
                Ok(state) => self.state = state,
                Err(fault) if taken == 0 => return Err(fault),
                Err(_) => return Ok(Piece::Framing(taken)),
            }
        }
        Ok(Piece::Framing(input.len()))
    }

    /// Returns the state after one byte outside data. A byte that is refused changes nothing.
    fn next(&mut self, byte: u8) -> Result<State, Fault> {
        match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte),
            (State::Size, _) if self.line == 0 => Err(Fault::Malformed),
            (State::Size | State::SizeSpace | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::SizeSpace, b' ' | b'\t') => {
                self.count(CHUNK_LINE_BYTES_MAX, State::SizeSpace)
            }
            (State::Size | State::SizeSpace, b';') => self.count(CHUNK_LINE_BYTES_MAX, State::Extension),
            (State::Extension, _) if is_text(byte) => self.count(CHUNK_LINE_BYTES_MAX, State::Extension),
            (State::SizeLf, b'\n') => {
                self.line = 0;
                Ok(if self.left == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            // A folded line, as in a head.
            (State::TrailerStart, b' ' | b'\t') => Err(Fault::Ambiguous),
            (State::TrailerStart, _) if is_token(byte) => self.count(HEAD_BYTES_MAX, State::Trailer),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::Trailer, _) if is_text(byte) => self.count(HEAD_BYTES_MAX, State::Trailer),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Fault::Malformed),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, Fault> {
        if self.line >= SIZE_DIGITS_MAX {
            return Err(Fault::Malformed);
        }
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        // `left` is 0 when a size begins: the chunk before has passed.
        self.left = self.left << 4 | u64::from(value);
        self.line += 1;
        Ok(State::Size)
    }

    fn count(&mut self, max: usize, state: State) -> Result<State, Fault> {
        if self.line >= max {
            return Err(Fault::Malformed);
        }
        self.line += 1;
        Ok(state)
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_and_trailers_are_framing_and_data_is_content() {
        let stream = b"4;a=\"b;c\"\r\nWiki\r\n1a \t;x\r\nabcdefghijklmnopqrstuvwxyz\r\n000 \r\nDigest: x\r\nA:\r\n\r\n";
        let expected = vec![(false, 11), (true, 4), (false, 10), (true, 26), (false, 25)];
        assert_eq!(walk(stream, stream.len()), (expected.clone(), None, true));
        for cut in 1..stream.len() {
            assert_eq!(walk(stream, cut), (expected.clone(), None, true), "cut every {cut} bytes");
        }
    }

    #[test]
    fn bytes_after_the_body_are_not_taken() {
        let mut chunked = Chunked::new();
        assert_eq!(chunked.advance(b"0\r\n\r\nHTTP/1.1 200 OK"), Ok(Piece::Framing(5)));
        assert!(chunked.is_done());
    }

    #[test]
    fn each_fault_is_found_at_its_byte() {
        let long_extension = [b"1;".to_vec(), vec![b'x'; CHUNK_LINE_BYTES_MAX]].concat();
        // Four bytes of each line count, its end does not.
        let long_trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(HEAD_BYTES_MAX / 4 + 1)].concat();
        for (stream, fault, at) in [
            (&b"\r\n"[..], Fault::Malformed, 0),
            (b"-1\r\n", Fault::Malformed, 0),
            (b"0x1\r\n", Fault::Malformed, 1),
            (b"1 0\r\n", Fault::Malformed, 2),
            (b"1\n", Fault::Malformed, 1),
            (b"1\rx", Fault::Malformed, 2),
            (b"1;\0", Fault::Malformed, 2),
            (b"1\r\nabc", Fault::Malformed, 4),
            (b"1\r\na\rb", Fault::Malformed, 5),
            (b"1000000000000000\r\n", Fault::Malformed, 15),
            (b"0\r\n folded", Fault::Ambiguous, 3),
            (b"0\r\n: x", Fault::Malformed, 3),
            (b"0\r\na: b\nc", Fault::Malformed, 7),
            (&long_extension, Fault::Malformed, CHUNK_LINE_BYTES_MAX),
            (&long_trailers, Fault::Malformed, 3 + HEAD_BYTES_MAX / 4 * 6),
        ] {
            let name = stream[..stream.len().min(40)].escape_ascii();
            assert_eq!(walk(stream, stream.len()).1, Some((fault, at)), "{name}");
            assert_eq!(walk(stream, 1).1, Some((fault, at)), "{name} byte by byte");
        }
    }

    /// Merged runs (is content, length), the fault and its byte, whether the body ended.
    type Walk = (Vec<(bool, usize)>, Option<(Fault, usize)>, bool);

    /// Walks `stream` in pieces of `cut` bytes.
    fn walk(stream: &[u8], cut: usize) -> Walk {
        let mut chunked = Chunked::new();
        let mut runs: Vec<(bool, usize)> = Vec::new();
        let mut at = 0;
        for piece in stream.chunks(cut) {
            let mut rest = piece;
            while !rest.is_empty() && !chunked.is_done() {
                let (content, len) = match chunked.advance(rest) {
                    Ok(Piece::Content { len, .. }) => (true, len),
                    Ok(Piece::Framing(len)) => (false, len),
                    Err(fault) => return (runs, Some((fault, at)), false),
                };
                match runs.last_mut() {
                    Some(run) if run.0 == content => run.1 += len,
                    _ => runs.push((content, len)),
                }
                at += len;
                rest = &rest[len..];
            }
        }
        (runs, None, chunked.is_done())
    }
}
