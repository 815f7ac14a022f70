//! Wanigan: a transparent SMB and HTTP proxy that lets a branch office fetch each block of a file over the WAN once.
//!
//! `ARCHITECTURE.md` tells the story; the modules below are its rooms.

pub mod addr;
pub mod admin;
pub mod block;
pub mod cli;
pub mod config;
pub mod drain;
pub mod fault;
pub mod metrics;
pub mod node;
pub mod pki;
pub mod secret_file;
pub mod shim;
