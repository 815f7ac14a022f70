//! Unmodified clients, eight ways to read over SMB and `curl`, `rsync` to compare with, and two of our own: one that watches the
//! time, and one that is told each step.

pub mod curl;
pub mod programs;
pub mod python;
pub mod reader;
pub mod rsync;
pub mod smbclient;
pub mod steps;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::content::Digest;

/// A file that a client received.
#[derive(Debug)]
pub struct Received {
    /// Where it is.
    pub path: PathBuf,
    /// How long the client ran, from start to exit.
    pub took: Duration,
}

impl Received {
    /// Returns its digest.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_file(&self.path)
    }

    /// Compares it with what the server has.
    ///
    /// # Errors
    /// If it differs.
    pub fn expect(&self, digest: Digest) -> Result<()> {
        let received = self.digest()?;
        ensure!(received == digest, "{} is {received:?}, not {digest:?}", self.path.display());
        Ok(())
    }
}
