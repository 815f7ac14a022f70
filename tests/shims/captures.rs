//! The SMB2 shim on recorded connections: the golden captures of this repository, and any directory of captures.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wanigan::fault::OpaqueReason;
use wanigan::object::Object;
use wanigan::shim::detecting::Detecting;
use wanigan::shim::smb2::Smb2;

use wanigan_parsers::Direction::{self, ToClient, ToServer};

use crate::capture::{Connection, connections};
use crate::spans::{Marks, Script, proptest_config, run};

const CASES: [&str; 4] =
    ["smb2-compound-signed", "smb2-encrypted-session", "smb2-reads-of-64k-signed", "smb2-single-read-signed"];

#[test]
fn golden_captures_give_their_expected_figures() {
    for case in CASES {
        let expected = fs::read(golden(case).join("expect.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let figures: Vec<Value> = golden_connections(case).iter().map(figures).collect();
        assert_eq!(json!({ "connections": figures }), expected, "{case}");
    }
}

#[test]
fn recorded_reads_are_of_one_version_whatever_the_client() {
    let [compound, encrypted, pieces, single] = CASES.map(|case| {
        let connections = golden_connections(case);
        let objects = connections
            .iter()
            .flat_map(|connection| run(&mut Smb2::new(), &connection.runs).objects(ToClient));
        let objects: BTreeSet<Object> = objects.map(|object| object.expect("it was opened here")).collect();
        assert!(objects.iter().all(|object| object.version.is_some()), "{case}: {objects:?}");
        objects
    });
    assert_eq!((compound.len(), encrypted.len(), pieces.len(), single.len()), (3, 0, 2, 2));
    // Two of the files of one are those of the others: other programs, other dialects, at other times.
    assert!(pieces == single && pieces.is_subset(&compound));
}

#[test]
fn requests_may_run_ahead_of_their_responses() {
    for case in CASES {
        for connection in golden_connections(case) {
            let ahead: Script =
                Direction::ALL.map(|direction| (direction, connection.bytes(direction))).into();
            // Which file a FileId means is not known ahead of the CREATE response that gives it out.
            let marks = |script| run(&mut Smb2::new(), script).without_objects();
            assert_eq!(marks(&ahead), marks(&connection.runs), "{case}");
        }
    }
}

proptest! {
    #![proptest_config(proptest_config(64))]

    #[test]
    fn recorded_connections_are_marked_the_same_under_any_cuts(
        case in proptest::sample::select(&CASES[..]),
        sizes in proptest::collection::vec(prop_oneof![1..8_usize, 60..200_usize, 1..70_000_usize], 1..40),
    ) {
        for connection in golden_connections(case) {
            let recut = cut(&join(&connection.runs), &sizes);
            prop_assert_eq!(run(&mut detecting(), &recut), run(&mut detecting(), &connection.runs));
            prop_assert_eq!(run(&mut Smb2::new(), &recut), run(&mut Smb2::new(), &connection.runs));
        }
    }
}

/// Runs every capture below the directory that `WANIGAN_CAPTURES` names; without it, those of the repository. If there is
/// an `index.tsv` in it, the content must be what another program found in the same captures.
#[test]
fn any_capture_is_partitioned_the_same_under_any_cuts() {
    let directory = std::env::var_os("WANIGAN_CAPTURES").map_or_else(|| golden(""), PathBuf::from);
    let captures = captures_below(&directory);
    assert!(!captures.is_empty(), "no capture below {}", directory.display());
    for path in captures {
        let connections = connections(&fs::read(&path).unwrap());
        for connection in &connections {
            assert_same_under_cuts(connection, &path);
        }
        if let Some(expected) = indexed_bytes(&directory, &path) {
            let found: usize = connections.iter().map(read_bytes).sum();
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}

fn assert_same_under_cuts(connection: &Connection, path: &Path) {
    for sizes in [&[1460, 1, 3][..], &[7], &[1 << 20]] {
        let (runs, recut) = (&connection.runs, cut(&join(&connection.runs), sizes));
        assert_eq!(run(&mut Smb2::new(), &recut), run(&mut Smb2::new(), runs), "{}", path.display());
        assert_eq!(run(&mut detecting(), &recut), run(&mut detecting(), runs), "{}", path.display());
    }
}

/// Returns the READ payload that an `index.tsv` has for a capture: columns `file`, `dialect`, `read_payload_bytes` and
/// `notes` among others.
fn indexed_bytes(directory: &Path, path: &Path) -> Option<usize> {
    let index = fs::read_to_string(directory.join("index.tsv")).ok()?;
    let mut rows = index.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let columns = rows.next()?;
    let column = |name| columns.iter().position(|column| *column == name);
    let (file, dialect, notes) = (column("file")?, column("dialect")?, column("notes")?);
    let row = rows.find(|row| directory.join(row[file]) == path)?;
    // Where a capture has a hole, how much is read depends on when one gives up.
    let whole = !row.get(notes).is_some_and(|notes| notes.contains("gaps="));
    (row[dialect].starts_with("SMB ") && whole).then(|| row[column("read_payload_bytes")?].parse().ok())?
}

fn read_bytes(connection: &Connection) -> usize {
    run(&mut Smb2::new(), &connection.runs).content_bytes(ToClient)
}

/// What the shim makes of a connection, in numbers.
fn figures(connection: &Connection) -> Value {
    let marks = run(&mut Smb2::new(), &connection.runs);
    let content = |direction| {
        let bytes = connection.bytes(direction);
        let content = marks.content(direction);
        let mut digest = Sha256::new();
        content.iter().for_each(|(at, _, len)| digest.update(&bytes[*at..at + len]));
        json!({
            "pieces": content.len(),
            "bytes": marks.content_bytes(direction),
            "sha256": digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        })
    };
    json!({
        "server_port": connection.server_port,
        "content_to_server": content(ToServer),
        "content_to_client": content(ToClient),
        "opaque_bytes": opaque(&marks),
    })
}

fn opaque(marks: &Marks) -> Value {
    let bytes = OpaqueReason::ALL.iter().map(|reason| (reason.as_str(), marks.opaque_bytes(*reason)));
    bytes.filter(|(_, bytes)| *bytes > 0).map(|(reason, bytes)| (reason.to_owned(), json!(bytes))).collect()
}

/// Joins runs of one direction that follow each other.
fn join(runs: &[(Direction, Vec<u8>)]) -> Script {
    let mut joined: Script = Vec::new();
    for (direction, bytes) in runs {
        match joined.last_mut() {
            Some(last) if last.0 == *direction => last.1.extend_from_slice(bytes),
            _ => joined.push((*direction, bytes.clone())),
        }
    }
    joined
}

/// Cuts inputs into pieces of these sizes, again and again.
fn cut(script: &[(Direction, Vec<u8>)], sizes: &[usize]) -> Script {
    let mut sizes = sizes.iter().copied().cycle();
    let mut pieces = Vec::new();
    for (direction, input) in script {
        let mut rest = &input[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            pieces.push((*direction, piece.to_vec()));
            rest = behind;
        }
    }
    pieces
}

fn detecting() -> Detecting {
    Detecting::new()
}

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pcaps").join(case)
}

fn golden_connections(case: &str) -> Vec<Connection> {
    connections(&fs::read(golden(case).join("input.pcap")).unwrap())
}

fn captures_below(directory: &Path) -> Vec<PathBuf> {
    let mut captures = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            captures.append(&mut captures_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "pcap") {
            captures.push(path);
        }
    }
    captures.sort();
    captures
}
