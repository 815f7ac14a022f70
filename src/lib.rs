//! Wanigan: a transparent SMB and HTTP proxy that lets a branch office fetch each block of a file over the WAN once.
//!
//! `ARCHITECTURE.md` tells the story; the modules below are its rooms.

pub mod addr;
pub mod admin;
pub mod block;
pub mod budget;
pub mod cli;
pub mod config;
pub mod content_map;
pub mod core_role;
pub mod demo;
pub mod discovery;
pub mod drain;
pub mod edge_role;
pub mod fault;
pub mod fetch;
pub mod flow;
pub mod intercept;
pub mod matching;
pub mod metrics;
pub mod node;
pub mod object;
pub mod peer;
pub mod pki;
pub mod proof;
pub mod referral;
pub mod relay;
pub mod renaming;
pub mod secret_file;
pub mod server_secret;
pub mod shim;
pub mod store;
pub mod wan;
