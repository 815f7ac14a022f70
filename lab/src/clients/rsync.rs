//! `rsync`, as a client of a daemon: it sends what differs from the copy that is at the other end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::servers::rsyncd::MODULE;
use crate::topology::SERVER_V4;

/// Brings the daemon's file `name` to `local`, where an older one may be. Nothing is compressed.
///
/// # Errors
/// If it fails or takes longer than `limit`.
pub fn get(namespace: &Namespace, name: &str, local: &Path, limit: Duration) -> Result<Duration> {
    transfer(namespace, &remote(name), &local.to_string_lossy(), limit)
}

/// Brings a file to the daemon's `name`, where an older one may be. Nothing is compressed.
///
/// # Errors
/// If it fails or takes longer than `limit`.
pub fn put(namespace: &Namespace, local: &Path, name: &str, limit: Duration) -> Result<Duration> {
    transfer(namespace, &local.to_string_lossy(), &remote(name), limit)
}

fn transfer(namespace: &Namespace, from: &str, to: &str, limit: Duration) -> Result<Duration> {
    // Two files written within a second, of one length, would be taken for the same.
    let words = ["rsync", "--ignore-times", from, to];
    Ok(namespace.run(&words, limit)?.ok().with_context(|| format!("rsync {from} {to}"))?.took)
}

fn remote(name: &str) -> String {
    format!("rsync://{SERVER_V4}/{MODULE}/{name}")
}
