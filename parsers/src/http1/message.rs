//! What a whole head says: the body that follows it, and what a request asks of its response's framing.
//!
//! The rules are those of RFC 9112 section 6.3, in its order.

use super::fields::{Fields, Range};
use super::{Fault, Framing, Represented, Requested};

/// The most fields a head may have; servers in the field stop at about 100.
pub const FIELDS_MAX: usize = 256;

/// A request's method, as far as its response's framing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Its responses have no body.
    Head,
    /// After a 2xx response there is no more HTTP.
    Connect,
    /// Any other.
    Other,
}

/// What a request's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// Whether the response can end HTTP on this connection: CONNECT, or an `Upgrade` field.
    pub may_switch: bool,
    /// The body that follows.
    pub framing: Framing,
    /// Where in the representation the body begins; `None` where `Content-Range` leaves it open.
    pub offset: Option<u64>,
    /// Whether the body's last byte is the representation's.
    pub ends: bool,
    /// What it asks for.
    pub requested: Requested<'a>,
}

/// What a response's head says, given its request's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseHead<'a> {
    /// 1xx: another head follows for the same request.
    Interim,
    /// 101, or 2xx after CONNECT: no HTTP follows, in both directions.
    Switched,
    /// The answer.
    Final {
        /// The body that follows.
        framing: Framing,
        /// Where in the representation the body begins; `None` where a 206 leaves it open. The body of a
        /// multipart/byteranges counts as a representation of its own, from 0: its parts are not told apart.
        offset: Option<u64>,
        /// Whether the body's last byte is the representation's.
        ends: bool,
        /// What the body is.
        represented: Represented<'a>,
    },
}

impl<'a> RequestHead<'a> {
    /// Reads a whole head.
    ///
    /// # Errors
    /// A [`Fault`] if what follows the head can't be told with certainty.
    pub fn parse(head: &'a [u8]) -> Result<Self, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let (Ok(httparse::Status::Complete(_)), Some(name), Some(target), Some(version)) =
            (request.parse(head), request.method, request.path, request.version)
        else {
            return Err(Fault::Malformed);
        };
        let method = method_of(name)?;
        let fields = Fields::read(version, request.headers)?;
        let framing = match (fields.chunked, fields.content_length) {
            (true, _) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        // Content of CONNECT has no defined meaning (RFC 9110 section 9.3.6): some take it for the tunnel's.
        if method == Method::Connect && framing != Framing::Length(0) {
            return Err(Fault::Ambiguous);
        }
        Ok(Self {
            method,
            may_switch: method == Method::Connect || fields.upgrade,
            framing,
            offset: fields.offset(framing),
            ends: fields.ends(framing),
            requested: Requested::read(name, target, request.headers, framing != Framing::Length(0)),
        })
    }
}

impl<'a> ResponseHead<'a> {
    /// Reads a whole head of a response to a request of this method.
    ///
    /// # Errors
    /// A [`Fault`] if what follows the head can't be told with certainty.
    pub fn parse(head: &'a [u8], method: Method) -> Result<Self, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let (Ok(httparse::Status::Complete(_)), Some(status), Some(version)) =
            (response.parse(head), response.code, response.version)
        else {
            return Err(Fault::Malformed);
        };
        let fields = Fields::read(version, response.headers)?;
        let bodiless = matches!(status, 100..200 | 204);
        if bodiless && (fields.chunked || fields.content_length.is_some_and(|length| length > 0)) {
            return Err(Fault::Ambiguous);
        }
        match status {
            101 => Ok(Self::Switched),
            100..200 => Ok(Self::Interim),
            200..300 if method == Method::Connect => Ok(Self::Switched),
            200..600 => {
                let framing = response_framing(status, method, &fields);
                Ok(Self::Final {
                    framing,
                    offset: response_offset(status, framing, &fields),
                    ends: response_ends(status, framing, &fields),
                    represented: Represented::read(status, fields.multipart, response.headers),
                })
            }
            _ => Err(Fault::Malformed),
        }
    }
}

fn response_framing(status: u16, method: Method, fields: &Fields) -> Framing {
    if method == Method::Head || matches!(status, 204 | 304) {
        Framing::Length(0)
    } else if fields.chunked {
        Framing::Chunked
    } else {
        fields.content_length.map_or(Framing::UntilClose, Framing::Length)
    }
}

fn response_offset(status: u16, framing: Framing, fields: &Fields) -> Option<u64> {
    match (status, fields.range, fields.multipart) {
        (206, Range::Absent, multipart) => multipart.then_some(0),
        (206, _, true) => None,
        (206, _, false) => fields.offset(framing),
        // In any other response a Content-Range has no meaning (RFC 9110 section 14.4).
        _ => Some(0),
    }
}

fn response_ends(status: u16, framing: Framing, fields: &Fields) -> bool {
    match status {
        206 if !fields.multipart => fields.ends(framing) && fields.range != Range::Absent,
        _ => matches!(framing, Framing::Length(_)),
    }
}

fn method_of(method: &str) -> Result<Method, Fault> {
    match method {
        "HEAD" => Ok(Method::Head),
        "CONNECT" => Ok(Method::Connect),
        // Methods are case-sensitive, but not every server knows.
        _ if method.eq_ignore_ascii_case("HEAD") || method.eq_ignore_ascii_case("CONNECT") => {
            Err(Fault::Ambiguous)
        }
        _ => Ok(Method::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::*;

    const UNTIL_CLOSE: Result<Answer, Fault> =
        Ok(Answer::Final { framing: Framing::UntilClose, offset: Some(0), ends: false });

    /// A [`ResponseHead`] without what it says of the representation.
    #[derive(Debug, PartialEq)]
    enum Answer {
        Interim,
        Switched,
        Final { framing: Framing, offset: Option<u64>, ends: bool },
    }

    fn answer(head: &[u8], method: Method) -> Result<Answer, Fault> {
        Ok(match ResponseHead::parse(head, method)? {
            ResponseHead::Interim => Answer::Interim,
            ResponseHead::Switched => Answer::Switched,
            ResponseHead::Final { framing, offset, ends, .. } => Answer::Final { framing, offset, ends },
        })
    }

    #[test]
    fn a_request_has_the_body_its_fields_announce() {
        let plain = RequestHead {
            method: Method::Other,
            may_switch: false,
            framing: Framing::Length(0),
            offset: Some(0),
            ends: true,
            requested: Requested {
                action: Action::Get,
                target: b"/",
                host: Some(b""),
                personal: false,
                authenticates: false,
            },
        };
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", Ok(plain)),
            ("HEAD / HTTP/1.1\r\n\r\n", Ok(RequestHead { method: Method::Head, ..plain })),
            (
                "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n",
                Ok(RequestHead { framing: Framing::Length(7), ..plain }),
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Range: bytes 10-16/99\r\nContent-Length: 7\r\n\r\n",
                Ok(RequestHead { framing: Framing::Length(7), offset: Some(10), ends: false, ..plain }),
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Ok(RequestHead { framing: Framing::Chunked, ends: false, ..plain }),
            ),
            (
                "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
                Ok(RequestHead { may_switch: true, ..plain }),
            ),
            (
                "CONNECT h:443 HTTP/1.1\r\n\r\n",
                Ok(RequestHead { method: Method::Connect, may_switch: true, ..plain }),
            ),
            ("CONNECT h:443 HTTP/1.1\r\nContent-Length: 1\r\n\r\n", Err(Fault::Ambiguous)),
            ("head / HTTP/1.1\r\n\r\n", Err(Fault::Ambiguous)),
            ("GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n", Err(Fault::Malformed)),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", Err(Fault::Malformed)),
        ] {
            // What it asks for has tests of its own.
            let found = RequestHead::parse(head.as_bytes());
            let found = found.map(|head| RequestHead { requested: plain.requested, ..head });
            assert_eq!(found, expected, "{head:?}");
        }
        let head = RequestHead::parse(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(head, Ok(plain));
    }

    #[test]
    fn a_response_without_body_has_none_whatever_its_fields_say() {
        let none = Ok(Answer::Final { framing: Framing::Length(0), offset: Some(0), ends: true });
        for (head, method) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Head),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::Head),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Method::Other),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", Method::Other),
        ] {
            assert_eq!(answer(head.as_bytes(), method), none, "{head:?}");
        }
        for head in [
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(answer(head.as_bytes(), Method::Other), Err(Fault::Ambiguous), "{head:?}");
        }
    }

    #[test]
    fn a_response_without_length_lasts_until_close() {
        assert_eq!(answer(b"HTTP/1.0 200 OK\r\n\r\n", Method::Other), UNTIL_CLOSE);
        assert_eq!(answer(b"HTTP/1.1 200\r\n\r\n", Method::Other), UNTIL_CLOSE);
    }

    #[test]
    fn only_101_and_an_accepted_connect_end_http() {
        for (head, method, expected) in [
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Method::Other, Ok(Answer::Switched)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Method::Other, Ok(Answer::Interim)),
            ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", Method::Connect, Ok(Answer::Interim)),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::Connect, Ok(Answer::Switched)),
            ("HTTP/1.1 407 No\r\n\r\n", Method::Connect, UNTIL_CLOSE),
            ("HTTP/1.1 099 Nonsense\r\n\r\n", Method::Other, Err(Fault::Malformed)),
            ("HTTP/1.1 600 Nonsense\r\n\r\n", Method::Other, Err(Fault::Malformed)),
        ] {
            assert_eq!(answer(head.as_bytes(), method), expected, "{head:?}");
        }
    }

    #[test]
    fn a_partial_response_begins_where_its_range_does() {
        let length = "Content-Length: 10\r\n";
        let multipart = "Content-Type: multipart/byteranges; boundary=B\r\n";
        for (status, fields, offset, ends) in [
            (206, "Content-Range: bytes 90-99/100\r\n", Some(90), true),
            (206, "Content-Range: bytes 90-98/100\r\n", None, false),
            (206, "Content-Range: bytes 80-89/100\r\n", Some(80), false),
            (206, "Content-Range: bytes 90-99/*\r\n", Some(90), false),
            (206, "", None, false),
            (206, multipart, Some(0), true),
            (206, &*format!("{multipart}Content-Range: bytes 90-99/100\r\n"), None, true),
            (200, "Content-Range: bytes 90-99/100\r\n", Some(0), true),
            (416, "Content-Range: bytes */100\r\n", Some(0), true),
        ] {
            let head = format!("HTTP/1.1 {status} x\r\n{length}{fields}\r\n");
            let expected = Ok(Answer::Final { framing: Framing::Length(10), offset, ends });
            assert_eq!(answer(head.as_bytes(), Method::Other), expected, "{head:?}");
        }
    }

    #[test]
    fn more_fields_than_the_limit_are_refused() {
        let head = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(RequestHead::parse(head(FIELDS_MAX).as_bytes()).is_ok());
        assert_eq!(RequestHead::parse(head(FIELDS_MAX + 1).as_bytes()), Err(Fault::Malformed));
    }
}
