//! Nodes that end and begin again, with what they had on disk or without.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Node, Pair};
use crate::process::wait_until;

/// What an edge finds of its store when it begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Nothing,
    /// No file: the store begins anew, and says so.
    Everything,
    /// The newest segment alone: the store is still itself, so the core does not hear of the loss.
    AllButTheNewestSegment,
}

impl Node<'_> {
    /// Ends the node in good order, does something to its state directory, and starts it again.
    ///
    /// # Errors
    /// If it does not end or is not healthy again.
    pub fn restart(&mut self, meanwhile: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.process.stop(SOON)?;
        meanwhile(&self.state)?;
        self.process = self.setup.spawn(&self.wanigan, &self.file)?;
        self.wait_for_health()
    }
}

impl Pair<'_> {
    /// Ends the core, starts it again, and waits until the link is up again.
    ///
    /// # Errors
    /// If one of this does not happen.
    pub fn restart_core(&mut self) -> Result<()> {
        let edge = &self.edge;
        self.core.restart(|_| {
            wait_until("the link is down", SOON, || Ok(edge.metric("wanigan_links_up", "")? == 0))
        })?;
        self.edge.wait_for_link()
    }

    /// Ends the edge, takes from its store what it is to lose, starts it again, and waits until its link is up.
    ///
    /// # Errors
    /// If one of this does not happen, or there was nothing to lose.
    pub fn restart_edge(&mut self, loss: Loss) -> Result<()> {
        self.edge.restart(|state| loss.strike(&state.join("store")))?;
        self.edge.wait_for_link()
    }
}

impl Loss {
    fn strike(self, store: &Path) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Everything => fs::remove_dir_all(store).context("remove the store"),
            Self::AllButTheNewestSegment => {
                let entries = fs::read_dir(store.join("segments")).context("list the segments")?;
                let mut segments: Vec<_> = entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<Result<_>>()
                    .context("list a segment")?;
                segments.sort();
                segments.pop();
                ensure!(!segments.is_empty(), "the store has one segment, and nothing to lose beside it");
                segments.iter().try_for_each(fs::remove_file).context("remove a segment")
            }
        }
    }
}

const SOON: Duration = Duration::from_secs(20);
