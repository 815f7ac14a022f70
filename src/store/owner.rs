//! The owner of the disk: one thread that takes blocks from the queue and is alone in writing.
//!
//! It runs from [`super::Store::open`] until the store is closed or its last handle is dropped; it then writes what
//! still waits, seals the open segment and ends. A disk that fails is let go (the reader goes on serving what it can,
//! the queue takes nothing) and tried again later, at growing intervals: the same opening as at the start, so there
//! is one way back.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::disk::Disk;
use super::expired::Expired;
use super::queue::{Job, Queue};
use super::reader::Reader;
use super::recover;
use super::writer::{Fault, Limits, Writer};
use crate::metrics::StoreMetrics;

/// When the owner does what nobody asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delays {
    /// From the first block that is not durable to the checkpoint.
    pub(super) checkpoint: Duration,
    /// From a fault to the first retry.
    pub(super) retry: Duration,
}

/// Owns the index and the open segment while the disk works.
pub(super) struct Owner {
    disk: Arc<dyn Disk>,
    limits: Limits,
    delays: Delays,
    reader: Arc<Reader>,
    expired: Arc<Expired>,
    metrics: StoreMetrics,
    state: State,
    /// From the next fault to the retry after it.
    patience: Duration,
}

enum State {
    On { writer: Box<Writer>, dirty_since: Option<Instant> },
    Off { retry_at: Instant },
}

impl Owner {
    /// Opens the disk; a disk that fails is retried later.
    ///
    /// # Errors
    /// Only when the key file is not a key, which no retry mends.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        limits: Limits,
        delays: Delays,
        reader: Arc<Reader>,
        expired: Arc<Expired>,
        metrics: StoreMetrics,
    ) -> Result<Self, Fault> {
        let state = State::Off { retry_at: Instant::now() };
        let patience = delays.retry;
        let mut owner = Self { disk, limits, delays, reader, expired, metrics, state, patience };
        match owner.turn_on() {
            Err(fault @ Fault::Key(super::KeyFault::Malformed(_))) => return Err(fault),
            Err(fault) => owner.turn_off(&fault),
            Ok(()) => {}
        }
        Ok(owner)
    }

    /// Does what the queue says until it says to end; returns whom to tell once the owner is gone.
    pub(super) fn run(mut self, queue: &Queue) -> Vec<oneshot::Sender<()>> {
        loop {
            queue.set_off(!self.is_on());
            match queue.next(self.due()) {
                Job::Write(name, block) => {
                    self.with_writer(|writer| writer.append(&block));
                    queue.written(&name);
                }
                Job::Adopt(name, adoption) => {
                    self.with_writer(|writer| writer.adopt(&adoption.old, &adoption.new));
                    queue.adopted(&name);
                }
                Job::SaveExpired => self.with_writer(Writer::save_expired),
                Job::Flush(done) => {
                    self.with_writer(Writer::checkpoint);
                    // Whoever asked may have gone meanwhile.
                    let _ = done.send(());
                }
                Job::ReadsFail => self.give_up_reading(),
                Job::Due => {}
                Job::Close(done) => {
                    self.with_writer(|writer| writer.seal().and_then(|()| writer.checkpoint()));
                    return done;
                }
            }
            self.do_what_is_due(Instant::now());
        }
    }

    fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. })
    }

    fn due(&self) -> Option<Instant> {
        match &self.state {
            State::On { dirty_since, .. } => dirty_since.map(|since| since + self.delays.checkpoint),
            State::Off { retry_at } => Some(*retry_at),
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        match &self.state {
            State::On { .. } => self.with_writer(Writer::checkpoint),
            State::Off { .. } => match self.turn_on() {
                Ok(()) => tracing::info!("the store's disk is in use again"),
                Err(fault) => self.turn_off(&fault),
            },
        }
    }

    /// Lets the writer work, and turns the disk off when that fails.
    fn with_writer(&mut self, work: impl FnOnce(&mut Writer) -> Result<(), Fault>) {
        let State::On { writer, dirty_since } = &mut self.state else { return };
        match work(writer) {
            Ok(()) => {
                let was_dirty = dirty_since.is_some();
                *dirty_since = writer.is_dirty().then(|| dirty_since.unwrap_or_else(Instant::now));
                if was_dirty && dirty_since.is_none() {
                    self.patience = self.delays.retry;
                }
            }
            Err(fault) => self.turn_off(&fault),
        }
    }

    fn turn_on(&mut self) -> Result<(), Fault> {
        let writer = recover::open(&self.disk, self.limits, &self.reader, &self.expired, &self.metrics)?;
        self.state = State::On { writer: Box::new(writer), dirty_since: None };
        self.metrics.up.set(1);
        Ok(())
    }

    fn turn_off(&mut self, fault: &Fault) {
        self.metrics.errors.inc();
        self.metrics.up.set(0);
        if self.patience == self.delays.retry {
            tracing::warn!(
                error = chain(fault),
                "the store's disk is not in use, blocks stay in memory; trying again"
            );
        } else {
            tracing::debug!(error = chain(fault), "the store's disk still fails");
        }
        self.state = State::Off { retry_at: Instant::now() + self.patience };
        self.patience = (self.patience * 2).min(PATIENCE_MAX.max(self.delays.retry));
    }

    fn give_up_reading(&mut self) {
        self.reader.clear();
        if self.is_on() {
            let source = std::io::Error::other("reads fail one after the other");
            self.turn_off(&Fault::Disk { doing: "read blocks", source });
        }
    }
}

fn chain(fault: &Fault) -> String {
    let mut text = format!("failed to {fault}");
    let mut cause = fault.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

const PATIENCE_MAX: Duration = Duration::from_secs(600);
