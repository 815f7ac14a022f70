//! The lab: network namespaces, a WAN link with delay, rate and loss, and real servers and clients in them.
//!
//! [`Lab`](topology::Lab) is a branch and a head office on this machine. Tests put servers, clients and Wanigan's nodes into
//! its namespaces and look at what crossed its [`Wan`](wan::Wan). The lab knows Wanigan only from outside: its command, its
//! configuration file and its admin address.
//!
//! It needs root and real programs. A test that cannot run for want of either is counted as skipped, never as passed: see
//! [`scenario`].

pub mod attacker;
pub mod capture;
pub mod clients;
pub mod content;
mod instance;
pub mod names;
pub mod namespace;
pub mod node;
pub mod office;
pub mod process;
pub mod scenario;
pub mod servers;
pub mod topology;
pub mod wan;
