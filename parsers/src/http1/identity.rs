//! What a head says of the representation that its body is, and of who may have it.
//!
//! None of it bears on framing. It is read strictly in one sense only: where a field makes it doubtful that a
//! representation is the same for everybody who asks, nothing vouches for it ([`Requested::personal`],
//! [`Represented::validator`] is `None`).

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested<'a> {
    /// What it does with the representation.
    pub action: Action,
    /// The request's target as it stands (RFC 9112 section 3.2).
    pub target: &'a [u8],
    /// `Host` (RFC 9110 section 7.2); `None` if there is more than one, empty if there is none.
    pub host: Option<&'a [u8]>,
    /// Whether a field says who asks: the answer may be for the asker alone.
    pub personal: bool,
    /// Whether a field says who asks, for this request and, with some schemes, for all that follow on the connection.
    pub authenticates: bool,
}

/// What a request does with a representation, as far as its content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// GET without content: the response has it.
    Get,
    /// PUT or POST: the request has what may become it.
    Upload,
    /// Nothing of the kind.
    Other,
}

/// What a response says of the representation in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Represented<'a> {
    /// Whether the body is the target's representation, or one part of it: 200, or 206 with one range.
    pub is_targets: bool,
    /// What tells this state of the representation from others; `None` where it is not the same for everybody.
    pub validator: Option<Validator<'a>>,
}

/// What tells a state of a representation from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validator<'a> {
    /// A strong `ETag` with its quotes (RFC 9110 section 8.8.3).
    pub etag: &'a [u8],
    /// `Content-Encoding`, empty without one (RFC 9110 section 8.4).
    pub coding: &'a [u8],
}

/// What of a request's field names tells that its value may say who asks. Some names are in no register: `X-Api-Key`.
const TELLTALES: [&[u8]; 7] = [b"auth", b"cookie", b"token", b"key", b"session", b"secret", b"credential"];

impl<'a> Requested<'a> {
    /// Reads a head. `has_content` tells whether content follows it.
    pub(super) fn read(
        method: &str,
        target: &'a str,
        fields: &[httparse::Header<'a>],
        has_content: bool,
    ) -> Self {
        let action = match method {
            "GET" if !has_content => Action::Get,
            "PUT" | "POST" => Action::Upload,
            _ => Action::Other,
        };
        let authenticates = fields.iter().any(|field| contains(field.name.as_bytes(), b"authorization"));
        let personal = fields
            .iter()
            .any(|field| TELLTALES.iter().any(|telltale| contains(field.name.as_bytes(), telltale)));
        Self { action, target: target.as_bytes(), host: single(fields, "host"), personal, authenticates }
    }

    /// Returns the host and what is asked of it, the same for all forms of a target (RFC 9112 section 3.2).
    #[must_use]
    pub fn resource(&self) -> Option<(&'a [u8], &'a [u8])> {
        const SCHEME: &[u8] = b"http://";
        let host = self.host?;
        let Some((scheme, rest)) = self.target.split_at_checked(SCHEME.len()) else {
            return Some((host, self.target));
        };
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Some((host, self.target));
        }
        let authority = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        let (host, path) = rest.split_at(authority);
        Some((host, if path.is_empty() { b"/" } else { path }))
    }
}

impl<'a> Represented<'a> {
    /// Reads the head of a response.
    pub(super) fn read(status: u16, multipart: bool, fields: &[httparse::Header<'a>]) -> Self {
        let is_targets = status == 200 || (status == 206 && !multipart);
        let validator = if is_targets { validator(fields) } else { None };
        Self { is_targets, validator }
    }
}

fn validator<'a>(fields: &[httparse::Header<'a>]) -> Option<Validator<'a>> {
    for field in fields {
        let shared = match field.name {
            name if name.eq_ignore_ascii_case("set-cookie") => false,
            name if name.eq_ignore_ascii_case("cache-control") => {
                !contains(field.value, b"private") && !contains(field.value, b"no-store")
            }
            // Content-Encoding tells the variants by Accept-Encoding apart.
            name if name.eq_ignore_ascii_case("vary") => field
                .value
                .split(|byte| *byte == b',')
                .all(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding")),
            _ => true,
        };
        if !shared {
            return None;
        }
    }
    let etag = single(fields, "etag")?.trim_ascii();
    let opaque = etag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let strong = !opaque.is_empty() && !opaque.contains(&b'"');
    let coding = single(fields, "content-encoding")?;
    strong.then_some(Validator { etag, coding })
}

/// Returns the value of a field, empty if it is not there; `None` if it is there more than once.
fn single<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (None, _) => Some(&[]),
        (Some(field), None) => Some(field.value),
        (Some(_), Some(_)) => None,
    }
}

/// Whether `text` has `part` in it, in letters of any case; `part` is in small letters.
fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_says_who_asks_makes_a_request_personal() {
        for (name, personal, authenticates) in [
            ("Accept", false, false),
            ("If-None-Match", false, false),
            ("Range", false, false),
            ("Cookie", true, false),
            ("AUTHORIZATION", true, true),
            ("Proxy-Authorization", true, true),
            ("X-Api-Key", true, false),
            ("X-Auth-Token", true, false),
        ] {
            let fields = [httparse::Header { name, value: b"x" }];
            let requested = Requested::read("GET", "/", &fields, false);
            assert_eq!((requested.personal, requested.authenticates), (personal, authenticates), "{name}");
        }
    }

    #[test]
    fn a_resource_is_the_same_in_all_forms_of_its_target() {
        for (target, hosts, expected) in [
            ("/a?b", &["h"][..], Some(("h", "/a?b"))),
            ("/a?b", &[], Some(("", "/a?b"))),
            ("/a?b", &["h", "h"], None),
            ("http://h/a?b", &["other"], Some(("h", "/a?b"))),
            ("HTTP://h:80?b", &["h"], Some(("h:80", "?b"))),
            ("http://h", &["h"], Some(("h", "/"))),
            ("https://h/a", &["h"], Some(("h", "https://h/a"))),
            ("*", &["h"], Some(("h", "*"))),
        ] {
            let fields: Vec<_> =
                hosts.iter().map(|host| httparse::Header { name: "Host", value: host.as_bytes() }).collect();
            let resource = Requested::read("GET", target, &fields, false).resource();
            let expected = expected.map(|(host, path)| (host.as_bytes(), path.as_bytes()));
            assert_eq!(resource, expected, "{target} {hosts:?}");
        }
    }

    #[test]
    fn only_a_get_without_content_has_its_target_as_the_answer() {
        for (method, has_content, expected) in [
            ("GET", false, Action::Get),
            ("GET", true, Action::Other),
            ("get", false, Action::Other),
            ("PUT", true, Action::Upload),
            ("POST", true, Action::Upload),
            ("PATCH", true, Action::Other),
        ] {
            assert_eq!(Requested::read(method, "/", &[], has_content).action, expected, "{method}");
        }
    }

    #[test]
    fn only_what_is_the_same_for_everybody_has_a_validator() {
        let etag = ("ETag", "\"e\"");
        for (fields, expected) in [
            (&[etag][..], Some(("\"e\"", ""))),
            (&[etag, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")], Some(("\"e\"", "gzip"))),
            (&[etag, ("Cache-Control", "public, max-age=9")], Some(("\"e\"", ""))),
            (&[], None),
            (&[("ETag", "W/\"e\"")], None),
            (&[("ETag", "e")], None),
            (&[("ETag", "\"\"")], None),
            (&[("ETag", "\"")], None),
            (&[("ETag", "\"a\", \"b\"")], None),
            (&[etag, etag], None),
            (&[etag, ("Set-Cookie", "a=b")], None),
            (&[etag, ("Cache-Control", "max-age=9, Private")], None),
            (&[etag, ("Cache-Control", "max-age=9"), ("cache-control", "no-store")], None),
            (&[etag, ("Vary", "*")], None),
            (&[etag, ("Vary", "Accept-Encoding, Origin")], None),
            (&[etag, ("Vary", "accept-encoding"), ("Vary", "User-Agent")], None),
            (&[etag, ("Content-Encoding", "gzip"), ("Content-Encoding", "br")], None),
        ] {
            let headers: Vec<_> = fields
                .iter()
                .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            for (status, multipart, is_targets) in
                [(200, false, true), (206, false, true), (206, true, false), (404, false, false)]
            {
                let represented = Represented::read(status, multipart, &headers);
                let found = represented.validator.map(|validator| (validator.etag, validator.coding));
                let expected = expected.map(|(etag, coding)| (etag.as_bytes(), coding.as_bytes()));
                assert_eq!(represented.is_targets, is_targets);
                assert_eq!(found, expected.filter(|_| is_targets), "{status} {fields:?}");
            }
        }
    }
}
