//! The SMB2 shim on messages made by hand. Every script runs whole, a byte at a time and split at every offset.

use proptest::prelude::*;
use wanigan::fault::{OpaqueReason, Protocol};
use wanigan::shim::smb2::Smb2;
use wanigan::shim::{Shim, Span};
use wanigan_parsers::Direction::{self, ToClient, ToServer};

use crate::messages::*;
use crate::spans::{Marks, Script, proptest_config, run, run_in_all_cuts};

#[track_caller]
fn marks(script: &[(Direction, Vec<u8>)]) -> Marks {
    run_in_all_cuts(Smb2::new, script)
}

fn framing(len: usize) -> Span {
    Span::opaque(len, OpaqueReason::Framing)
}

/// Data of a READ that got less than it asked for: the file ends behind them.
fn short(len: usize, offset: u64) -> Span {
    Span::content_of(len, offset, true, true, None)
}

/// A READ of `length` bytes at `offset`, then `response` as the server's frame.
#[track_caller]
fn answer_to_read(offset: u64, length: u32, response: Vec<u8>) -> Vec<Span> {
    marks(&[(ToServer, frame(&read_request(4, offset, length))), (ToClient, response)]).to_client
}

#[test]
fn read_data_is_content_at_the_offset_of_its_request() {
    let marks = marks(&[
        (ToServer, frame(&read_request(4, 1 << 33, 100))),
        (ToClient, frame(&read_response(4, &[0xaa; 60]))),
    ]);
    assert_eq!(marks.to_server, [framing(4 + 64 + 49)]);
    assert_eq!(marks.to_client, [framing(84), short(60, 1 << 33)]);
}

#[test]
fn responses_may_come_in_any_order() {
    let marks = marks(&[
        (ToServer, [frame(&read_request(4, 0, 10)), frame(&read_request(5, 10, 10))].concat()),
        (ToClient, [frame(&read_response(5, &[5; 10])), frame(&read_response(4, &[4; 10]))].concat()),
    ]);
    assert_eq!(
        marks.to_client,
        [framing(84), Span::content(10, 10, true), framing(84), Span::content(10, 0, true)]
    );
}

#[test]
fn the_data_offset_is_honoured_and_the_tail_is_framing() {
    let mut response = read_response_at(4, 88, &[1; 5]);
    response.extend_from_slice(&[0, 0, 7]);
    assert_eq!(
        answer_to_read(9, 5, frame(&response)),
        [framing(4 + 88), Span::content(5, 9, true), framing(3)]
    );
}

#[test]
fn chained_messages_are_told_apart() {
    let marks = marks(&[
        (
            ToServer,
            chain(&[
                message(5, 0, 0, 1, &[57; 60]),
                {
                    let mut read = read_request(2, 0, 20);
                    read[16..20].copy_from_slice(&RELATED.to_le_bytes());
                    read
                },
                read_request(3, 20, 20),
            ]),
        ),
        (
            ToClient,
            chain(&[
                message(5, RESPONSE, 0, 1, &[89; 88]),
                read_response(2, &[2; 20]),
                read_response(3, &[3; 13]),
            ]),
        ),
    ]);
    assert_eq!(
        marks.to_client,
        [framing(4 + 152 + 80), Span::content(20, 0, true), framing(4 + 80), short(13, 20)]
    );
}

#[test]
fn an_interim_response_keeps_the_request_pending() {
    let marks = marks(&[
        (ToServer, frame(&read_request(4, 7, 8))),
        (ToClient, frame(&error_response(READ, ASYNC, PENDING, 4))),
        (ToServer, frame(&message(CANCEL, 0, 0, 4, &[4, 0, 0, 0]))),
        (ToClient, {
            let mut response = read_response(4, &[1; 8]);
            response[16] |= u8::try_from(ASYNC).unwrap();
            frame(&response)
        }),
    ]);
    assert_eq!(marks.to_client, [framing(4 + 73 + 84), Span::content(8, 7, true)]);
}

#[test]
fn a_final_response_ends_its_request() {
    for first in [
        frame(&error_response(READ, 0, END_OF_FILE, 4)),
        frame(&error_response(0xff, 0, END_OF_FILE, 4)),
        frame(&read_response(4, &[])),
    ] {
        let len = first.len();
        let marks = marks(&[
            (ToServer, frame(&read_request(4, 0, 8))),
            (ToClient, first),
            (ToClient, frame(&read_response(4, &[1; 8]))),
        ]);
        assert_eq!(marks.to_client, [framing(len + 84), Span::opaque(8, OpaqueReason::SmbUnmatched)]);
    }
}

#[test]
fn a_response_that_fails_a_check_is_unmatched() {
    let data = [1; 8];
    let edit = |at: usize, byte: u8| {
        let mut response = read_response(4, &data);
        response[at] = byte;
        response
    };
    let cases = [
        ("no pending READ", read_response(5, &data)),
        ("no response flag", edit(16, 0)),
        ("structure size", edit(64, 16)),
        ("data offset", edit(66, 79)),
        ("data offset beyond the end", edit(66, 89)),
        ("data length beyond the end", edit(68, 9)),
        ("data length beyond the request", read_response(4, &[1; 9])),
        ("data length far beyond", edit(71, 0xff)),
        ("RDMA", edit(76, 1)),
    ];
    for (case, response) in cases {
        let len = response.len() - 80;
        let expected = [framing(84), Span::opaque(len, OpaqueReason::SmbUnmatched)];
        assert_eq!(answer_to_read(0, 8, frame(&response)), expected, "{case}");
    }
    // A body cut short is decided on what there is.
    let short = &read_response(4, &data)[..70];
    assert_eq!(answer_to_read(0, 8, frame(short)), [framing(4 + 70)]);
}

#[test]
fn a_request_that_cannot_be_answered_in_place_matches_nothing() {
    let edit = |at: usize, byte: u8| {
        let mut request = read_request(4, 0, 8);
        request[at] = byte;
        request
    };
    let cases = [
        ("RDMA channel", edit(64 + 36, 1)),
        ("structure size", edit(64, 48)),
        ("too short", read_request(4, 0, 8)[..100].to_vec()),
        ("offset at the end of everything", read_request(4, u64::MAX - 3, 8)),
        ("a response", edit(16, 1)),
    ];
    for (case, request) in cases {
        let marks = marks(&[(ToServer, frame(&request)), (ToClient, frame(&read_response(4, &[1; 8])))]);
        assert_eq!(marks.to_client[1], Span::opaque(8, OpaqueReason::SmbUnmatched), "{case}");
    }
}

#[test]
fn an_id_used_twice_matches_nothing() {
    let marks = marks(&[
        (ToServer, [frame(&read_request(4, 0, 8)), frame(&read_request(4, 64, 8))].concat()),
        (ToClient, [frame(&read_response(4, &[1; 8])), frame(&read_response(4, &[2; 8]))].concat()),
    ]);
    assert_eq!(marks.content_bytes(ToClient), 0);
    assert_eq!(marks.opaque_bytes(OpaqueReason::SmbUnmatched), 16);
}

#[test]
fn data_of_pipes_is_opaque() {
    let marks = marks(&[
        (ToClient, frame(&tree_connect_response(1, 2))),
        (ToServer, [frame(&write_request(2, 0, &[1; 8])), frame(&read_request(3, 0, 1024))].concat()),
        (ToClient, frame(&read_response(3, &[1; 40]))),
        (ToServer, frame(&read_request(4, 0, 1024))),
        (ToClient, {
            let mut response = read_response(4, &[1; 40]);
            response[8..12].copy_from_slice(&0x8000_0005_u32.to_le_bytes());
            frame(&response)
        }),
        // The id of the pipe's tree is given out again for a disk.
        (ToClient, frame(&tree_connect_response(5, 1))),
        (ToServer, frame(&read_request(6, 0, 1024))),
        (ToClient, frame(&read_response(6, &[1; 40]))),
    ]);
    assert_eq!(marks.opaque_bytes(OpaqueReason::SmbPipe), 8 + 40 + 40);
    assert_eq!(marks.content_bytes(ToClient), 40);
}

#[test]
fn related_requests_work_on_the_tree_of_the_first() {
    let mut read = read_request(3, 0, 1024);
    read[16..20].copy_from_slice(&RELATED.to_le_bytes());
    read[36..48].fill(0xff);
    let mut response = read_response(3, &[1; 40]);
    response[36..48].fill(0xff);
    let marks = marks(&[
        (ToClient, frame(&tree_connect_response(1, 2))),
        (ToServer, chain(&[message(5, 0, 0, 2, &[57; 56]), read])),
        (ToClient, frame(&response)),
    ]);
    assert_eq!(marks.opaque_bytes(OpaqueReason::SmbPipe), 40);
}

#[test]
fn write_data_is_content_on_its_way_to_the_server() {
    let write = write_request(4, 4096, &[3; 20]);
    let marks =
        marks(&[(ToServer, [chain(&[write.clone(), write]), frame(&read_request(5, 0, 1))].concat())]);
    assert_eq!(
        marks.to_server,
        [
            framing(116),
            Span::content(20, 4096, true),
            framing(4 + 112),
            Span::content(20, 4096, true),
            framing(4 + 113)
        ]
    );
}

#[test]
fn a_write_whose_data_cannot_be_placed_is_opaque() {
    let edit = |at: usize, byte: u8| {
        let mut request = write_request(4, 0, &[3; 20]);
        request[at] = byte;
        request
    };
    let cases = [
        ("append", write_request(4, u64::MAX, &[3; 20]), OpaqueReason::SmbUnmatched),
        ("data offset", edit(66, 111), OpaqueReason::SmbUnmatched),
        ("length beyond the end", edit(68, 21), OpaqueReason::SmbUnmatched),
        ("structure size", edit(64, 50), OpaqueReason::SmbUnmatched),
        ("RDMA", edit(96, 1), OpaqueReason::Framing),
    ];
    for (case, request, reason) in cases {
        let marks = marks(&[(ToServer, frame(&request))]);
        assert_eq!(marks.content_bytes(ToServer), 0, "{case}");
        assert!(marks.opaque_bytes(reason) >= 20, "{case}");
    }
}

#[test]
fn encrypted_and_compressed_frames_are_opaque_one_by_one() {
    let hidden = |id: u8| frame(&[&[id][..], b"SMB", &[0x5a; 96]].concat());
    let marks = marks(&[
        (ToServer, frame(&read_request(4, 0, 8))),
        (ToClient, [hidden(0xfd), hidden(0xfc), frame(&read_response(4, &[1; 8])), hidden(0xfd)].concat()),
    ]);
    assert_eq!(
        marks.to_client,
        [
            framing(8),
            Span::opaque(96, OpaqueReason::SmbEncrypted),
            framing(8),
            Span::opaque(96, OpaqueReason::SmbCompressed),
            framing(84),
            Span::content(8, 0, true),
            framing(8),
            Span::opaque(96, OpaqueReason::SmbEncrypted),
        ]
    );
}

#[test]
fn smb1_frames_may_lead_into_smb2() {
    let negotiate = frame(b"\xffSMBr\0\0\0\0SMB 2.???");
    let smb2 = [
        (ToClient, frame(&message(0, RESPONSE, 0, 0, &[65; 64]))),
        (ToServer, frame(&read_request(4, 0, 8))),
        (ToClient, frame(&read_response(4, &[1; 8]))),
    ];
    let script: Script = [(ToServer, negotiate.clone())].into_iter().chain(smb2.clone()).collect();
    let marks = marks(&script);
    assert_eq!(marks.to_server[..2], [framing(8), Span::opaque(14, OpaqueReason::Smb1)]);
    assert_eq!(marks.content_bytes(ToClient), 8);

    let mut shim = Smb2::new();
    run(&mut shim, &[(ToServer, negotiate), (ToClient, frame(b"\xfeSMX"))]);
    assert_eq!(shim.protocol(), Protocol::Smb1);
    run(&mut shim, &smb2);
    assert_eq!(shim.protocol(), Protocol::Smb2);
}

#[test]
fn a_payload_of_no_known_protocol_costs_its_frame_only() {
    let unknown = [frame(b""), frame(b"ab"), frame(b"Hello, world")].concat();
    let marks = marks(&[
        (ToServer, frame(&read_request(4, 0, 8))),
        (ToClient, [unknown, frame(&read_response(4, &[1; 8]))].concat()),
    ]);
    assert_eq!(
        marks.to_client,
        [
            framing(4 + 6 + 8),
            Span::opaque(8, OpaqueReason::UnknownProtocol),
            framing(84),
            Span::content(8, 0, true)
        ]
    );
}

#[test]
fn control_packets_of_a_netbios_session_are_framing() {
    let request = [&[0x81, 0, 0, 68][..], &[b'A'; 68]].concat();
    let marks = marks(&[
        (ToServer, request),
        (ToClient, vec![0x82, 0, 0, 0]),
        (ToServer, [vec![0x85, 0, 0, 0], frame(&read_request(4, 0, 8))].concat()),
        (ToClient, [vec![0x85, 0, 0, 0], frame(&read_response(4, &[1; 8]))].concat()),
    ]);
    assert_eq!(marks.to_client, [framing(8 + 84), Span::content(8, 0, true)]);
    assert_eq!(marks.opaque_bytes(OpaqueReason::Framing), 72 + 4 + 117 + 8 + 84);
}

#[test]
fn a_frame_that_cannot_be_made_out_ends_the_shim_both_ways() {
    for garbage in [&b"HTTP/1.1 200 OK"[..], &[0x81, 0x02, 0, 4, 1, 2, 3], &[0x86, 0, 0, 0, 0]] {
        for at_fault in Direction::ALL {
            let marks = marks(&[
                (ToServer, frame(&read_request(4, 0, 8))),
                (at_fault, garbage.to_vec()),
                (ToClient, frame(&read_response(4, &[1; 8]))),
                (ToServer, frame(&write_request(5, 0, &[1; 8]))),
            ]);
            assert_eq!(marks.content_bytes(ToServer) + marks.content_bytes(ToClient), 0);
            let behind = garbage.len() - 4 + (84 + 8) + (116 + 8);
            assert_eq!(marks.opaque_bytes(OpaqueReason::Malformed), behind);
        }
    }
}

#[test]
fn a_broken_chain_costs_the_rest_of_its_frame() {
    let first = read_response(4, &[1; 8]);
    for next in [8, 63, 65, 84, 88 + 88, 1 << 20, u32::MAX - 7] {
        let mut broken = chain(&[first.clone(), read_response(5, &[2; 8])]);
        broken[4 + 20..4 + 24].copy_from_slice(&next.to_le_bytes());
        let len = broken.len() - 68;
        let marks = marks(&[
            (ToServer, [4, 5, 6].map(|id| frame(&read_request(id, 0, 8))).concat()),
            (
                ToClient,
                [broken, frame(&read_response(4, &[4; 8])), frame(&read_response(6, &[3; 8]))].concat(),
            ),
        ]);
        assert_eq!(
            marks.to_client,
            [
                framing(68),
                Span::opaque(len, OpaqueReason::Malformed),
                framing(84),
                // Its request went with the broken frame.
                Span::opaque(8, OpaqueReason::SmbUnmatched),
                framing(84),
                Span::content(8, 0, true),
            ],
            "NextCommand {next}"
        );
    }
}

#[test]
fn a_chain_whose_next_header_is_cut_or_foreign_costs_the_rest_of_its_frame() {
    let whole = read_response(5, &[2; 8]);
    let mut foreign = whole.clone();
    foreign[0] = 0xfd;
    for (second, held) in [(whole[..60].to_vec(), 0), (foreign, 64)] {
        let len = second.len() - held;
        let marks = marks(&[
            (ToServer, [4, 5, 6].map(|id| frame(&read_request(id, 0, 8))).concat()),
            (
                ToClient,
                [chain(&[read_response(4, &[1; 8]), second]), frame(&read_response(6, &[3; 8]))].concat(),
            ),
        ]);
        let mut expected = vec![framing(84), Span::content(8, 0, true), framing(held)];
        expected.retain(|span| span.len > 0);
        expected.extend([Span::opaque(len, OpaqueReason::Malformed), framing(84), Span::content(8, 0, true)]);
        assert_eq!(marks.to_client, expected);
    }
}

#[test]
fn a_frame_too_short_for_a_header_is_malformed() {
    let short = frame(&read_response(4, &[])[..40]);
    let marks = marks(&[(ToClient, [short, frame(&read_response(4, &[]))].concat())]);
    assert_eq!(marks.to_client, [framing(8), Span::opaque(36, OpaqueReason::Malformed), framing(84)]);
}

#[test]
fn too_many_pending_reads_end_the_shim() {
    let mut shim = Smb2::new();
    let requests: Script = (0..8192).map(|id| (ToServer, frame(&read_request(id, 0, 8)))).collect();
    run(&mut shim, &requests);
    let marks = run(&mut shim, &[(ToClient, frame(&read_response(0, &[1; 8])))]);
    assert_eq!(marks.content_bytes(ToClient), 8, "the table is full but whole");
    let marks = run(
        &mut shim,
        &[
            (ToServer, frame(&read_request(9000, 0, 8))),
            (ToServer, frame(&read_request(9001, 0, 8))),
            (ToClient, frame(&read_response(9000, &[1; 8]))),
        ],
    );
    assert_eq!(marks.to_client, [Span::opaque(92, OpaqueReason::TooManyPending)]);
    assert_eq!(marks.opaque_bytes(OpaqueReason::TooManyPending), 92 + 1);
}

#[test]
fn reads_answered_in_frames_that_hide_them_do_not_fill_the_table() {
    let mut shim = Smb2::new();
    run(&mut shim, &[(ToClient, frame(b"\xfcSMB and so on"))]);
    let requests: Script = (0..9000).map(|id| (ToServer, frame(&read_request(id, 0, 8)))).collect();
    run(&mut shim, &requests);
    let marks =
        run(&mut shim, &[8999, 9000 - 8192, 0].map(|id| (ToClient, frame(&read_response(id, &[1; 8])))));
    assert_eq!(marks.content_bytes(ToClient), 16);
    assert_eq!(marks.opaque_bytes(OpaqueReason::SmbUnmatched), 8);
}

#[test]
fn eight_mebibytes_of_data_cost_one_span_an_input() {
    const LEN: usize = 8 << 20;
    let mut shim = Smb2::new();
    run(&mut shim, &[(ToServer, frame(&read_request(4, 0, LEN as u32)))]);
    let response = frame(&read_response(4, &vec![0; LEN]));
    let mut spans = Vec::new();
    for input in response.chunks(1 << 16) {
        shim.handle_input(ToClient, input, &mut spans);
    }
    assert_eq!(spans.len(), 2 + LEN / (1 << 16));
    assert_eq!(spans.last(), Some(&Span::content(84, LEN as u64 - 84, true)));
}

proptest! {
    #![proptest_config(proptest_config(256))]

    #[test]
    fn no_bytes_panic_and_no_cut_matters(
        script in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..200)), 1..8),
    ) {
        run_in_all_cuts(Smb2::new, &directed(script));
    }

    /// Frames that are nearly right get further than noise.
    #[test]
    fn damaged_messages_neither_panic_nor_depend_on_cuts(
        damage in proptest::collection::vec((0_usize..600, any::<u8>()), 0..6),
    ) {
        let to_server = chain(&[read_request(1, 0, 40), write_request(2, 9, &[1; 16]), read_request(3, 40, 40)]);
        let to_client = chain(&[read_response(1, &[1; 40]), tree_connect_response(2, 2), read_response(3, &[2; 33])]);
        let mut script = vec![(ToServer, to_server), (ToClient, to_client)];
        for (at, byte) in damage {
            let first = script[0].1.len();
            let (run, at) = if at < first { (0, at) } else { (1, at - first) };
            if let Some(place) = script[run].1.get_mut(at) {
                *place = byte;
            }
        }
        run_in_all_cuts(Smb2::new, &script);
    }
}

fn directed(script: Vec<(bool, Vec<u8>)>) -> Script {
    script
        .into_iter()
        .map(|(to_client, input)| (if to_client { ToClient } else { ToServer }, input))
        .collect()
}
