//! Datagrams between edges: what discovery says, and what the network makes of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wanigan::block::{KeyId, Tag};
use wanigan::discovery::Found;
use wanigan::discovery::state::{Origin, Output};

use crate::edge::{Lie, PORT};
use crate::world::{Event, Life, World};

impl World {
    /// Carries out the next thing that an edge's discovery wants. Returns whether there was one.
    pub(crate) fn run_discovery(&mut self, at: usize) -> bool {
        let edge = &mut self.edges[at];
        let Some(output) = edge.state.poll_output() else { return false };
        let (life, from) = (edge.life(), edge.address);
        match output {
            Output::Ask(bytes) => {
                self.truth.check_ask(self.edges[at].id, &bytes);
                self.adversary.see(from, &bytes);
                let lan = self.edges[at].lan;
                for to in (0..self.edges.len()).filter(|to| *to != at) {
                    if self.edges[to].lan == lan {
                        self.transmit(to, from, &bytes);
                    }
                }
            }
            Output::Send { to, bytes, .. } => {
                self.truth.check_have(self.edges[at].id, life.number, &bytes);
                self.adversary.see(from, &bytes);
                if let Some(to) = self.edges.iter().position(|edge| edge.address == to) {
                    self.transmit(to, from, &bytes);
                }
            }
            Output::LookUp { number, key, tags } => {
                let after = self.dice.micros(20..1_500);
                self.after(after, Event::Found { life, number, key, tags });
            }
            Output::Answer { answer, .. } => {
                for (reference, _) in &answer.blocks {
                    let given =
                        self.truth.find_given(answer.peer, reference.key, wanigan::block::tag(reference));
                    assert!(given.is_some(), "an answer of who cannot know the block is believed");
                }
                self.edges[at].plan.handle_answer(&answer, self.now);
            }
            Output::Refused { .. } => {}
        }
        true
    }

    /// Sends a datagram as the network pleases.
    pub(crate) fn transmit(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        let faults = self.settings;
        if self.dice.chance(faults.lost) {
            return;
        }
        for _ in 0..1 + usize::from(self.dice.chance(faults.doubled)) {
            let late = self.dice.chance(faults.late);
            let after = self.dice.micros(if late { 1_000..1_500_000 } else { 80..400 });
            let mut bytes = bytes.to_vec();
            if self.dice.chance(faults.changed) {
                let at = self.dice.below(bytes.len());
                bytes[at] ^= 1 << self.dice.below(8);
            }
            self.after(after, Event::Datagram { to, from, bytes });
        }
    }

    pub(crate) fn handle_datagram(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        let edge = &mut self.edges[to];
        if edge.is_up {
            let near = network(from.ip()) == network(edge.address.ip());
            let origin = if near { Origin::OnLink } else { Origin::Elsewhere };
            edge.state.handle_datagram(from, origin, bytes, self.now);
        }
    }

    /// Looks up what a peer asks for.
    pub(crate) fn handle_look_up(&mut self, life: Life, number: u64, key: KeyId, tags: &[Tag]) {
        let Some(edge) = self.edges.get_mut(life.edge).filter(|edge| edge.life() == life) else { return };
        let find = |tag: &Tag| {
            let lie = match edge.lie {
                Lie::Boasts => Some(false),
                Lie::Promises => Some(true),
                _ => None,
            };
            if let Some(soon) = lie {
                let known = self.truth.find_given(edge.id, key, *tag);
                return known.map(|reference| Found { reference, soon });
            }
            let here = edge.store.find(key, *tag).map(|reference| Found { reference, soon: false });
            here.or_else(|| Some(Found { reference: *edge.soon.get(&(key, *tag))?, soon: true }))
        };
        let found: Vec<Option<Found>> = tags.iter().map(find).collect();
        edge.state.handle_found(number, &found, 0, self.now);
    }

    /// Tells an edge the time of a core's secrets, and which are good.
    pub(crate) fn tell_time(&mut self, life: Life) {
        for core in 0..self.cores.len() {
            let time_ms = self.time_ms(core);
            let (keys, expired) = self.cores[core].keys();
            let Some(edge) = self.edges.get_mut(life.edge).filter(|edge| edge.life() == life) else { return };
            for key in keys {
                edge.state.handle_time(key, time_ms, self.now);
            }
            for key in expired {
                edge.state.handle_key_expired(key);
                edge.store.expire(key);
            }
        }
        self.after(Duration::from_secs(1), Event::Time(life));
    }
}

/// Where an edge is.
pub(crate) fn address(lan: u8, edge: u8) -> SocketAddr {
    SocketAddr::from(([10, lan, 0, edge + 1], PORT))
}

fn network(ip: IpAddr) -> [u8; 3] {
    let IpAddr::V4(ip) = ip else { panic!("the model's network is IPv4") };
    let [a, b, c, _] = ip.octets();
    [a, b, c]
}
