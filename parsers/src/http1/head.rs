//! Finds the end of a message's head in a stream cut anywhere, and keeps the head until it is parsed.
//!
//! It owns the only bytes that HTTP parsing copies, at most [`HEAD_BYTES_MAX`] of them. Lines end in CRLF and nothing
//! else. Streams that are not HTTP are found out early: in the first bytes, or at the end of the first line.

use super::{Fault, MessageKind, is_token};

/// The longest head, or trailer section, that is read, in bytes. Servers in the field stop at 8 to 32 KiB.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// The longest method; the longest registered one has 17 letters.
const METHOD_BYTES_MAX: usize = 32;

/// What a buffer may keep allocated between two heads.
const IDLE_BYTES_MAX: usize = 4 << 10;

/// Gathers one head after another.
#[derive(Debug)]
pub struct HeadReader {
    kind: MessageKind,
    head: Vec<u8>,
    /// Where the line at hand begins in `head`.
    line: usize,
}

impl HeadReader {
    /// Returns a reader at the start of a message.
    #[must_use]
    pub fn new(kind: MessageKind) -> Self {
        Self { kind, head: Vec::new(), line: 0 }
    }

    /// Whether no byte of the next head has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Takes bytes up to the end of the head. Returns how many it took, at least one of a non-empty input, and
    /// whether the head stands: then it is at [`HeadReader::head`] until [`HeadReader::clear`].
    ///
    /// # Errors
    /// A [`Fault`] when the first byte of `input` shows it.
    pub fn advance(&mut self, input: &[u8]) -> Result<(usize, bool), Fault> {
        for (taken, byte) in input.iter().enumerate() {
            match self.push(*byte) {
                Ok(false) => {}
                Ok(true) => return Ok((taken + 1, true)),
                Err(fault) if taken == 0 => return Err(fault),
                // The bytes before it are fine; the next call begins with the one that is not.
                Err(_) => return Ok((taken, false)),
            }
        }
        Ok((input.len(), false))
    }

    /// Returns the head, with the empty line that ends it.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Forgets the head.
    pub fn clear(&mut self) {
        self.head.clear();
        self.head.shrink_to(IDLE_BYTES_MAX);
        self.line = 0;
    }

    /// Adds one byte and returns whether it ends the head. A byte that is refused leaves the reader as it was.
    fn push(&mut self, byte: u8) -> Result<bool, Fault> {
        if self.head.len() >= HEAD_BYTES_MAX {
            return Err(Fault::Malformed);
        }
        let after_cr = self.head.len() > self.line && self.head.last() == Some(&b'\r');
        // A bare CR or LF ends a line for some recipients and not for others.
        if after_cr != (byte == b'\n') {
            return Err(Fault::Malformed);
        }
        if byte == b'\n' {
            return self.end_line();
        }
        if byte != b'\r' {
            self.check(byte)?;
        }
        self.head.push(byte);
        Ok(false)
    }

    /// Checks what can be said of a byte by its place alone.
    fn check(&self, byte: u8) -> Result<(), Fault> {
        let at = self.head.len() - self.line;
        if self.line > 0 {
            // A folded line: a field's value for some recipients, a field of its own for others (section 5.2).
            let folded = at == 0 && (byte == b' ' || byte == b'\t');
            return if folded { Err(Fault::Ambiguous) } else { Ok(()) };
        }
        let fits = match self.kind {
            MessageKind::Request => {
                self.head.contains(&b' ')
                    || (at < METHOD_BYTES_MAX && is_token(byte))
                    || (at > 0 && byte == b' ')
            }
            MessageKind::Response => b"HTTP/1.".get(at).is_none_or(|expected| *expected == byte),
        };
        if fits { Ok(()) } else { Err(Fault::Malformed) }
    }

    /// Takes the LF of a CRLF.
    fn end_line(&mut self) -> Result<bool, Fault> {
        let first = self.line == 0;
        let empty = self.head.len() - self.line == 1;
        if first && empty {
            // Clients of old send an empty line after a body; it precedes the next request (section 2.2).
            if self.kind == MessageKind::Response {
                return Err(Fault::Malformed);
            }
            self.head.clear();
            return Ok(false);
        }
        self.head.push(b'\n');
        if first && let Err(fault) = self.check_start_line() {
            self.head.pop();
            return Err(fault);
        }
        self.line = self.head.len();
        Ok(empty)
    }

    fn check_start_line(&self) -> Result<(), Fault> {
        if self.kind == MessageKind::Request && self.head == b"PRI * HTTP/2.0\r\n" {
            return Err(Fault::Http2);
        }
        let parsed = match self.kind {
            MessageKind::Request => httparse::Request::new(&mut []).parse(&self.head),
            MessageKind::Response => httparse::Response::new(&mut []).parse(&self.head),
        };
        parsed.map(|_| ()).map_err(|_| Fault::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_is_cut() {
        let stream = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nbody";
        for cut in 0..stream.len() {
            let mut reader = HeadReader::new(MessageKind::Request);
            let mut taken = 0;
            for piece in [&stream[..cut], &stream[cut..]] {
                if !reader.head().ends_with(b"\r\n\r\n") {
                    taken += reader.advance(piece).unwrap().0;
                }
            }
            assert_eq!(taken, stream.len() - 4, "cut at {cut}");
            assert_eq!(reader.head(), &stream[..stream.len() - 4]);
        }
    }

    #[test]
    fn each_fault_is_found_at_its_byte() {
        let request = MessageKind::Request;
        let response = MessageKind::Response;
        for (kind, stream, fault, at) in [
            (request, &b"\x16\x03\x01"[..], Fault::Malformed, 0),
            (request, b" GET / HTTP/1.1\r\n", Fault::Malformed, 0),
            (request, b"G\0T / HTTP/1.1\r\n", Fault::Malformed, 1),
            (request, b"GET / HTTP/1.1\nHost: h\r\n", Fault::Malformed, 14),
            (request, b"GET / HTTP/1.1\rHost: h\r\n", Fault::Malformed, 15),
            (request, b"GET / HTTP/9.1\r\nHost: h\r\n", Fault::Malformed, 15),
            (request, b"GET /\r\n", Fault::Malformed, 6),
            (request, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Fault::Http2, 15),
            (request, b"GET / HTTP/1.1\r\n a: b\r\n", Fault::Ambiguous, 16),
            (request, b"GET / HTTP/1.1\r\na: b\r\n\tc\r\n", Fault::Ambiguous, 22),
            (response, b"HTTP/2.0 200 OK\r\n", Fault::Malformed, 5),
            (response, b"\r\nHTTP/1.1 200 OK\r\n", Fault::Malformed, 1),
            (response, b"HTTP/1.1 2x0 OK\r\n", Fault::Malformed, 16),
        ] {
            assert_eq!(fault_of(kind, stream), Some((fault, at)), "{}", stream.escape_ascii());
        }
    }

    #[test]
    fn empty_lines_before_a_request_are_no_part_of_its_head() {
        let mut reader = HeadReader::new(MessageKind::Request);
        assert_eq!(reader.advance(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"), Ok((22, true)));
        assert_eq!(reader.head(), b"GET / HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn a_head_beyond_the_limit_is_refused_and_takes_no_more_memory() {
        let mut stream = b"GET / HTTP/1.1\r\na: ".to_vec();
        stream.resize(HEAD_BYTES_MAX * 2, b'x');
        assert_eq!(fault_of(MessageKind::Request, &stream), Some((Fault::Malformed, HEAD_BYTES_MAX)));
    }

    fn fault_of(kind: MessageKind, stream: &[u8]) -> Option<(Fault, usize)> {
        let mut whole = HeadReader::new(kind);
        let mut single = HeadReader::new(kind);
        let by_byte =
            stream.iter().enumerate().find_map(|(at, byte)| Some((single.advance(&[*byte]).err()?, at)));
        let mut at = 0;
        let at_once = loop {
            match whole.advance(&stream[at..]) {
                Ok((taken, false)) if taken > 0 => at += taken,
                Ok(_) => break None,
                Err(fault) => break Some((fault, at)),
            }
        };
        assert_eq!(at_once, by_byte);
        at_once
    }
}
