//! Of which file the SMB2 shim says that content is. Every script runs whole, a byte at a time and split at every offset.

use std::ops::Range;

use proptest::prelude::*;
use wanigan::object::{Object, Place, Version};
use wanigan::shim::Span;
use wanigan::shim::smb2::Smb2;
use wanigan_parsers::Direction::{ToClient, ToServer};

use crate::messages::*;
use crate::spans::{Marks, Script, proptest_config, run, run_in_all_cuts};

const FILE: [u8; 16] = OPENED.file;
const OTHER: [u8; 16] = [0xf2; 16];

/// A tree beside the usual one.
const SECOND: u32 = 0x7777;

/// A conversation, a message a frame.
struct Talk {
    script: Script,
    message_id: u64,
}

impl Talk {
    /// Connects a share and opens nothing.
    fn on(path: &str) -> Self {
        let mut talk = Self { script: Vec::new(), message_id: 1 };
        let id = talk.ask(|id| tree_connect_request(id, path));
        talk.hear(tree_connect_response(id, 1));
        talk
    }

    /// The usual file on the usual share.
    fn with_file() -> Self {
        let mut talk = Self::on(r"\\srv\share");
        talk.open("dir\\file.bin", OPENED);
        talk
    }

    fn ask(&mut self, request: impl FnOnce(u64) -> Vec<u8>) -> u64 {
        self.message_id += 1;
        self.script.push((ToServer, frame(&request(self.message_id))));
        self.message_id
    }

    fn hear(&mut self, response: Vec<u8>) {
        self.script.push((ToClient, frame(&response)));
    }

    fn open(&mut self, name: &str, opened: Opened) {
        self.open_with(|id| create_request(id, name, &[]), opened);
    }

    fn open_with(&mut self, request: impl FnOnce(u64) -> Vec<u8>, opened: Opened) {
        let id = self.ask(request);
        self.hear(create_response(id, opened));
    }

    fn close(&mut self, file: [u8; 16]) {
        let id = self.ask(|id| close_request(id, file));
        self.hear(close_response(id));
    }

    /// Reads 8 bytes at the start of a file.
    fn read(&mut self, file: [u8; 16]) {
        let id = self.ask(|id| of_file(read_request(id, 0, 8), file));
        self.hear(read_response(id, &[7; 8]));
    }

    #[track_caller]
    fn marks(&self) -> Marks {
        run_in_all_cuts(Smb2::new, &self.script)
    }

    /// What the data of the READs belong to.
    #[track_caller]
    fn objects(&self) -> Vec<Option<Object>> {
        self.marks().objects(ToClient)
    }

    /// What the data of the one READ belong to.
    #[track_caller]
    fn object(&self) -> Option<Object> {
        let objects = self.objects();
        assert_eq!(objects.len(), 1);
        objects[0]
    }
}

/// What the shim says of a file after `open` opened it as `FILE`.
#[track_caller]
fn object_of(share: &str, open: impl FnOnce(&mut Talk)) -> Option<Object> {
    let mut talk = Talk::on(share);
    open(&mut talk);
    talk.read(FILE);
    talk.object()
}

#[track_caller]
fn named(share: &str, name: &str) -> Object {
    object_of(share, |talk| talk.open(name, OPENED)).unwrap()
}

fn usual() -> Object {
    named(r"\\srv\share", "dir\\file.bin")
}

#[test]
fn a_read_is_of_the_file_that_was_opened() {
    let object = usual();
    assert_eq!(object.place, Place::of(&[b"smb", b"share", b"dir\\file.bin", b""]));
    assert!(object.version.is_some());
    for (share, name) in [
        (r"\\srv\share", "dir\\file.bi"),
        (r"\\srv\share2", "dir\\file.bin"),
        (r"\\srv\share", "file.bin"),
        (r"\\srv\share", "dir\\file.bin:stream"),
    ] {
        let other = named(share, name);
        assert!(other.place != object.place && other.version != object.version, "{share} {name}");
    }
}

#[test]
fn names_that_mean_one_file_share_its_place_and_no_version() {
    let object = usual();
    for (share, name) in [
        (r"\\10.0.0.1\share", "dir\\file.bin"),
        (r"\\SRV\SHARE", "dir\\file.bin"),
        (r"\\srv\share", "DIR\\File.bin"),
        (r"\\srv\share", "dir\\file.bin::$DATA"),
    ] {
        let other = named(share, name);
        assert_eq!(other.place, object.place, "{share} {name}");
        assert!(other.version.is_some() && other.version != object.version, "{share} {name}");
    }
    assert_eq!(usual(), object);
}

#[test]
fn a_dfs_name_is_the_file_without_its_server_and_share() {
    let object = object_of(r"\\srv\share", |talk| {
        talk.open_with(
            |id| {
                let mut request = create_request(id, r"dom\root\dir\file.bin", &[]);
                request[19] |= 0x10;
                request
            },
            OPENED,
        );
    });
    assert_eq!(object.unwrap().place, usual().place);
    let local = named(r"\\srv\share", r"dom\root\dir\file.bin");
    assert!(local.place != usual().place && local.version != object.unwrap().version);
}

#[test]
fn a_version_changes_with_whatever_the_server_says_of_the_file() {
    let file = |opened| object_of(r"\\srv\share", |talk| talk.open("dir\\file.bin", opened)).unwrap();
    for opened in [
        Opened { last_write: 0x12, ..OPENED },
        Opened { change: 0x23, ..OPENED },
        Opened { len: 1001, ..OPENED },
    ] {
        assert_eq!(file(opened).place, usual().place);
        assert_ne!(file(opened).version, usual().version, "{opened:?}");
    }
    for (same, attributes) in [(OTHER, 0x21), (FILE, 0x80)] {
        let mut talk = Talk::on(r"\\srv\share");
        talk.open("dir\\file.bin", Opened { file: same, attributes, ..OPENED });
        talk.read(same);
        assert_eq!(talk.object(), Some(usual()), "what else is said does not matter");
    }
}

#[test]
fn a_snapshot_is_a_place_of_its_own() {
    let at = |contexts: Vec<u8>| {
        object_of(r"\\srv\share", |talk| {
            talk.open_with(|id| create_request(id, "dir\\file.bin", &contexts), OPENED);
        })
    };
    let first = at(context(b"TWrp", &[1; 8], false)).unwrap();
    let second = at([context(b"MxAc", &[], true), context(b"TWrp", &[2; 8], false)].concat()).unwrap();
    assert!(first.place != usual().place && second.place != usual().place && first.place != second.place);
    assert!(first.version != second.version && first.version != usual().version);
    assert_eq!(at([context(b"TWrp", &[1; 8], true), context(b"TWrp", &[2; 8], false)].concat()), None);
    assert_eq!(at(context(b"TWrp", &[], false)), None);
}

#[test]
fn contexts_that_may_change_what_is_opened_leave_it_unknown() {
    let at = |contexts: &[u8]| {
        object_of(r"\\srv\share", |talk| {
            talk.open_with(|id| create_request(id, "dir\\file.bin", contexts), OPENED);
        })
    };
    for name in [&b"MxAc"[..], b"QFid", b"RqLs", b"DH2Q", b"DHnQ", b"AlSi", b"AAPL"] {
        assert_eq!(at(&context(name, &[9; 32], false)), Some(usual()), "{}", name.escape_ascii());
    }
    for name in [&b"DHnC"[..], b"DH2C", b"What", b"TWrpX", b"", &[0x9c; 16]] {
        assert_eq!(at(&context(name, &[9; 32], false)), None, "{}", name.escape_ascii());
    }
    let good = context(b"MxAc", &[], true);
    for damaged in [
        // Lies outside the list.
        good.clone(),
        [&good[..], &context(b"QFid", &[1; 64], false)[..40]].concat(),
        [&good[..], &[0; 8]].concat(),
    ] {
        assert_eq!(at(&damaged), None);
    }
}

#[test]
fn a_name_that_is_not_in_the_message_leaves_the_file_unknown() {
    let edit = |at: usize, bytes: &[u8]| {
        object_of(r"\\srv\share", |talk| {
            talk.open_with(
                |id| {
                    let mut request = create_request(id, "dir\\file.bin", &context(b"MxAc", &[], false));
                    request[at..at + bytes.len()].copy_from_slice(bytes);
                    request
                },
                OPENED,
            );
        })
    };
    assert_eq!(edit(64, &[57]), Some(usual()));
    for (case, at, bytes) in [
        ("structure size", 64, &[56][..]),
        ("a number for a name", 64 + 41, &[0x20]),
        ("name before the buffer", 108, &[119, 0]),
        ("name beyond the end", 108, &[0xff, 0xff]),
        ("name of half letters", 110, &[23, 0]),
        ("name longer than the message", 110, &[0, 0xff]),
        ("contexts before the buffer", 112, &[119, 0, 0, 0]),
        ("contexts beyond the end", 112, &[0xff, 0xff, 0xff, 0xff]),
        ("contexts longer than the message", 116, &[0xff, 0xff, 0xff, 0xff]),
    ] {
        assert_eq!(edit(at, bytes), None, "{case}");
    }
}

#[test]
fn names_of_any_length_are_followed_as_far_as_is_looked() {
    let long = "n".repeat(32_000);
    for (contexts, known) in [
        (Vec::new(), true),
        (context(b"ExtA", &[1; 1_000], false), true),
        // Beyond 64 KiB.
        (context(b"ExtA", &[1; 2_000], false), false),
    ] {
        let mut talk = Talk::on(r"\\srv\share");
        talk.open_with(|id| create_request(id, &long, &contexts), OPENED);
        talk.read(FILE);
        let script: Script = talk
            .script
            .iter()
            .flat_map(|(direction, bytes)| bytes.chunks(977).map(|piece| (*direction, piece.to_vec())))
            .collect();
        let marks = run(&mut Smb2::new(), &script);
        assert_eq!(marks, run(&mut Smb2::new(), &talk.script));
        assert_eq!(marks.objects(ToClient)[0].is_some(), known);
        assert_eq!(marks.content_bytes(ToClient), 8);
    }
}

#[test]
fn a_tree_whose_path_is_not_known_has_no_files() {
    let edit = |at: usize, byte: u8| {
        let mut talk = Talk::on(r"\\srv\share");
        talk.script[0].1[4 + at] = byte;
        talk.open("dir\\file.bin", OPENED);
        talk.read(FILE);
        talk.object()
    };
    assert_eq!(edit(64, 9), Some(usual()));
    for (case, at, byte) in [
        ("structure size", 64, 10),
        ("extension", 66, 4),
        ("path before the buffer", 68, 71),
        ("path beyond the end", 68, 200),
        ("path of half letters", 70, 21),
        ("no server", 72, b'x'),
        ("of another request", 24, 77),
        ("a response", 16, 1),
    ] {
        assert_eq!(edit(at, byte), None, "{case}");
    }
    for share_type in [2, 3, 9] {
        let mut talk = Talk::on(r"\\srv\share");
        talk.script[1].1[4 + 66] = share_type;
        talk.open("dir\\file.bin", OPENED);
        talk.read(FILE);
        let objects = talk.objects();
        assert!(objects.iter().all(Option::is_none), "share type {share_type}: {objects:?}");
    }
    assert_eq!(object_of(&format!(r"\\srv\{}", "s".repeat(2_000)), |talk| talk.open("f", OPENED)), None);
}

#[test]
fn a_file_of_another_connection_is_unknown() {
    let mut talk = Talk::with_file();
    talk.read(OTHER);
    let mut session = talk.ask(|id| of_file(read_request(id, 0, 8), FILE));
    talk.script.last_mut().unwrap().1[4 + 40] ^= 1;
    talk.hear(read_response(session, &[7; 8]));
    assert_eq!(talk.objects(), [None, None]);
    // Midstream.
    let mut talk = Talk { script: Vec::new(), message_id: 0 };
    session = talk.ask(|id| create_request(id, "f", &[]));
    talk.hear(create_response(session, OPENED));
    talk.read(FILE);
    assert_eq!(talk.object(), None);
}

#[test]
fn a_create_that_failed_or_opened_a_directory_names_no_file() {
    let mut talk = Talk::on(r"\\srv\share");
    let id = talk.ask(|id| create_request(id, "dir\\file.bin", &[]));
    talk.hear(error_response(CREATE, 0, 0xc000_0022, id));
    talk.hear(create_response(id, OPENED));
    talk.read(FILE);
    talk.open("dir", Opened { attributes: 0x10, ..OPENED });
    talk.read(FILE);
    assert_eq!(talk.objects(), [None, None]);
}

#[test]
fn a_create_answered_late_names_its_file() {
    let mut talk = Talk::on(r"\\srv\share");
    let id = talk.ask(|id| create_request(id, "dir\\file.bin", &[]));
    talk.hear(error_response(CREATE, ASYNC, PENDING, id));
    talk.script.push((ToServer, frame(&message(CANCEL, 0, 0, id, &[4, 0, 0, 0]))));
    talk.open("dir\\other.bin", Opened { file: OTHER, ..OPENED });
    let mut response = create_response(id, OPENED);
    response[16] |= u8::try_from(ASYNC).unwrap();
    talk.hear(response);
    talk.read(FILE);
    talk.read(OTHER);
    let other = named(r"\\srv\share", "dir\\other.bin");
    assert_eq!(talk.objects(), [Some(usual()), Some(other)]);
}

#[test]
fn a_create_whose_id_is_used_twice_names_no_file() {
    let mut talk = Talk::on(r"\\srv\share");
    let id = talk.ask(|id| create_request(id, "dir\\file.bin", &[]));
    talk.script.push((ToServer, frame(&create_request(id, "dir\\secret.bin", &[]))));
    talk.hear(create_response(id, OPENED));
    talk.hear(create_response(id, OPENED));
    talk.read(FILE);
    assert_eq!(talk.object(), None);
}

#[test]
fn a_closed_file_is_unknown_and_its_id_may_come_again() {
    let mut talk = Talk::with_file();
    talk.read(FILE);
    talk.close(FILE);
    talk.read(FILE);
    talk.open("dir\\other.bin", OPENED);
    talk.read(FILE);
    let other = named(r"\\srv\share", "dir\\other.bin");
    assert_eq!(talk.objects(), [Some(usual()), None, Some(other)]);
}

#[test]
fn a_read_under_way_stays_of_its_file_when_the_id_comes_again() {
    let mut talk = Talk::with_file();
    let read = talk.ask(|id| of_file(read_request(id, 0, 8), FILE));
    let close = talk.ask(|id| close_request(id, FILE));
    let hopeful = talk.ask(|id| of_file(read_request(id, 0, 8), FILE));
    let create = talk.ask(|id| create_request(id, "dir\\other.bin", &[]));
    talk.hear(read_response(read, &[1; 8]));
    talk.hear(close_response(close));
    talk.hear(create_response(create, OPENED));
    talk.hear(read_response(hopeful, &[1; 8]));
    assert_eq!(talk.objects(), [Some(usual()), None]);
    // The same, where the CLOSE response is late: the file that the id meant is gone.
    let mut talk = Talk::with_file();
    let read = talk.ask(|id| of_file(read_request(id, 0, 8), FILE));
    talk.open("dir\\other.bin", OPENED);
    talk.hear(read_response(read, &[1; 8]));
    talk.read(FILE);
    let other = named(r"\\srv\share", "dir\\other.bin");
    assert_eq!(talk.objects(), [None, Some(other)]);
}

#[test]
fn an_id_given_out_for_a_file_without_a_name_is_no_more_that_of_a_known_one() {
    let mut talk = Talk::with_file();
    talk.open_with(|id| create_request(id, "dir\\other.bin", &context(b"DHnC", &[1; 16], false)), OPENED);
    talk.read(FILE);
    assert_eq!(talk.object(), None);
}

#[test]
fn files_end_with_their_tree_and_session() {
    for command in [TREE_DISCONNECT, LOGOFF] {
        let mut talk = Talk::with_file();
        let id = talk.ask(|id| message(command, 0, 0, id, &[4, 0, 0, 0]));
        talk.hear(message(command, RESPONSE, 0, id, &[4, 0, 0, 0]));
        talk.read(FILE);
        talk.open("dir\\file.bin", OPENED);
        talk.read(FILE);
        assert_eq!(talk.objects(), [None, None]);
    }
    let mut talk = Talk::with_file();
    let id = talk.ask(|id| tree_connect_request(id, r"\\srv\other"));
    talk.hear(tree_connect_response(id, 1));
    talk.read(FILE);
    talk.open("dir\\file.bin", OPENED);
    talk.read(FILE);
    let other = named(r"\\srv\other", "dir\\file.bin");
    assert_eq!(talk.objects(), [None, Some(other)], "the id of a tree comes again");
}

#[test]
fn what_may_change_a_file_ends_its_version_for_all_who_have_it_open() {
    type Request = fn(u64) -> Vec<u8>;
    let cases: [(&str, Request, bool); 6] = [
        ("WRITE", |id| of_file(write_request(id, 0, &[1; 4]), FILE), true),
        ("SET_INFO", |id| of_file(message(SET_INFO, 0, 0, id, &[33; 33]), FILE), true),
        ("a copy on the server", |id| ioctl_request(id, FILE, 0x0014_40f2), true),
        ("a resume key", |id| ioctl_request(id, FILE, 0x0014_0078), false),
        ("QUERY_INFO", |id| of_file(message(QUERY_INFO, 0, 0, id, &[41; 41]), FILE), false),
        ("WRITE to another file", |id| of_file(write_request(id, 0, &[1; 4]), [0xf3; 16]), false),
    ];
    for (case, change, changes) in cases {
        let mut talk = Talk::with_file();
        talk.open("DIR\\FILE.BIN", Opened { file: OTHER, ..OPENED });
        talk.open("dir\\third.bin", Opened { file: [0xf3; 16], ..OPENED });
        // Its response comes after the change.
        let under_way = talk.ask(|id| of_file(read_request(id, 0, 8), FILE));
        talk.ask(change);
        talk.hear(read_response(under_way, &[1; 8]));
        talk.read(FILE);
        talk.read(OTHER);
        talk.open("dir\\file.bin", Opened { file: [0xf4; 16], last_write: 0x99, ..OPENED });
        talk.read([0xf4; 16]);
        let versions: Vec<bool> =
            talk.objects().iter().map(|object| object.unwrap().version.is_some()).collect();
        assert_eq!(versions, [!changes; 4], "{case}");
        assert!(talk.objects().iter().all(|object| object.unwrap().place == usual().place), "{case}");
        talk.close(FILE);
        talk.open("dir\\file.bin", OPENED);
        talk.read(FILE);
        assert_eq!(talk.objects().last(), Some(&Some(usual())), "{case}: opened again");
    }
}

#[test]
fn a_create_that_empties_the_file_ends_its_versions() {
    let disposition = |disposition: u8| {
        move |id| {
            let mut request = create_request(id, "dir\\file.bin", &[]);
            request[64 + 36] = disposition;
            request
        }
    };
    for (asked, action, changes) in
        [(0, 0, true), (4, 3, true), (5, 3, true), (1, 1, false), (3, 2, true), (2, 2, true)]
    {
        let mut talk = Talk::with_file();
        talk.open_with(disposition(asked), Opened { file: OTHER, action, ..OPENED });
        talk.read(FILE);
        talk.read(OTHER);
        let versions: Vec<bool> =
            talk.objects().iter().map(|object| object.unwrap().version.is_some()).collect();
        assert_eq!(versions, [!changes; 2], "disposition {asked}");
    }
}

#[test]
fn written_data_is_of_the_file_in_no_version() {
    let mut talk = Talk::with_file();
    talk.ask(|id| of_file(write_request(id, 992, &[1; 8]), FILE));
    talk.ask(|id| of_file(write_request(id, 0, &[1; 8]), OTHER));
    let marks = talk.marks();
    let object = Object { place: usual().place, version: None };
    assert_eq!(marks.objects(ToServer), [Some(object), None]);
    assert!(marks.to_server.contains(&Span::content_of(8, 992, true, false, Some(object))));
}

#[test]
fn a_read_tells_where_the_file_ends() {
    for (offset, asked, got, end) in [
        (0, 500, 500, false),
        (500, 500, 500, true),
        (500, 499, 499, false),
        (0, 2000, 1000, true),
        (0, 500, 400, true),
        (900, 200, 200, true),
    ] {
        let mut talk = Talk::with_file();
        let id = talk.ask(|id| of_file(read_request(id, offset, asked), FILE));
        talk.hear(read_response(id, &vec![1; got]));
        let expected = Span::content_of(got, offset, true, end, Some(usual()));
        assert_eq!(talk.marks().to_client.last(), Some(&expected));
    }
    // Whoever wrote may have made it longer.
    let mut talk = Talk::with_file();
    talk.ask(|id| of_file(write_request(id, 1000, &[1; 8]), FILE));
    let id = talk.ask(|id| of_file(read_request(id, 992, 8), FILE));
    talk.hear(read_response(id, &[1; 8]));
    let object = Object { version: None, ..usual() };
    let expected = Span::content_of(8, 992, true, false, Some(object));
    assert_eq!(talk.marks().to_client.last(), Some(&expected));
}

/// CREATE, what stands between, and READ in one chain; then responses to the first and last.
#[track_caller]
fn chained(between: &[Vec<u8>], read: Vec<u8>) -> Option<Object> {
    let mut talk = Talk::with_file();
    talk.open("dir\\other.bin", Opened { file: OTHER, ..OPENED });
    let mut requests = vec![create_request(90, "dir\\chained.bin", &[])];
    requests.extend_from_slice(between);
    requests.push(read);
    requests.push(related(close_request(99, PREVIOUS)));
    talk.script.push((ToServer, chain(&requests)));
    let opened = Opened { file: [0xf5; 16], ..OPENED };
    talk.script.push((
        ToClient,
        chain(&[create_response(90, opened), read_response(98, &[1; 8]), close_response(99)]),
    ));
    talk.object()
}

#[test]
fn a_related_read_is_of_the_file_opened_in_its_chain() {
    let object = Some(named(r"\\srv\share", "dir\\chained.bin"));
    let read = || related(of_file(read_request(98, 0, 8), PREVIOUS));
    let query = |file| of_file(message(QUERY_INFO, 0, 0, 97, &[41; 41]), file);
    assert_eq!(chained(&[], read()), object);
    assert_eq!(chained(&[related(query(PREVIOUS))], read()), object);
    // An id that only the response gives out, an id without a chain: no server accepts them.
    assert_eq!(chained(&[], of_file(read_request(98, 0, 8), PREVIOUS)), None);
    assert_eq!(chained(&[], related(of_file(read_request(98, 0, 8), [0xf5; 16]))), None);
}

#[test]
fn servers_that_differ_over_a_chain_do_not_make_one_file_pass_for_another() {
    let other = Some(named(r"\\srv\share", "dir\\other.bin"));
    let read = || related(of_file(read_request(98, 0, 8), PREVIOUS));
    let query = |file| of_file(message(QUERY_INFO, 0, 0, 97, &[41; 41]), file);
    // A request of its own, and those that follow it, are of the file it names.
    assert_eq!(chained(&[query(OTHER)], read()), other);
    assert_eq!(chained(&[], of_file(read_request(98, 0, 8), OTHER)), other);
    assert_eq!(chained(&[query(OTHER)], related(of_file(read_request(98, 0, 8), OTHER))), other);
    // A related request that names a file itself is of that one or of the chain's.
    assert_eq!(chained(&[], related(of_file(read_request(98, 0, 8), OTHER))), None);
    assert_eq!(chained(&[related(query(OTHER))], read()), None);
    // So is one whose file nobody here can tell.
    assert_eq!(chained(&[related(message(0x12, 0, 0, 97, &[24; 24]))], read()), None);
    assert_eq!(chained(&[query([0xee; 16])], read()), None);
}

#[test]
fn a_file_opened_in_the_chain_of_its_tree_connect_is_unknown() {
    let object = |related_connect: bool, connect: bool| {
        let mut talk = Talk::with_file();
        // Its header names the tree that is known, its response another.
        let mut requests = vec![create_request(90, "dir\\file.bin", &[])];
        if connect {
            requests.push(tree_connect_request(91, r"\\srv\other"));
        }
        if related_connect {
            *requests.last_mut().unwrap() = related(requests.last().unwrap().clone());
        }
        requests.push(related(create_request(92, "dir\\chained.bin", &[])));
        requests.push(related(of_file(read_request(93, 0, 8), PREVIOUS)));
        talk.script.push((ToServer, chain(&requests)));
        let opened = |id, file| create_response(id, Opened { file, ..OPENED });
        talk.hear(opened(90, OTHER));
        talk.hear(opened(92, [0xf5; 16]));
        talk.hear(read_response(93, &[1; 8]));
        talk.object()
    };
    assert_eq!(object(false, false), Some(named(r"\\srv\share", "dir\\chained.bin")));
    assert_eq!(object(false, true), None);
    assert_eq!(object(true, true), None);
}

#[test]
fn a_chain_whose_create_failed_reads_nothing_of_it() {
    let mut talk = Talk::on(r"\\srv\share");
    let read = related(of_file(read_request(91, 0, 8), PREVIOUS));
    talk.script.push((ToServer, chain(&[create_request(90, "dir\\file.bin", &[]), read])));
    talk.hear(error_response(CREATE, 0, 0xc000_0022, 90));
    talk.hear(read_response(91, &[1; 8]));
    assert_eq!(talk.object(), None);
    // A chain ends with its frame.
    let mut talk = Talk::with_file();
    let id = talk.ask(|id| related(of_file(read_request(id, 0, 8), PREVIOUS)));
    talk.hear(read_response(id, &[1; 8]));
    assert_eq!(talk.object(), None);
}

/// The `number`th of many files.
fn file(number: u64) -> [u8; 16] {
    let mut file = [0xaa; 16];
    file[..8].copy_from_slice(&number.to_le_bytes());
    file
}

impl Talk {
    /// Opens a file for each number.
    fn open_many(&mut self, numbers: Range<u64>) {
        for number in numbers {
            self.open("dir\\other.bin", Opened { file: file(number), ..OPENED });
        }
    }

    /// What the data of the READs belong to; for long conversations.
    fn long_objects(&self) -> Vec<Option<Object>> {
        run(&mut Smb2::new(), &self.script).objects(ToClient)
    }

    fn versions(&self) -> Vec<bool> {
        self.long_objects()
            .iter()
            .map(|object| object.is_some_and(|object| object.version.is_some()))
            .collect()
    }

    /// Connects the usual share once more.
    fn connect_second(&mut self) {
        let id = self.ask(|id| tree_connect_request(id, r"\\srv\share"));
        self.hear(of_tree(tree_connect_response(id, 1), SECOND));
    }

    /// Opens a file on another tree.
    fn open_on_second(&mut self, name: &str, file: [u8; 16]) {
        let id = self.ask(|id| of_tree(create_request(id, name, &[]), SECOND));
        self.hear(of_tree(create_response(id, Opened { file, ..OPENED }), SECOND));
    }

    /// Reads a file on another tree.
    fn read_on_second(&mut self, file: [u8; 16]) {
        let id = self.ask(|id| of_tree(of_file(read_request(id, 0, 8), file), SECOND));
        self.hear(of_tree(read_response(id, &[7; 8]), SECOND));
    }

    fn write(&mut self, file: [u8; 16]) {
        self.ask(|id| of_file(write_request(id, 0, &[1; 4]), file));
    }
}

#[test]
fn of_too_many_files_those_unused_for_longest_are_forgotten() {
    let mut talk = Talk::on(r"\\srv\share");
    talk.open_many(0..2_000);
    talk.read(file(0));
    talk.open_many(2_000..5_000);
    for number in [0, 5_000 - 4_096, 5_000 - 4_096 + 1, 4_999] {
        talk.read(file(number));
    }
    let other = Some(named(r"\\srv\share", "dir\\other.bin"));
    assert_eq!(talk.long_objects(), [other, other, None, other, other]);
}

#[test]
fn a_written_file_is_not_forgotten_for_others_that_are_open() {
    let mut talk = Talk::with_file();
    talk.write(FILE);
    talk.open_many(0..5_000);
    talk.open("dir\\file.bin", Opened { file: OTHER, ..OPENED });
    talk.read(OTHER);
    talk.read(file(4_999));
    assert_eq!(talk.versions(), [false, true], "its times may be those from before");
    talk.close(FILE);
    talk.open("dir\\file.bin", OPENED);
    talk.read(FILE);
    assert_eq!(talk.versions(), [false, true, true]);
}

#[test]
fn where_a_written_file_had_to_be_forgotten_nothing_has_a_version() {
    let mut talk = Talk::with_file();
    talk.write(FILE);
    for number in 0..4_096 {
        talk.open_many(number..number + 1);
        talk.write(file(number));
    }
    talk.open("dir\\file.bin", Opened { file: OTHER, ..OPENED });
    talk.read(OTHER);
    talk.open("dir\\third.bin", Opened { file: [0xf3; 16], ..OPENED });
    talk.read([0xf3; 16]);
    assert_eq!(talk.versions(), [false, false]);
}

#[test]
fn a_write_through_a_file_that_was_forgotten_ends_the_versions_of_all() {
    let mut talk = Talk::with_file();
    talk.open_many(0..4_000);
    talk.open("dir\\file.bin", Opened { file: OTHER, ..OPENED });
    talk.write([0xee; 16]);
    talk.read(OTHER);
    talk.open_many(4_000..4_200);
    talk.read(OTHER);
    talk.write(FILE);
    talk.read(OTHER);
    talk.open("dir\\file.bin", Opened { file: [0xf3; 16], ..OPENED });
    talk.read([0xf3; 16]);
    assert_eq!(talk.versions(), [true, true, false, false]);
}

#[test]
fn a_written_file_that_could_not_be_closed_may_still_be_open() {
    let mut talk = Talk::with_file();
    talk.write(FILE);
    let id = talk.ask(|id| close_request(id, FILE));
    talk.hear(error_response(CLOSE, 0, 0xc000_035c, id));
    talk.open("dir\\file.bin", Opened { file: OTHER, ..OPENED });
    talk.read(OTHER);
    assert_eq!(talk.versions(), [false]);
    // One that was not opened is not.
    let mut talk = Talk::on(r"\\srv\share");
    for number in 0..2 {
        let id = talk.ask(|id| {
            let mut request = create_request(id, "dir\\file.bin", &[]);
            request[64 + 36] = 5;
            request
        });
        talk.hear(error_response(CREATE, 0, 0xc000_0022, id));
        talk.open_many(number..number + 1);
        talk.write([0xee; 16]);
        talk.read(file(number));
    }
    assert_eq!(talk.versions(), [true; 2]);
}

#[test]
fn a_written_file_outlives_a_disconnect_or_logoff_that_failed_or_waits() {
    for (command, status) in [
        (TREE_DISCONNECT, Some(0xc000_0022)),
        (LOGOFF, Some(0xc000_0022)),
        (TREE_DISCONNECT, None),
        (LOGOFF, None),
    ] {
        let mut talk = Talk::with_file();
        talk.connect_second();
        talk.read(FILE);
        talk.write(FILE);
        let id = talk.ask(|id| message(command, 0, 0, id, &[4, 0, 0, 0]));
        if let Some(status) = status {
            talk.hear(error_response(command, 0, status, id));
        }
        talk.open_on_second("dir\\file.bin", OTHER);
        talk.read_on_second(OTHER);
        talk.open_on_second("dir\\third.bin", [0xf3; 16]);
        talk.read_on_second([0xf3; 16]);
        assert_eq!(talk.versions(), [true, false, true], "{command} {status:?}");
    }
}

#[test]
fn a_file_that_was_open_when_its_tree_ended_may_still_be_written() {
    for written in [true, false] {
        let mut talk = Talk::with_file();
        talk.connect_second();
        if written {
            talk.write(FILE);
        }
        let id = talk.ask(|id| message(TREE_DISCONNECT, 0, 0, id, &[4, 0, 0, 0]));
        talk.hear(message(TREE_DISCONNECT, RESPONSE, 0, id, &[4, 0, 0, 0]));
        talk.open_on_second("dir\\file.bin", OTHER);
        talk.read_on_second(OTHER);
        talk.ask(|id| of_tree(of_file(write_request(id, 0, &[1; 4]), FILE), SECOND));
        talk.read_on_second(OTHER);
        assert_eq!(talk.versions(), [!written, false], "written {written}");
    }
}

#[test]
fn a_write_behind_a_close_counts_if_the_close_failed() {
    for closes in [true, false] {
        let mut talk = Talk::with_file();
        let id = talk.ask(|id| close_request(id, FILE));
        talk.write(FILE);
        talk.hear(if closes { close_response(id) } else { error_response(CLOSE, 0, 0xc000_00c9, id) });
        talk.open("dir\\file.bin", Opened { file: OTHER, ..OPENED });
        talk.read(OTHER);
        assert_eq!(talk.versions(), [closes]);
    }
}

#[test]
fn the_oldest_of_too_many_unanswered_requests_are_forgotten() {
    let mut talk = Talk::on(r"\\srv\share");
    for id in 100..100 + 2_000 {
        talk.script.push((ToServer, frame(&create_request(id, "dir\\file.bin", &[]))));
    }
    for (id, file) in [(100 + 2_000 - 1_024 - 1, FILE), (100 + 2_000 - 1_024, OTHER)] {
        talk.hear(create_response(id, Opened { file, ..OPENED }));
    }
    talk.message_id = 10_000;
    talk.read(FILE);
    talk.read(OTHER);
    let objects = run(&mut Smb2::new(), &talk.script).objects(ToClient);
    assert_eq!(objects, [None, Some(usual())]);
}

proptest! {
    #![proptest_config(proptest_config(128))]

    /// Frames that are nearly right get further than noise.
    #[test]
    fn damaged_conversations_neither_panic_nor_depend_on_cuts(
        damage in proptest::collection::vec((0_usize..1_200, any::<u8>()), 0..6),
    ) {
        let mut talk = Talk::with_file();
        talk.open("dir\\other.bin", Opened { file: OTHER, len: 8, ..OPENED });
        talk.read(FILE);
        talk.read(OTHER);
        talk.script.push((ToServer, chain(&[
            create_request(90, "dir\\chained.bin", &context(b"MxAc", &[], false)),
            related(of_file(read_request(91, 0, 8), PREVIOUS)),
            related(close_request(92, PREVIOUS)),
        ])));
        talk.script.push((ToClient, chain(&[
            create_response(90, Opened { file: [0xf5; 16], ..OPENED }),
            read_response(91, &[1; 8]),
            close_response(92),
        ])));
        for (at, byte) in damage {
            let mut at = at;
            for (_, bytes) in &mut talk.script {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                    break;
                }
                at -= bytes.len();
            }
        }
        talk.marks();
    }
}

/// The parts of a version keep it from being another's.
#[test]
fn versions_are_of_names_and_not_of_places() {
    let versions: Vec<Option<Version>> = [(r"\\srv\a", "b\\c"), (r"\\srv\a\b", "c"), (r"\\srv\a", "b/c")]
        .map(|(share, name)| named(share, name).version)
        .into();
    assert!(versions[0] != versions[1] && versions[1] != versions[2] && versions[0] != versions[2]);
}
