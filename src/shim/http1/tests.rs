//! Flows written by hand, and flows generated together with the spans that they must give.

use proptest::prelude::*;
use wanigan_parsers::Direction::{self, ToClient, ToServer};
use wanigan_parsers::http1::HEAD_BYTES_MAX;

use super::*;
use crate::fault::OpaqueReason::{Framing, Http2, HttpAmbiguous, HttpUpgraded, Malformed, TooManyPending};

const GET: &str = "GET /f HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_body_of_known_length_is_content_from_offset_0() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing(GET);
    flow.send(ToClient).framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").content("hello", 0, true);
    flow.send(ToServer).framing(GET);
    flow.send(ToClient).framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").content("abc", 0, true);
    flow.check_every_cut();
}

#[test]
fn chunks_are_content_of_one_representation() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing(GET);
    flow.send(ToClient)
        .framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;x=y\r\n")
        .content("hello", 0, true)
        .framing("\r\n3\r\n")
        .content("abc", 5, true)
        .framing("\r\n0\r\nDigest: x\r\n\r\n");
    flow.send(ToServer).framing(GET);
    flow.send(ToClient).framing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n").content("z", 0, true);
    flow.check_every_cut();
}

#[test]
fn a_range_is_content_at_its_offset() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing("GET /f HTTP/1.1\r\nRange: bytes=100-104\r\n\r\n");
    flow.send(ToClient)
        .framing(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-104/999\r\nContent-Length: 5\r\n\r\n",
        )
        .content("hello", 100, true);
    flow.send(ToServer).framing("GET /f HTTP/1.1\r\nRange: bytes=200-\r\n\r\n");
    flow.send(ToClient)
        .framing(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes 200-202/*\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n",
        )
        .content("ab", 200, true)
        .framing("\r\n1\r\n")
        .content("c", 202, true)
        .framing("\r\n0\r\n\r\n");
    flow.check_every_cut();
}

#[test]
fn a_body_whose_range_does_not_fit_is_opaque_and_the_flow_goes_on() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing(GET).framing(GET);
    flow.send(ToClient)
        .framing("HTTP/1.1 206 Partial\r\nContent-Range: bytes 100-199/999\r\nContent-Length: 5\r\n\r\n")
        .opaque("hello", HttpAmbiguous)
        .framing("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        .content("ok", 0, true);
    flow.check_every_cut();
}

#[test]
fn a_multipart_of_ranges_is_content_of_its_own() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing(GET);
    flow.send(ToClient)
        .framing(
            "HTTP/1.1 206 P\r\nContent-Type: multipart/byteranges; boundary=B\r\nContent-Length: 7\r\n\r\n",
        )
        .content("--B\r\n\r\n", 0, true);
    flow.check_every_cut();
}

#[test]
fn responses_without_body_end_with_their_head() {
    let mut flow = Flow::new();
    flow.send(ToServer)
        .framing("HEAD /f HTTP/1.1\r\n\r\n")
        .framing("HEAD /g HTTP/1.1\r\n\r\n")
        .framing(GET)
        .framing("DELETE /f HTTP/1.1\r\n\r\n")
        .framing(GET);
    flow.send(ToClient)
        .framing("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        .framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
        .framing("HTTP/1.1 204 No Content\r\n\r\n")
        .framing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        .content("x", 0, true);
    flow.check_every_cut();
}

#[test]
fn interim_responses_leave_their_request_waiting() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing("PUT /f HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    flow.send(ToClient).framing("HTTP/1.1 100 Continue\r\n\r\n");
    flow.send(ToServer).content("data", 0, true);
    flow.send(ToClient)
        .framing("HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        .content("x", 0, true);
    flow.check_every_cut();
}

#[test]
fn an_upload_is_content_too() {
    let mut flow = Flow::new();
    flow.send(ToServer)
        .framing("PUT /f HTTP/1.1\r\nContent-Range: bytes 10-13/14\r\nContent-Length: 4\r\n\r\n")
        .content("data", 10, true)
        .framing("POST /f HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n")
        .content("ab", 0, true)
        .framing("\r\n0\r\n\r\n");
    flow.send(ToClient).framing("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    flow.send(ToClient).framing("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
    flow.check_every_cut();
}

#[test]
fn a_body_until_close_is_content_without_end() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing("GET / HTTP/1.0\r\n\r\n");
    flow.send(ToClient).framing("HTTP/1.0 200 OK\r\n\r\n").content(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        0,
        false,
    );
    flow.check_every_cut();
}

#[test]
fn no_http_follows_101_or_an_accepted_connect() {
    for (request, response) in [
        (
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
        ),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 Established\r\n\r\n"),
    ] {
        let mut flow = Flow::new();
        flow.send(ToServer).framing(request);
        flow.send(ToClient).framing(response).opaque("\x01\x02HTTP/1.1 200 OK\r\n\r\n", HttpUpgraded);
        flow.send(ToServer).opaque(GET, HttpUpgraded);
        flow.send(ToClient).opaque("more", HttpUpgraded);
        flow.check_every_cut();
    }
}

#[test]
fn a_declined_upgrade_or_connect_leaves_http() {
    for (request, response) in [
        ("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ("CONNECT h:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 407 Who?\r\nContent-Length: 2\r\n\r\n"),
    ] {
        let mut flow = Flow::new();
        flow.send(ToServer).framing(request);
        flow.send(ToClient).framing(response).content("no", 0, true);
        flow.send(ToServer).framing(GET);
        flow.send(ToClient).framing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n").content("x", 0, true);
        flow.check_every_cut();
    }
}

#[test]
fn bytes_behind_an_unanswered_upgrade_end_the_clients_stream() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n").opaque(GET, HttpAmbiguous);
    flow.send(ToClient)
        .framing("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        .content("ok", 0, true)
        .opaque("HTTP/1.1 200 OK\r\n\r\n", HttpAmbiguous);
    flow.check_every_cut();
}

#[test]
fn a_request_of_ambiguous_length_ends_content_after_the_responses_before_it() {
    for (head, reason) in [
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", HttpAmbiguous),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", HttpAmbiguous),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", HttpAmbiguous),
        ("POST / HTTP/1.1\r\nContent-Length : 4\r\n\r\n", Malformed),
    ] {
        let mut flow = Flow::new();
        flow.send(ToServer).framing(GET).framing(head).opaque("0\r\n\r\nGET / HTTP/1.1\r\n\r\n", reason);
        flow.send(ToClient)
            .framing("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            .content("ok", 0, true)
            .opaque("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", reason);
        flow.check_every_cut();
    }
}

#[test]
fn a_response_of_ambiguous_length_ends_both_directions() {
    for (head, reason) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", HttpAmbiguous),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\n", HttpAmbiguous),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HttpAmbiguous),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n", Malformed),
    ] {
        let mut flow = Flow::new();
        flow.send(ToServer).framing(GET).framing(GET);
        let response = flow.send(ToClient).framing(head);
        let body = if reason == Malformed { response.content("body", 0, true) } else { response };
        body.opaque("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", reason);
        flow.send(ToServer).opaque(GET, reason);
        flow.check_every_cut();
    }
}

#[test]
fn folded_lines_and_bare_line_ends_are_refused_where_they_stand() {
    let mut folded = Flow::new();
    folded.send(ToServer).framing("GET / HTTP/1.1\r\na: b\r\n").opaque(" c\r\n\r\n", HttpAmbiguous);
    folded.check_every_cut();
    let mut bare = Flow::new();
    bare.send(ToServer).framing(GET);
    bare.send(ToClient).framing("HTTP/1.1 200 OK").opaque("\nContent-Length: 1\n\nx", Malformed);
    bare.check_every_cut();
}

#[test]
fn a_response_that_nobody_asked_for_is_not_read() {
    let mut flow = Flow::new();
    flow.send(ToServer).framing(GET);
    flow.send(ToClient)
        .framing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        .content("x", 0, true)
        .opaque("HTTP/1.1 408 Late\r\nContent-Length: 1\r\n\r\nx", HttpAmbiguous);
    flow.send(ToServer).opaque(GET, HttpAmbiguous);
    flow.check_every_cut();
}

#[test]
fn http2_and_other_protocols_are_told_from_their_first_bytes() {
    let mut http2 = Flow::new();
    http2.send(ToServer).framing("PRI * HTTP/2.0\r").opaque("\n\r\nSM\r\n\r\n\0\0", Http2);
    http2.send(ToClient).opaque("\0\0\x12\x04", Http2);
    http2.check_every_cut();
    let mut tls = Flow::new();
    tls.send(ToServer).opaque("\x16\x03\x01\x02\x00", Malformed);
    tls.send(ToClient).opaque("\x16\x03\x03", Malformed);
    tls.check_every_cut();
}

#[test]
fn a_head_beyond_the_limit_is_refused() {
    let mut flow = Flow::new();
    let head = format!("GET / HTTP/1.1\r\nCookie: {}", "c".repeat(HEAD_BYTES_MAX));
    let (within, beyond) = head.split_at(HEAD_BYTES_MAX);
    flow.send(ToServer).framing(within).opaque(beyond, Malformed);
    flow.check_cut_into(&[1]);
    flow.check_cut_into(&[usize::MAX]);
}

#[test]
fn pipelining_beyond_the_limit_ends_content_after_the_responses_within_it() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
    let mut flow = Flow::new();
    flow.send(ToServer)
        .framing(&GET.repeat(PENDING_MAX))
        .framing("GET /one-too-many HTTP/1.1\r\n\r\n")
        .opaque(GET, TooManyPending);
    for _ in 0..PENDING_MAX {
        flow.send(ToClient).framing(response).content("x", 0, true);
    }
    flow.send(ToClient).opaque(response, TooManyPending);
    flow.check_cut_into(&[1]);
    flow.check_cut_into(&[1000]);
}

#[test]
fn a_queue_that_drains_takes_any_number_of_requests() {
    let mut flow = Flow::new();
    for _ in 0..PENDING_MAX + 10 {
        flow.send(ToServer).framing(GET);
        flow.send(ToClient).framing("HTTP/1.1 304 Not Modified\r\n\r\n");
    }
    flow.check_cut_into(&[50]);
}

proptest! {
    #[test]
    fn generated_flows_give_the_spans_they_were_made_of(
        groups in proptest::collection::vec(group(), 1..5),
        end in end(),
        cuts in proptest::collection::vec(1usize..120, 1..8),
    ) {
        let mut flow = Flow::new();
        for group in groups.iter().chain(end.as_ref()) {
            for exchange in group {
                exchange.request.render(&exchange.prelude, flow.send(ToServer));
            }
            for exchange in group {
                exchange.response.render(&exchange.interim, flow.send(ToClient));
            }
        }
        flow.check_cut_into(&cuts);
        flow.check_cut_into(&[1]);
        flow.check_cut_into(&[usize::MAX]);
    }

    #[test]
    fn no_input_panics_and_each_is_partitioned(
        inputs in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..80)), 1..12),
    ) {
        same_however_cut(&inputs);
    }

    #[test]
    fn nonsense_in_the_language_of_http_gives_the_same_spans_however_it_is_cut(
        inputs in proptest::collection::vec((any::<bool>(), words()), 1..30),
    ) {
        same_however_cut(&inputs);
    }
}

/// What the bodies of the responses belong to, and where the content ends.
#[track_caller]
fn bodies(turns: &[(Direction, &str)]) -> Vec<(Option<Object>, bool)> {
    let mut marks = Vec::new();
    for cut in [usize::MAX, 1, 7] {
        let mut shim = Http1::new();
        let mut spans = Vec::new();
        for (direction, text) in turns {
            for piece in text.as_bytes().chunks(cut.min(text.len())) {
                let found = mark(&mut shim, *direction, piece);
                spans.extend(found.into_iter().filter(|span| matches!(span.kind, SpanKind::Content { .. })));
            }
        }
        marks.push(merge(spans));
    }
    assert!(marks.iter().all(|other| *other == marks[0]), "the cuts matter: {marks:?}");
    let objects = marks[0].iter().filter_map(|span| match span.kind {
        SpanKind::Content { object, end, .. } => Some((object, end)),
        SpanKind::Opaque(_) => None,
    });
    objects.collect()
}

/// A response of five bytes.
fn hello(status: u16, fields: &str) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n{fields}\r\nhello")
}

/// What the body of the response to a request belongs to.
#[track_caller]
fn body(request: &str, response: &str) -> Option<Object> {
    let bodies = bodies(&[(ToServer, request), (ToClient, response)]);
    assert_eq!(bodies.len(), 1, "{request}{response}");
    bodies[0].0
}

/// A file that everybody may have.
fn usual() -> Object {
    let object = body(GET, &hello(200, "ETag: \"e\"\r\n")).unwrap();
    assert_eq!(object.place, Place::of(&[b"http", b"h", b"/f"]));
    assert!(object.version.is_some());
    object
}

#[test]
fn the_body_of_a_get_is_of_its_target_in_the_version_of_its_etag() {
    let etag = "ETag: \"e\"\r\n";
    assert_eq!(body(GET, &hello(200, etag)), Some(usual()));
    let part = format!("{etag}Content-Range: bytes 5-9/100\r\n");
    assert_eq!(body(GET, &hello(206, &part)), Some(usual()), "a part is of the same");
    for fields in ["ETag: \"f\"\r\n", "ETag: \"e\"\r\nContent-Encoding: gzip\r\n"] {
        let other = body(GET, &hello(200, fields)).unwrap();
        assert!(other.place == usual().place && other.version.is_some() && other.version != usual().version);
    }
    for request in ["GET /f?x HTTP/1.1\r\nHost: h\r\n\r\n", "GET /f HTTP/1.1\r\nHost: g\r\n\r\n"] {
        let other = body(request, &hello(200, etag)).unwrap();
        assert!(other.place != usual().place && other.version.is_some() && other.version != usual().version);
    }
    for request in ["GET http://h/f HTTP/1.1\r\nHost: h\r\n\r\n", "GET /f HTTP/1.1\r\nHost: H\r\n\r\n"] {
        let same = body(request, &hello(200, etag)).unwrap();
        assert!(same.place == usual().place && same.version.is_some() && same.version != usual().version);
    }
}

#[test]
fn a_body_that_may_be_for_one_asker_alone_has_no_version() {
    let etag = "ETag: \"e\"\r\n";
    let hint = Some(Object { version: None, ..usual() });
    for field in
        ["Cookie: a=b", "Authorization: Basic eDp5", "Proxy-Authorization: Basic eDp5", "X-Api-Key: k"]
    {
        let request = format!("GET /f HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
        assert_eq!(body(&request, &hello(200, etag)), hint, "{field}");
    }
    for fields in [
        "",
        "ETag: W/\"e\"\r\n",
        "ETag: \"e\"\r\nCache-Control: private\r\n",
        "ETag: \"e\"\r\nSet-Cookie: a=b\r\n",
        "ETag: \"e\"\r\nVary: *\r\n",
    ] {
        assert_eq!(body(GET, &hello(200, fields)), hint, "{fields}");
    }
}

#[test]
fn whoever_authenticated_once_gets_no_version_on_that_connection() {
    let login = "GET /f HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM abc\r\n\r\n";
    let response = hello(200, "ETag: \"e\"\r\n");
    let hint = (Some(Object { version: None, ..usual() }), true);
    let turns = [GET, login, GET].map(|request| [(ToServer, request), (ToClient, &*response)]).concat();
    assert_eq!(bodies(&turns), [(Some(usual()), true), hint, hint]);
    // Where requests run ahead, only those behind it are its.
    let ahead = [GET, login, GET].concat();
    let responses = response.repeat(3);
    assert_eq!(bodies(&[(ToServer, &ahead), (ToClient, &responses)]), [(Some(usual()), true), hint, hint]);
}

#[test]
fn a_body_that_is_not_the_targets_belongs_to_nothing() {
    let etag = "ETag: \"e\"\r\n";
    let multipart = format!("{etag}Content-Type: multipart/byteranges; boundary=B\r\n");
    for (request, response) in [
        (GET, hello(404, etag)),
        (GET, hello(206, &multipart)),
        ("POST /f HTTP/1.1\r\nHost: h\r\n\r\n", hello(200, etag)),
        ("OPTIONS /f HTTP/1.1\r\nHost: h\r\n\r\n", hello(200, etag)),
        ("GET /f HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n", hello(200, etag)),
    ] {
        assert_eq!(body(request, &response), None, "{request}{response}");
    }
}

#[test]
fn an_upload_is_of_its_target_in_no_version() {
    let put = "PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let post = "POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let patch = "PATCH /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let object = Some(Object { version: None, ..usual() });
    let found = bodies(&[(ToServer, put), (ToServer, post), (ToServer, patch)]);
    assert_eq!(found, [(object, true), (object, false), (None, true)]);
}

#[test]
fn a_body_ends_its_representation_where_its_length_or_range_says() {
    for (status, fields, end) in [
        (200, "Content-Length: 5\r\n\r\nhello", true),
        (404, "Content-Length: 5\r\n\r\nhello", true),
        (206, "Content-Length: 5\r\nContent-Range: bytes 95-99/100\r\n\r\nhello", true),
        (206, "Content-Length: 5\r\nContent-Range: bytes 94-98/100\r\n\r\nhello", false),
        (206, "Content-Length: 5\r\nContent-Range: bytes 95-99/*\r\n\r\nhello", false),
        (200, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
        (200, "\r\nhello", false),
    ] {
        let response = format!("HTTP/1.1 {status} x\r\n{fields}");
        let found = bodies(&[(ToServer, GET), (ToClient, &response)]);
        assert_eq!(found.iter().map(|body| body.1).collect::<Vec<_>>(), [end], "{response}");
    }
    let cut = bodies(&[(ToServer, GET), (ToClient, "HTTP/1.1 200 x\r\nContent-Length: 5\r\n\r\nhell")]);
    assert_eq!(cut.len(), 1);
    assert!(!cut[0].1, "a byte is missing");
}

/// Feeds each input whole and byte by byte, and compares.
fn same_however_cut(inputs: &[(bool, Vec<u8>)]) {
    let (mut whole, mut single) = (Http1::new(), Http1::new());
    let mut spans: [[Vec<Span>; 2]; 2] = Default::default();
    for (client, input) in inputs {
        let direction = if *client { ToServer } else { ToClient };
        let at = direction as usize;
        spans[0][at].extend(mark(&mut whole, direction, input));
        for byte in input {
            spans[1][at].extend(mark(&mut single, direction, &[*byte]));
        }
    }
    let [whole, single] = spans;
    assert_eq!(whole.map(merge), single.map(merge));
}

/// Several requests, then their responses.
type Group = Vec<Exchange>;

#[derive(Debug, Clone)]
struct Exchange {
    prelude: String,
    request: Message,
    interim: String,
    response: Message,
}

#[derive(Debug, Clone)]
struct Message {
    start: &'static str,
    fields: String,
    offset: u64,
    body: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Nothing,
    Length(usize),
    Chunks { sizes: Vec<usize>, extension: &'static str, trailers: &'static str },
    UntilClose(usize),
    Upgraded(usize),
}

impl Message {
    fn render(&self, before: &str, script: &mut Script) {
        script.framing(before).framing(self.start).framing(&self.fields);
        match &self.body {
            Shape::Nothing => {
                script.framing("\r\n");
            }
            Shape::Length(len) => {
                script.framing(&format!("Content-Length: {len}\r\n\r\n"));
                script.content(&noise(*len), self.offset, true);
            }
            Shape::Chunks { sizes, extension, trailers } => {
                script.framing("transfer-encoding: chunked\r\n\r\n");
                let mut offset = self.offset;
                for size in sizes {
                    script.framing(&format!("{size:x}{extension}\r\n"));
                    script.content(&noise(*size), offset, true).framing("\r\n");
                    offset += *size as u64;
                }
                script.framing(&format!("0{extension}\r\n{trailers}\r\n"));
            }
            Shape::UntilClose(len) => {
                script.framing("\r\n").content(&noise(*len), self.offset, false);
            }
            Shape::Upgraded(len) => {
                script.framing("\r\n").opaque(&noise(*len), HttpUpgraded);
            }
        }
    }
}

/// Bytes that would be taken for heads by a reader that has lost its place.
fn noise(len: usize) -> String {
    GET.chars().chain("0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".chars()).cycle().take(len).collect()
}

fn group() -> impl Strategy<Value = Group> {
    proptest::collection::vec(exchange(), 1..6)
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let prelude = prop_oneof![4 => Just(""), 1 => Just("\r\n")].prop_map(String::from);
    let interim = proptest::collection::vec(
        prop_oneof![Just("HTTP/1.1 100 Continue\r\n\r\n"), Just("HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n")],
        0..3,
    )
    .prop_map(|heads| heads.concat());
    (prelude, request(), interim, any::<bool>(), response()).prop_map(
        |(prelude, request, interim, head, response)| {
            if !head || !matches!(request.body, Shape::Nothing) {
                return Exchange { prelude, request, interim, response };
            }
            // The same response's fields, without its body.
            let announced = match &response.body {
                Shape::Length(len) => format!("{}Content-Length: {len}\r\n", response.fields),
                Shape::Chunks { .. } => format!("{}Transfer-Encoding: chunked\r\n", response.fields),
                _ => response.fields.clone(),
            };
            Exchange {
                prelude,
                request: Message { start: "HEAD /f HTTP/1.1\r\n", ..request },
                interim,
                response: Message { fields: announced, body: Shape::Nothing, ..response },
            }
        },
    )
}

fn request() -> impl Strategy<Value = Message> {
    let bare = fields().prop_map(|fields| message("GET /f HTTP/1.1\r\n", fields, 0, Shape::Nothing));
    let upload =
        (fields(), sized()).prop_map(|(fields, body)| message("PUT /f HTTP/1.1\r\n", fields, 0, body));
    let part = (fields(), 1usize..200, 0u64..1 << 40).prop_map(|(fields, len, offset)| {
        let fields = format!("{fields}Content-Range: bytes {offset}-{}/*\r\n", offset + len as u64 - 1);
        message("PUT /f HTTP/1.1\r\n", fields, offset, Shape::Length(len))
    });
    prop_oneof![4 => bare, 1 => upload, 1 => part]
}

fn response() -> impl Strategy<Value = Message> {
    let full = (fields(), sized()).prop_map(|(fields, body)| message("HTTP/1.1 200 OK\r\n", fields, 0, body));
    let old = (fields(), 0usize..200)
        .prop_map(|(fields, len)| message("HTTP/1.0 404 No\r\n", fields, 0, Shape::Length(len)));
    let empty = (
        fields(),
        prop_oneof![
            Just("HTTP/1.1 204 No Content\r\n"),
            Just("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n")
        ],
    )
        .prop_map(|(fields, start)| message(start, fields, 0, Shape::Nothing));
    let range = (fields(), 1usize..200, 0u64..1 << 40).prop_map(|(fields, len, offset)| {
        let last = offset + len as u64 - 1;
        let fields = format!("{fields}Content-Range: bytes {offset}-{last}/{}\r\n", last + 1);
        message("HTTP/1.1 206 Partial Content\r\n", fields, offset, Shape::Length(len))
    });
    prop_oneof![3 => full, 1 => old, 1 => empty, 1 => range]
}

/// What only the last group of a flow can hold.
fn end() -> impl Strategy<Value = Option<Group>> {
    let get = || message("GET /f HTTP/1.1\r\n", String::new(), 0, Shape::Nothing);
    let exchange = |request, response| {
        vec![Exchange { prelude: String::new(), request, interim: String::new(), response }]
    };
    let close = (0usize..200).prop_map(move |len| {
        let response = message("HTTP/1.1 200 OK\r\n", String::new(), 0, Shape::UntilClose(len));
        Some(exchange(get(), response))
    });
    let upgrade = (0usize..200).prop_map(move |len| {
        let fields = "Upgrade: websocket\r\n".to_owned();
        let request = message("GET /f HTTP/1.1\r\n", fields, 0, Shape::Nothing);
        let response = message("HTTP/1.1 101 Switching\r\n", String::new(), 0, Shape::Upgraded(len));
        Some(exchange(request, response))
    });
    prop_oneof![2 => Just(None), 1 => close, 1 => upgrade]
}

fn sized() -> impl Strategy<Value = Shape> {
    let chunks = (
        proptest::collection::vec(1usize..100, 0..5),
        prop_oneof![Just(""), Just(";a=\"b;c\""), Just(" ")],
        prop_oneof![Just(""), Just("Digest: x\r\nA:\r\n")],
    )
        .prop_map(|(sizes, extension, trailers)| Shape::Chunks { sizes, extension, trailers });
    prop_oneof![(0usize..300).prop_map(Shape::Length), chunks]
}

fn fields() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        Just("Server: x\r\n"),
        Just("X-Content-Length: 7\r\n"),
        Just("Connection: keep-alive\r\n"),
        Just("Content-Encoding: gzip\r\n"),
        Just("ETag: \"chunked\"\r\n"),
        Just("Host: h\r\n"),
        Just("Vary: Accept-Encoding\r\n"),
        Just("Authorization: x\r\n"),
    ];
    proptest::collection::vec(field, 0..3).prop_map(|fields| fields.concat())
}

fn words() -> impl Strategy<Value = Vec<u8>> {
    let word = proptest::sample::select(vec![
        GET,
        "HEAD / HTTP/1.1\r\n",
        "PUT / HTTP/1.1\r\n",
        "CONNECT h:1 HTTP/1.1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 206 P\r\nContent-Range: bytes 5-9/10\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 101 S\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: h2c\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        " ",
        "5\r\n",
        "0\r\n",
        "hello",
    ]);
    proptest::collection::vec(word, 1..6).prop_map(|words| words.concat().into_bytes())
}

fn message(start: &'static str, fields: String, offset: u64, body: Shape) -> Message {
    Message { start, fields, offset, body }
}

/// What the two ends say, in order, with the spans it must give.
struct Flow {
    turns: Vec<(Direction, Script)>,
}

#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Flow {
    fn new() -> Self {
        Self { turns: Vec::new() }
    }

    fn send(&mut self, direction: Direction) -> &mut Script {
        self.turns.push((direction, Script::default()));
        &mut self.turns.last_mut().unwrap().1
    }

    /// Whole, byte by byte, and each turn split in two at every offset.
    fn check_every_cut(&self) {
        self.check_cut_into(&[usize::MAX]);
        self.check_cut_into(&[1]);
        let longest = self.turns.iter().map(|(_, script)| script.bytes.len()).max().unwrap();
        for cut in 1..longest {
            self.check_cut_into(&[cut, usize::MAX]);
        }
    }

    /// Cuts each turn into pieces of these lengths, over and over.
    fn check_cut_into(&self, lengths: &[usize]) {
        let mut shim = Http1::new();
        let mut marked: [Vec<Span>; 2] = Default::default();
        for (direction, script) in &self.turns {
            let mut lengths = lengths.iter().cycle();
            let mut rest = &script.bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
                marked[*direction as usize].extend(mark(&mut shim, *direction, piece));
                rest = after;
            }
        }
        for direction in Direction::ALL {
            let expected =
                self.turns.iter().filter(|turn| turn.0 == direction).flat_map(|turn| &turn.1.spans);
            assert_eq!(
                merge(marked[direction as usize].iter().map(without_object)),
                merge(expected.copied()),
                "{direction:?} cut into {lengths:?}"
            );
            let marked = merge(marked[direction as usize].iter().copied());
            assert_eq!(marked, self.marked_whole(direction), "{direction:?} cut into {lengths:?}");
        }
    }
}

impl Flow {
    /// What is marked in turns that are not cut, objects and all.
    fn marked_whole(&self, direction: Direction) -> Vec<Span> {
        let mut shim = Http1::new();
        let mut marked = Vec::new();
        for (turn, script) in &self.turns {
            if script.bytes.is_empty() {
                continue;
            }
            let spans = mark(&mut shim, *turn, &script.bytes);
            if *turn == direction {
                marked.extend(spans);
            }
        }
        merge(marked)
    }
}

/// The span as scripts have it: what content belongs to has tests of its own.
fn without_object(span: &Span) -> Span {
    match span.kind {
        SpanKind::Content { offset, last, .. } => Span::content(span.len, offset, last),
        SpanKind::Opaque(_) => *span,
    }
}

impl Script {
    fn framing(&mut self, text: &str) -> &mut Self {
        self.opaque(text, Framing)
    }

    fn opaque(&mut self, text: &str, reason: OpaqueReason) -> &mut Self {
        self.push(text, Span::opaque(text.len(), reason))
    }

    fn content(&mut self, text: &str, offset: u64, last: bool) -> &mut Self {
        self.push(text, Span::content(text.len(), offset, last))
    }

    fn push(&mut self, text: &str, span: Span) -> &mut Self {
        if !text.is_empty() {
            self.bytes.extend_from_slice(text.as_bytes());
            self.spans.push(span);
        }
        self
    }
}

/// Gives one input to the shim and checks that the spans partition it.
fn mark(shim: &mut Http1, direction: Direction, input: &[u8]) -> Vec<Span> {
    let before = Span::opaque(1, Framing);
    let mut spans = vec![before];
    shim.handle_input(direction, input, &mut spans);
    assert_eq!(spans.remove(0), before, "spans of earlier inputs are left alone");
    assert!(spans.iter().all(|span| span.len > 0));
    assert_eq!(spans.iter().map(|span| span.len).sum::<usize>(), input.len());
    spans
}

/// Joins neighbours that a cut may have parted.
fn merge(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        let joined = merged.last().and_then(|before| match (before.kind, span.kind) {
            (SpanKind::Opaque(a), SpanKind::Opaque(b)) => (a == b).then_some(before.kind),
            (
                SpanKind::Content { offset, last: false, object: one, .. },
                SpanKind::Content { offset: next, last, end, object },
            ) => (offset + before.len as u64 == next && one == object).then_some(SpanKind::Content {
                offset,
                last,
                end,
                object,
            }),
            _ => None,
        });
        match (merged.last_mut(), joined) {
            (Some(before), Some(kind)) => *before = Span { len: before.len + span.len, kind },
            _ => merged.push(span),
        }
    }
    merged
}
