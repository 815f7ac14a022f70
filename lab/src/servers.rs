//! Content servers and caches, each with files of its own below the lab's directory: nothing of the machine's is read or
//! written.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;
use crate::topology::Lab;

pub mod nginx;
pub mod rsyncd;
pub mod smbd;
pub mod squid;

/// Starts a server in the head office and waits until it listens.
fn serve(lab: &Lab, name: &str, command: &mut Command, addresses: &[SocketAddr]) -> Result<Process> {
    let process = lab.server().spawn(name, command)?;
    for address in addresses {
        lab.server().wait_for_port(*address, Duration::from_secs(20))?;
    }
    Ok(process)
}
