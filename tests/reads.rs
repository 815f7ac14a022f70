//! Random files, edits and readers, with restarts and evictions at both ends: the bytes are always right.
//!
//! Nodes are whole (`node::start`), each on a runtime of its own so that it can be cut off as a crash would; between them
//! is a real link, before and behind them are real connections. Clients and servers speak HTTP and SMB2 over the same
//! files (`reads/truth.rs`), so content of one protocol is met again in the other. Stores have the least size that
//! there is, so that something is always being evicted.
//!
//! A run is a seed (`reads/run.rs`): it decides what is done, in which order and with which sizes. What the threads make of
//! it is not decided by it, so a failing seed may have to run some times until it fails again.

// `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "reads/choices.rs"]
mod choices;
#[cfg(test)]
#[path = "reads/client.rs"]
mod client;
#[cfg(test)]
#[path = "model/dice.rs"]
mod dice;
#[cfg(test)]
#[path = "reads/http.rs"]
mod http;
// The shim's tests use all of it.
#[cfg(test)]
#[expect(dead_code, reason = "the shim's tests speak more of the protocol")]
#[path = "shims/messages.rs"]
mod messages;
#[cfg(test)]
#[path = "support/nodes.rs"]
mod nodes;
#[cfg(test)]
#[path = "reads/office.rs"]
mod office;
#[cfg(test)]
#[path = "reads/run.rs"]
mod run;
#[cfg(test)]
#[path = "reads/runs.rs"]
mod runs;
#[cfg(test)]
#[path = "reads/seen.rs"]
mod seen;
#[cfg(test)]
#[path = "reads/smb.rs"]
mod smb;
#[cfg(test)]
#[path = "reads/truth.rs"]
mod truth;
