//! The choice of a shim from the client's first bytes, under every cut.

use wanigan::fault::{OpaqueReason, Protocol};
use wanigan::object::{Object, Place};
use wanigan::shim::detecting::Detecting;
use wanigan::shim::{Shim, Span};
use wanigan_parsers::Direction::{self, ToClient, ToServer};

use crate::messages::{frame, read_request, read_response};
use crate::spans::{run, run_in_all_cuts};

fn detecting() -> Detecting {
    Detecting::new()
}

#[track_caller]
fn assert_marks(script: &[(Direction, Vec<u8>)], protocol: Protocol, to_server: &[Span], to_client: &[Span]) {
    let marks = run_in_all_cuts(detecting, script);
    assert_eq!((&marks.to_server[..], &marks.to_client[..]), (to_server, to_client));
    let mut shim = detecting();
    run(&mut shim, script);
    assert_eq!(shim.protocol(), protocol);
}

fn framing(len: usize) -> Span {
    Span::opaque(len, OpaqueReason::Framing)
}

#[test]
fn an_smb2_client_gets_the_smb2_shim() {
    assert_marks(
        &[(ToServer, frame(&read_request(1, 5, 8))), (ToClient, frame(&read_response(1, &[1; 8])))],
        Protocol::Smb2,
        &[framing(117)],
        &[framing(84), Span::content(8, 5, true)],
    );
}

#[test]
fn smb1_and_netbios_sessions_may_lead_into_smb2() {
    for first in [frame(b"\xffSMBr"), [&[0x81, 0, 0, 68][..], &[b'A'; 68]].concat()] {
        let marks = run_in_all_cuts(
            detecting,
            &[
                (ToServer, first),
                (ToServer, frame(&read_request(1, 5, 8))),
                (ToClient, frame(&read_response(1, &[1; 8]))),
            ],
        );
        assert_eq!(marks.content_bytes(ToClient), 8);
    }
}

#[test]
fn an_http_client_gets_the_http_shim_from_its_first_byte() {
    let root = Object { place: Place::of(&[b"http", b"", b"/"]), version: None };
    assert_marks(
        &[
            (ToServer, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            (ToClient, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody".to_vec()),
        ],
        Protocol::Http1,
        &[framing(18)],
        &[framing(38), Span::content_of(4, 0, true, true, Some(root))],
    );
}

#[test]
fn protocols_without_a_shim_are_opaque_for_their_reason() {
    let cases: [(&[u8], usize, Protocol, OpaqueReason); 3] = [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03", 6, Protocol::Tls, OpaqueReason::Tls),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", 24, Protocol::Other, OpaqueReason::Http2),
        (b"\x05\x01\0", 1, Protocol::Other, OpaqueReason::UnknownProtocol),
    ];
    for (first, decided, protocol, reason) in cases {
        assert_marks(
            &[(ToServer, first.to_vec()), (ToClient, vec![7; 9])],
            protocol,
            &[framing(decided), Span::opaque(first.len() - decided, reason)],
            &[Span::opaque(9, reason)],
        );
    }
}

#[test]
fn a_server_that_speaks_first_is_opaque_for_good() {
    for client in [vec![], b"GE".to_vec()] {
        let opaque = |len| Span::opaque(len, OpaqueReason::UnknownProtocol);
        let mut to_server = vec![framing(client.len()), opaque(14)];
        to_server.retain(|span| span.len > 0);
        assert_marks(
            &[
                (ToServer, client),
                (ToClient, b"220 ready\r\n".to_vec()),
                (ToServer, b"GET / HTTP/1.1".to_vec()),
            ],
            Protocol::Other,
            &to_server,
            &[opaque(11)],
        );
    }
}
