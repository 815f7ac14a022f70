//! Edges, their LANs and their cores on a virtual network and clock, beside a model of who was given what.
//!
//! Every edge is the real state machines (`Plan`, discovery's `State`, `Session` with `Waiting`, `Requests`, the receiving
//! halves of flows) over a store of a few lines; every core is the real sending halves with the real `referral`. What is
//! between them loses, doubles, delays, reorders, changes, cuts, falls silent and lies. See `model/world.rs` for what is
//! checked at every step, and `model/truth.rs` for the reference model.

// `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "model/adversary.rs"]
mod adversary;
#[cfg(test)]
#[path = "model/dice.rs"]
mod dice;
#[cfg(test)]
#[path = "model/edge.rs"]
mod edge;
#[cfg(test)]
#[path = "model/lan.rs"]
mod lan;
#[cfg(test)]
#[path = "model/runs.rs"]
mod runs;
#[cfg(test)]
#[path = "model/transfer.rs"]
mod transfer;
#[cfg(test)]
#[path = "model/truth.rs"]
mod truth;
#[cfg(test)]
#[path = "model/wan.rs"]
mod wan;
#[cfg(test)]
#[path = "model/world.rs"]
mod world;
