//! The reference model: what every block is, which edge was given which reference, what was truly asked.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use wanigan::addr::NodeId;
use wanigan::block::{Block, Digest, KeyId, Reference, Tag, digest, tag};
use wanigan_parsers::discovery::{Ask, Datagram, Have};

use crate::dice::Dice;

type Nonce = [u8; 16];

/// What is so, whatever the nodes believe.
#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) files: Vec<Vec<Bytes>>,
    contents: HashMap<Digest, Bytes>,
    given: HashMap<NodeId, HashSet<Reference>>,
    by_tag: HashMap<(KeyId, Tag), Reference>,
    /// Asks that edges sent, as they sent them.
    asked: HashMap<Nonce, Ask>,
    /// Which life of which edge answered what.
    answered: HashSet<(NodeId, u64, Nonce)>,
    /// Bytes of blocks that cores sent.
    pub(crate) wan_bytes: usize,
}

impl Truth {
    pub(crate) fn new(files: usize, blocks: usize, dice: &mut Dice) -> Self {
        let block = |dice: &mut Dice| {
            let mut bytes = vec![0; 4_096 + dice.below(64)];
            bytes[..32].copy_from_slice(&dice.bytes::<32>());
            Bytes::from(bytes)
        };
        let files: Vec<Vec<Bytes>> = (0..files).map(|_| (0..blocks).map(|_| block(dice)).collect()).collect();
        let contents = files.iter().flatten().map(|bytes| (digest(bytes), bytes.clone())).collect();
        Self { files, contents, ..Self::default() }
    }

    /// A core tells an edge of a block.
    pub(crate) fn give(&mut self, edge: NodeId, reference: Reference) {
        if self.given.entry(edge).or_default().insert(reference) {
            self.by_tag.insert((reference.key, tag(&reference)), reference);
        }
    }

    /// Returns what an edge was given that has this tag.
    pub(crate) fn find_given(&self, edge: NodeId, key: KeyId, tag: Tag) -> Option<Reference> {
        self.by_tag.get(&(key, tag)).copied().filter(|reference| self.is_entitled(edge, reference))
    }

    fn is_entitled(&self, node: NodeId, reference: &Reference) -> bool {
        self.given.get(&node).is_some_and(|given| given.contains(reference))
    }

    /// An edge has a block: its bytes must be the right ones.
    pub(crate) fn check_block(&self, block: &Block) {
        let right = self.contents.get(&block.reference().digest);
        assert!(right == Some(block.bytes()), "a block of wrong bytes is believed");
    }

    /// An edge sent an ask.
    pub(crate) fn check_ask(&mut self, from: NodeId, bytes: &[u8]) {
        let Ok(Datagram::Ask(ask)) = Datagram::decode(bytes) else { panic!("an ask is an ask") };
        assert_eq!(ask.requester, from);
        for block in &ask.blocks {
            let known = self.find_given(from, ask.key, block.tag);
            assert!(known.is_some(), "an edge asks for what it was not told of");
        }
        assert!(self.asked.insert(ask.nonce, ask).is_none(), "a nonce was drawn twice");
    }

    /// An edge sent an answer in its `life`.
    pub(crate) fn check_have(&mut self, from: NodeId, life: u64, bytes: &[u8]) {
        let Ok(Datagram::Have(Have { responder, ask_nonce, blocks, .. })) = Datagram::decode(bytes) else {
            panic!("an answer is an answer")
        };
        assert_eq!(responder, from);
        let ask = self.asked.get(&ask_nonce).expect("only what an edge truly asked is answered");
        for had in blocks {
            let tag = ask.blocks[usize::from(had.index)].tag;
            let known = self.find_given(ask.requester, ask.key, tag);
            assert!(known.is_some(), "{:?} is told who has what it may not have", ask.requester);
        }
        assert!(self.answered.insert((from, life, ask_nonce)), "a replayed ask was answered");
    }

    /// An edge sends a block's bytes to a node.
    pub(crate) fn check_served(&self, to: NodeId, block: &Block) {
        self.check_block(block);
        assert!(
            self.is_entitled(to, block.reference()),
            "a block was served to {to:?}, which must not have it"
        );
    }
}
