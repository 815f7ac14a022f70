//! The worked example of `docs/protocol.md`: its numbers are those that this code makes.

use std::fmt::Write as _;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wanigan_parsers::discovery::{Ask, AskedBlock, Datagram, HadBlock, Have};

use crate::addr::NodeId;
use crate::block::{BlockHash, KeyId, Reference, Secret, ServerSecret, tag};
use crate::proof;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

const TIME_MS: u64 = 1_767_225_600_000;

#[test]
fn the_documented_hashes_and_tags_are_right() {
    let reference = reference();
    let plain = Reference { key: KeyId::PLAIN, secret: Secret([0; 32]), ..reference };
    documented("K", &server_key());
    documented("D", &reference.digest.0);
    documented("key id", &reference.key.0);
    documented("S", &reference.secret.0);
    // `BlockHash` does not show its bytes; tag and proofs below say that it is the same.
    let mut hash = Hmac::<Sha256>::new_from_slice(&reference.secret.0).unwrap();
    hash.update(&reference.digest.0);
    documented("H", &hash.finalize().into_bytes());
    documented("T", &tag(&reference).0);
    documented("T, plain", &tag(&plain).0);
}

#[test]
fn the_documented_datagrams_are_right() {
    let (ask, have) = (ask(), have());
    documented("ask proof", &ask.blocks[0].proof);
    documented("have proof", &have.blocks[0].proof);
    documented("ASK", &ask.encode());
    documented("HAVE", &have.encode());
    assert_eq!(Datagram::decode(&ask.encode()), Ok(Datagram::Ask(ask)));
    assert_eq!(Datagram::decode(&have.encode()), Ok(Datagram::Have(have)));
}

/// Checks that a value stands in the document after its name, in hexadecimal and however it is broken into lines.
#[track_caller]
fn documented(name: &str, value: &[u8]) {
    let hex = value.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let example = DOCUMENT.split("### Worked example").nth(1).expect("the document has an example");
    assert!(squeeze(example).contains(&format!("{}={hex}", squeeze(name))), "not documented: {name} = {hex}");
}

fn server_key() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at).unwrap())
}

fn reference() -> Reference {
    *ServerSecret::new(server_key()).mint(Bytes::from_static(b"wanigan")).reference()
}

fn statement() -> proof::Ask {
    proof::Ask { nonce: [0x33; 16], time_ms: TIME_MS, requester: NodeId([0x11; 32]) }
}

fn ask() -> Ask {
    let (reference, statement) = (reference(), statement());
    let tag = tag(&reference);
    Ask {
        key: reference.key,
        requester: statement.requester,
        time_ms: statement.time_ms,
        nonce: statement.nonce,
        blocks: vec![AskedBlock { tag, proof: proof::ask(&BlockHash::of(&reference), &tag, &statement) }],
    }
}

fn have() -> Have {
    let reference = reference();
    let statement =
        proof::Have { ask: statement(), nonce: [0x44; 16], responder: NodeId([0x22; 32]), soon: false };
    let proof = proof::have(&BlockHash::of(&reference), &tag(&reference), &statement);
    Have {
        responder: statement.responder,
        nonce: statement.nonce,
        ask_nonce: statement.ask.nonce,
        port: 7_747,
        load: 0,
        blocks: vec![HadBlock { index: 0, soon: false, proof }],
    }
}
