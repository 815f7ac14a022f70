//! Random nodes on a network that loses, doubles, delays, reorders, replays and changes datagrams, beside a model of who
//! holds what: whatever is believed is true, and whatever is said was asked for with a right proof, once.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use wanigan_parsers::discovery::{Ask, HadBlock, Have};

use super::tests::{address, id, references, state};
use super::*;
use crate::block::tag;

const NODES: usize = 3;
const BLOCKS: usize = 4;
const TIME: u64 = 1_700_000_000_000;

#[derive(Debug, Clone)]
enum Op {
    Ask {
        node: usize,
        blocks: u8,
    },
    /// Delivers a datagram that is under way or was caught at any time before, to anybody, perhaps changed.
    Deliver {
        which: usize,
        to: usize,
        change: Option<(usize, u8)>,
    },
    /// Delivers everything that is under way where it belongs.
    DeliverAll,
    Lose {
        which: usize,
    },
    Hold {
        node: usize,
        block: usize,
        soon: bool,
    },
    Evict {
        node: usize,
        block: usize,
    },
    Restart {
        node: usize,
    },
    Pass {
        ms: u64,
    },
    /// Somebody without any hash makes an answer of what he saw.
    Forge {
        which: usize,
        to: usize,
    },
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_is_believed_is_true_and_what_is_said_was_proved(ops in proptest::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.apply(&op)?;
        }
        // Once the network works again, who has a block is found.
        world.under_way.clear();
        world.pass(61_000);
        world.nodes[1].holds.insert(0, false);
        world.ask(0, 1);
        world.nodes[0].believed.clear();
        world.deliver_all()?;
        prop_assert!(world.nodes[0].believed.contains(&(id(1), 0, false)));
    }
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES;
    let block = 0..BLOCKS;
    let change = proptest::option::of((0_usize..1_300, 1_u8..));
    prop_oneof![
        4 => (node.clone(), 1_u8..1 << BLOCKS).prop_map(|(node, blocks)| Op::Ask { node, blocks }),
        6 => (any::<usize>(), node.clone(), change)
            .prop_map(|(which, to, change)| Op::Deliver { which, to, change }),
        4 => Just(Op::DeliverAll),
        1 => any::<usize>().prop_map(|which| Op::Lose { which }),
        4 => (node.clone(), block.clone(), any::<bool>())
            .prop_map(|(node, block, soon)| Op::Hold { node, block, soon }),
        1 => (node.clone(), block).prop_map(|(node, block)| Op::Evict { node, block }),
        1 => node.clone().prop_map(|node| Op::Restart { node }),
        2 => prop_oneof![1_u64..50, 900..1_100_u64, 59_000..61_000_u64, 119_000..121_000_u64]
            .prop_map(|ms| Op::Pass { ms }),
        2 => (any::<usize>(), node).prop_map(|(which, to)| Op::Forge { which, to }),
    ]
}

struct World {
    nodes: Vec<Node>,
    now: Instant,
    time_ms: u64,
    under_way: Vec<Sent>,
    /// Everything that was ever sent.
    caught: Vec<Sent>,
    /// The length of each ask, by its nonce.
    asked: HashMap<Nonce, usize>,
    /// What was said, truly: responder, block, soon.
    said: HashSet<(NodeId, usize, bool)>,
    /// Who answered which ask.
    answered: HashSet<(usize, Nonce)>,
    restarts: u64,
}

#[derive(Debug, Clone)]
struct Sent {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

struct Node {
    state: State,
    /// The model: which blocks are held, and whether they are on their way.
    holds: HashMap<usize, bool>,
    believed: HashSet<(NodeId, usize, bool)>,
}

impl World {
    fn new() -> Self {
        let node =
            |number| Node { state: state(number, true), holds: HashMap::new(), believed: HashSet::new() };
        let mut world = Self {
            nodes: (0..NODES).map(node).collect(),
            now: Instant::now(),
            time_ms: TIME,
            under_way: Vec::new(),
            caught: Vec::new(),
            asked: HashMap::new(),
            said: HashSet::new(),
            answered: HashSet::new(),
            restarts: 0,
        };
        (0..NODES).for_each(|node| world.tell_time(node));
        world
    }

    fn tell_time(&mut self, node: usize) {
        self.nodes[node].state.handle_time(references(1, 1)[0].key, self.time_ms, self.now);
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.time_ms += ms;
        for node in &mut self.nodes {
            node.state.handle_timeout(self.now);
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Ask { node, blocks } => self.ask(node, blocks),
            Op::Deliver { which, to, change } => {
                let Some(mut datagram) = pick(&self.caught, which) else { return Ok(()) };
                if let Some((at, flip)) = change {
                    let at = at % datagram.bytes.len();
                    datagram.bytes[at] ^= flip;
                }
                self.deliver(&Sent { to, ..datagram });
            }
            Op::DeliverAll => self.deliver_all()?,
            Op::Lose { which } if !self.under_way.is_empty() => {
                self.under_way.swap_remove(which % self.under_way.len());
            }
            Op::Lose { .. } => {}
            Op::Hold { node, block, soon } => _ = self.nodes[node].holds.insert(block, soon),
            Op::Evict { node, block } => _ = self.nodes[node].holds.remove(&block),
            Op::Restart { node } => {
                // What was sent in the very millisecond of a start cannot be told from what is sent after it.
                self.pass(1);
                self.restarts += 1;
                self.nodes[node].state = restarted(node, self.restarts);
                self.tell_time(node);
            }
            Op::Pass { ms } => self.pass(ms),
            Op::Forge { which, to } => self.forge(which, to),
        }
        self.carry_out()
    }

    fn ask(&mut self, node: usize, blocks: u8) {
        let chosen = references(1, BLOCKS).into_iter().enumerate();
        let wanted =
            chosen.filter(|(block, _)| blocks >> block & 1 != 0).map(|(_, reference)| reference).collect();
        self.nodes[node].state.asker.pace.handle_answered(None);
        self.nodes[node].state.ask(wanted, Duration::from_secs(1), self.now);
        self.carry_out().expect("an ask says nothing about holding");
    }

    fn forge(&mut self, which: usize, to: usize) {
        let asks: Vec<Ask> = self.caught.iter().filter_map(|datagram| ask_of(&datagram.bytes)).collect();
        let Some(ask) = pick(&asks, which) else { return };
        let blocks = (0..).zip(&ask.blocks);
        let have = Have {
            responder: id((to + 1) % NODES),
            nonce: ask.nonce,
            ask_nonce: ask.nonce,
            port: 1,
            load: 0,
            blocks: blocks
                .map(|(index, asked)| HadBlock { index, soon: false, proof: asked.proof })
                .collect(),
        };
        self.deliver(&Sent { from: (to + 1) % NODES, to, bytes: have.encode() });
    }

    fn deliver(&mut self, datagram: &Sent) {
        let Sent { from, to, bytes } = datagram;
        self.nodes[*to].state.handle_datagram(address(*from), Origin::OnLink, bytes, self.now);
    }

    fn deliver_all(&mut self) -> Result<(), TestCaseError> {
        while !self.under_way.is_empty() {
            let datagram = self.under_way.swap_remove(0);
            self.deliver(&datagram);
            self.carry_out()?;
        }
        Ok(())
    }

    /// Carries out what all nodes want, and checks what they say and believe.
    fn carry_out(&mut self) -> Result<(), TestCaseError> {
        let all = references(1, BLOCKS);
        for number in 0..NODES {
            while let Some(output) = self.nodes[number].state.poll_output() {
                match output {
                    Output::Ask(bytes) => {
                        let ask = ask_of(&bytes).expect("an ask is an ask");
                        self.asked.insert(ask.nonce, bytes.len());
                        let others = (0..NODES).filter(|other| *other != number);
                        let copies = others.map(|to| Sent { from: number, to, bytes: bytes.clone() });
                        let copies: Vec<Sent> = copies.collect();
                        self.caught.extend_from_slice(&copies);
                        self.under_way.extend(copies);
                    }
                    Output::LookUp { number: look_up, tags, .. } => {
                        let holds = &self.nodes[number].holds;
                        let find = |wanted: &Tag| {
                            let block = all.iter().position(|reference| tag(reference) == *wanted)?;
                            Some(Found { reference: all[block], soon: *holds.get(&block)? })
                        };
                        let found: Vec<Option<Found>> = tags.iter().map(find).collect();
                        for (block, soon) in holds {
                            self.said.insert((id(number), *block, *soon));
                        }
                        self.nodes[number].state.handle_found(look_up, &found, 0, self.now);
                    }
                    Output::Send { to, bytes, .. } => {
                        let have = have_of(&bytes);
                        let asked = self.asked.get(&have.ask_nonce);
                        prop_assert!(asked.is_some_and(|asked| bytes.len() <= *asked), "longer than its ask");
                        prop_assert!(self.answered.insert((number, have.ask_nonce)), "answered twice");
                        let to = (0..NODES).find(|node| address(*node) == to).expect("only nodes ask");
                        let datagram = Sent { from: number, to, bytes };
                        self.caught.push(datagram.clone());
                        self.under_way.push(datagram);
                    }
                    Output::Answer { answer, .. } => {
                        for (reference, soon) in answer.blocks {
                            let block = all.iter().position(|one| *one == reference).expect("asked for");
                            let claim = (answer.peer, block, soon);
                            prop_assert!(self.said.contains(&claim), "{claim:?} was never true");
                            prop_assert!(answer.peer != id(number), "an answer of our own");
                            self.nodes[number].believed.insert(claim);
                        }
                    }
                    Output::Refused { .. } => {}
                }
            }
        }
        Ok(())
    }
}

/// A node that begins again: same identity, other nonces.
fn restarted(node: usize, restarts: u64) -> State {
    let settings = StateSettings { id: id(node), share: true, transfer_port: 8_000 };
    let mut drawn = 0_u64;
    let random = move || {
        drawn += 1;
        let mut nonce = [0; 16];
        nonce[0] = u8::try_from(node).ok()?;
        nonce[1..8].copy_from_slice(&restarts.to_be_bytes()[1..]);
        nonce[8..].copy_from_slice(&drawn.to_be_bytes());
        Some(nonce)
    };
    State::new(settings, Box::new(random))
}

fn pick<T: Clone>(from: &[T], which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[which % from.len()].clone())
}

fn ask_of(bytes: &[u8]) -> Option<Ask> {
    match Datagram::decode(bytes) {
        Ok(Datagram::Ask(ask)) => Some(ask),
        _ => None,
    }
}

fn have_of(bytes: &[u8]) -> Have {
    match Datagram::decode(bytes) {
        Ok(Datagram::Have(have)) => have,
        other => panic!("{other:?} is no answer"),
    }
}
