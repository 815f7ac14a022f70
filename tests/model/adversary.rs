//! Somebody on the LAN without any reference, who sees every datagram and every GET, and uses all of it again.

use std::net::SocketAddr;

use wanigan::addr::NodeId;
use wanigan::block::{KeyId, Tag};
use wanigan_parsers::discovery::{Ask, Datagram};
use wanigan_parsers::peer::Frame;

use crate::dice::Dice;
use crate::lan::address;
use crate::transfer::ConnId;
use crate::world::{Event, World};

/// The adversary's identity, for which it has a good certificate.
pub(crate) const ID: NodeId = NodeId([0xee; 32]);

/// What the adversary knows.
#[derive(Default)]
pub(crate) struct Adversary {
    seen: Vec<(SocketAddr, Vec<u8>)>,
    /// Tags, with proofs that came with them, in asks and in GETs.
    tags: Vec<(KeyId, Tag, [u8; 32])>,
    connections: Vec<ConnId>,
    next_request: u32,
}

impl Adversary {
    pub(crate) fn see(&mut self, from: SocketAddr, bytes: &[u8]) {
        if let Ok(Datagram::Ask(ask)) = Datagram::decode(bytes) {
            self.tags.extend(ask.blocks.iter().map(|block| (ask.key, block.tag, block.proof)));
        }
        self.seen.push((from, bytes.to_vec()));
    }

    /// Sees inside of TLS, too: a proof is good on its own connection only.
    pub(crate) fn see_get(&mut self, frame: &Frame<Vec<u8>>) {
        if let Frame::Get { key, tag, proof, .. } = *frame {
            self.tags.push((key, tag, proof));
        }
    }

    fn proof(&self, seen: [u8; 32], dice: &mut Dice) -> [u8; 32] {
        match dice.below(4) {
            0 => dice.bytes(),
            1 => self.tags[dice.below(self.tags.len())].1.0,
            2 => self.tags[dice.below(self.tags.len())].2,
            _ => seen,
        }
    }
}

impl World {
    /// Lets the adversary do something, and again later.
    pub(crate) fn handle_mischief(&mut self) {
        if !self.is_over {
            let after = self.dice.micros(10_000..300_000);
            self.after(after, Event::Mischief);
        }
        let victim = self.dice.below(self.edges.len());
        if self.adversary.tags.is_empty() || !self.edges[victim].is_up {
            return;
        }
        match self.dice.below(4) {
            0 => self.replay(victim),
            1 => self.ask_as_nobody(victim),
            _ => self.get_as_nobody(victim),
        }
    }

    /// Sends what was said again: as it was or changed, under its own address or that of whoever said it.
    fn replay(&mut self, victim: usize) {
        // What was said lately is the likeliest to be taken for fresh.
        let seen = &self.adversary.seen;
        let lately = self.dice.below(seen.len().min(20)) + 1;
        let at = if self.dice.chance(500) { seen.len() - lately } else { self.dice.below(seen.len()) };
        let (mut from, mut bytes) = seen[at].clone();
        if self.dice.chance(500) {
            from = address(self.edges[victim].lan, 99);
        }
        if self.dice.chance(300) {
            let at = self.dice.below(bytes.len());
            bytes[at] = bytes[at].wrapping_add(1);
        }
        let after = self.dice.micros(100..1_000_000);
        self.after(after, Event::Datagram { to: victim, from, bytes });
    }

    fn ask_as_nobody(&mut self, victim: usize) {
        let requester = if self.dice.chance(500) { ID } else { self.edges[0].id };
        let count = 1 + self.dice.below(8);
        let (key, ..) = self.adversary.tags[self.dice.below(self.adversary.tags.len())];
        let of_key: Vec<_> = self.adversary.tags.iter().copied().filter(|(of, ..)| *of == key).collect();
        let mut blocks = Vec::new();
        for _ in 0..count {
            let (_, tag, seen) = self.dice.pick(&of_key);
            let proof = self.adversary.proof(seen, &mut self.dice);
            blocks.push(wanigan_parsers::discovery::AskedBlock { tag, proof });
        }
        let core = self.dice.below(self.cores.len());
        let ask = Ask { key, requester, time_ms: self.time_ms(core), nonce: self.dice.bytes(), blocks };
        let from = address(self.edges[victim].lan, 99);
        let after = self.dice.micros(100..1_000);
        self.after(after, Event::Datagram { to: victim, from, bytes: ask.encode() });
    }

    fn get_as_nobody(&mut self, victim: usize) {
        if !self.edges[victim].shares {
            return;
        }
        let life = self.edges[victim].life();
        let conns = &self.conns;
        let open = |id: &&ConnId| conns.get(id).is_some_and(|conn| conn.server == life);
        let known = self.adversary.connections.iter().find(open).copied();
        let connection = known.unwrap_or_else(|| self.connect(None, life));
        if known.is_none() {
            self.adversary.connections.push(connection);
        }
        for _ in 0..=self.dice.below(6) {
            let (key, tag, seen) = self.adversary.tags[self.dice.below(self.adversary.tags.len())];
            let proof = self.adversary.proof(seen, &mut self.dice);
            let wait_ms = self.dice.pick(&[0, 0, 200, 3_000, u32::MAX]);
            let request = self.adversary.next_request;
            self.adversary.next_request += 1;
            self.send_to_server(connection, Frame::Get { request, wait_ms, key, tag, proof });
            if self.dice.chance(100) {
                self.send_to_server(connection, Frame::Cancel { request });
            }
        }
    }
}
