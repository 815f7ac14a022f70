//! Which protocol a client speaks, from its first bytes.
//!
//! Looks at [`DETECT_BYTES_MAX`] bytes at most and refuses to know ports. A wrong answer costs savings, never a byte:
//! the shim that is chosen finds nothing it knows and stays opaque. The answer to a longer prefix never contradicts
//! the answer to a shorter one.

use crate::nbss;
use crate::smb2::ProtocolId;

/// The most bytes [`detect`] wants to see before it decides.
pub const DETECT_BYTES_MAX: usize = 48;

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// An SMB2 frame, plain, encrypted or compressed.
    Smb2,
    /// An SMB1 frame. A multi-protocol NEGOTIATE leads from it into SMB2 (MS-SMB2 3.3.5.3).
    Smb1,
    /// A session request on port 139; either SMB may follow.
    NetbiosSession,
    /// An HTTP/1 request line.
    Http1,
    /// The connection preface of HTTP/2 with prior knowledge (RFC 9113 section 3.4).
    Http2Preface,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Other,
    /// The bytes so far fit more than one answer.
    NeedMore,
}

/// Tells which protocol begins with `input`: the first bytes of a connection from the client.
#[must_use]
pub fn detect(input: &[u8]) -> Detected {
    match input.first() {
        None => Detected::NeedMore,
        Some(0x00) => detect_direct_tcp(input),
        Some(0x81) => detect_netbios(input),
        Some(0x16) => detect_tls(input),
        Some(_) => detect_http(input),
    }
}

/// Reads a session message (MS-SMB2 2.1) as far as the first bytes of its payload.
fn detect_direct_tcp(input: &[u8]) -> Detected {
    let Some((_, payload)) = input.split_first_chunk::<{ nbss::HEADER_BYTES }>() else {
        return Detected::NeedMore;
    };
    let known = [
        (ProtocolId::SMB2, Detected::Smb2),
        (ProtocolId::TRANSFORM, Detected::Smb2),
        (ProtocolId::COMPRESSION, Detected::Smb2),
        (ProtocolId::SMB1, Detected::Smb1),
    ];
    for (protocol_id, detected) in known {
        match starts_with(payload, &protocol_id.0) {
            Some(true) => return detected,
            None => return Detected::NeedMore,
            Some(false) => {}
        }
    }
    Detected::Other
}

/// Reads a session request: two encoded names of 34 bytes, or longer ones with a scope (RFC 1002 section 4.3.2).
fn detect_netbios(input: &[u8]) -> Detected {
    match nbss::Header::parse(input) {
        Ok((_, header)) if header.len >= 68 && header.len <= 512 => Detected::NetbiosSession,
        Err(nom::Err::Incomplete(_)) => Detected::NeedMore,
        Ok(_) | Err(_) => Detected::Other,
    }
}

/// Reads a record header and the handshake type behind it (RFC 8446 sections 4 and 5.1).
fn detect_tls(input: &[u8]) -> Detected {
    const RECORD_BYTES_MAX: u16 = 1 << 14;
    let fits = |at: usize, check: fn(u8) -> bool| input.get(at).copied().map(check);
    let checks = [fits(1, |major| major == 3), fits(2, |minor| minor <= 4), fits(5, |kind| kind == 1)];
    let len = input.get(3..5).map(|len| u16::from_be_bytes([len[0], len[1]]));
    if checks.contains(&Some(false)) || len.is_some_and(|len| len > RECORD_BYTES_MAX) {
        Detected::Other
    } else if input.len() < 6 {
        Detected::NeedMore
    } else {
        Detected::Tls
    }
}

/// Reads a request line as far as the start of its target (RFC 9112 section 3).
fn detect_http(input: &[u8]) -> Detected {
    match starts_with(input, HTTP2_PREFACE) {
        Some(true) => return Detected::Http2Preface,
        None => return Detected::NeedMore,
        Some(false) => {}
    }
    // RFC 9112 section 2.2: an empty line before the request line is ignored.
    let line = match starts_with(input, b"\r\n") {
        Some(true) => &input[2..],
        None => return Detected::NeedMore,
        Some(false) => input,
    };
    let method_len = line.iter().take_while(|byte| is_tchar(**byte)).count();
    let (method, behind) = line.split_at(method_len);
    if method_len > METHOD_BYTES_MAX {
        return Detected::Other;
    }
    match behind {
        [] | [b' '] if method_len > 0 || line.is_empty() => Detected::NeedMore,
        [b' ', target @ ..] if method_len > 0 => detect_target(method, target),
        _ => Detected::Other,
    }
}

/// Tells a request target (RFC 9112 section 3.2) from the second word of some other text protocol.
fn detect_target(method: &[u8], target: &[u8]) -> Detected {
    match target {
        [b'/' | b'*', ..] => return Detected::Http1,
        // The authority-form has no mark of its own.
        [first, ..] if method == b"CONNECT" && first.is_ascii_graphic() => return Detected::Http1,
        _ => {}
    }
    let len = target.len().min(4);
    match target[..len].eq_ignore_ascii_case(&b"http"[..len]) {
        false => Detected::Other,
        true if len == 4 => Detected::Http1,
        true => Detected::NeedMore,
    }
}

/// Tells whether `input` starts with `prefix`; `None` while it is too short to tell.
fn starts_with(input: &[u8], prefix: &[u8]) -> Option<bool> {
    let len = input.len().min(prefix.len());
    if input[..len] != prefix[..len] { Some(false) } else { (len == prefix.len()).then_some(true) }
}

/// Returns whether a byte may stand in a token (RFC 9110 section 5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9113 section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longer than any registered method; a token that goes on is none.
const METHOD_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let cases: &[(&[u8], Detected)] = &[
            (b"\0\0\0\xf8\xfeSMB@\0", Detected::Smb2),
            (b"\0\0\0\xf8\xfdSMB", Detected::Smb2),
            (b"\0\0\0\xf8\xfcSMB", Detected::Smb2),
            (b"\0\0\0\x54\xffSMBr", Detected::Smb1),
            (b"\0\0\0\x54\xfeSMX", Detected::Other),
            (b"\x81\0\0\x44 CKFDENECFDEFFC", Detected::NetbiosSession),
            (b"\x81\0\0\x04abcd", Detected::Other),
            (b"\x81\x80\0\x05abcd", Detected::Other),
            (b"GET /a HTTP/1.1\r\n", Detected::Http1),
            (b"\r\nGET /a HTTP/1.1\r\n", Detected::Http1),
            (b"OPTIONS * HTTP/1.1\r\n", Detected::Http1),
            (b"VERSION-CONTROL /x HTTP/1.1\r\n", Detected::Http1),
            (b"get HTTP://host/ HTTP/1.1\r\n", Detected::Http1),
            (b"CONNECT host:443 HTTP/1.1\r\n", Detected::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Detected::Http2Preface),
            (b"PRI * HTTP/1.1\r\n", Detected::Http1),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc", Detected::Tls),
            (b"\x16\x03\x01\x02\0\x02\0\x01\xfc", Detected::Other),
            (b"\x16\x03\x01\xff\xff\x01", Detected::Other),
            (b"\x16\x02\x01\x02\0\x01", Detected::Other),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Detected::Other),
            (b"EHLO mail.example\r\n", Detected::Other),
            (b"HELP\r\n", Detected::Other),
            (b" /", Detected::Other),
            (b"\x05\x01\x00", Detected::Other),
            (b"AVERYLONGTOKENTHATGOESONANDONANDONANDON /", Detected::Other),
        ];
        for (input, detected) in cases {
            assert_eq!(detect(input), *detected, "{:?}", input.escape_ascii().to_string());
            assert_settles_once(input);
        }
    }

    proptest! {
        #[test]
        fn the_answer_is_stable_and_comes_within_its_limit(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            assert_settles_once(&input);
        }

        #[test]
        fn text_settles_too(input in "(\r\n)?[A-Za-z]{0,40} {0,2}[hHtTpP/*x]{0,40}") {
            assert_settles_once(input.as_bytes());
        }
    }

    #[track_caller]
    fn assert_settles_once(input: &[u8]) {
        let answers: Vec<_> = (0..=input.len()).map(|len| detect(&input[..len])).collect();
        let settled: Vec<_> = answers.iter().skip_while(|answer| **answer == Detected::NeedMore).collect();
        assert!(settled.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        if input.len() >= DETECT_BYTES_MAX {
            assert_ne!(answers[DETECT_BYTES_MAX], Detected::NeedMore);
        }
    }
}
