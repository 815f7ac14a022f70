//! The queue between the store's handles and its owner: blocks not yet written, bounded by bytes.
//!
//! A waiting block can be read (it is a block like any other); it leaves when the owner wrote it, or when the disk
//! turned off. A full queue refuses: the block is then not on disk, and the link will bring it again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::block::{Block, Reference};

/// Blocks and wishes on their way to the owner.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    bytes_max: usize,
}

/// What the owner has to do next.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a block, then call [`Queue::written`].
    Write(Block),
    /// Make what was written durable, then say so.
    Flush(oneshot::Sender<()>),
    /// Reads fail one after the other: stop using the disk.
    ReadsFail,
    /// The time has come.
    Due,
    /// Finish, then say so to these.
    Close(Vec<oneshot::Sender<()>>),
}

/// What became of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits for the owner, perhaps since before.
    Waiting,
    /// The queue is full.
    Full,
    /// There is no disk to write to.
    Off,
}

#[derive(Default)]
struct State {
    order: VecDeque<Step>,
    waiting: HashMap<Reference, Block>,
    bytes: usize,
    off: bool,
    reads_fail: bool,
    closing: Option<Vec<oneshot::Sender<()>>>,
    ended: bool,
}

enum Step {
    Write(Reference),
    Flush(oneshot::Sender<()>),
}

impl Queue {
    /// Makes a queue for at most so many bytes of blocks.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), bytes_max }
    }

    /// Returns a waiting block.
    pub(super) fn find(&self, reference: &Reference) -> Option<Block> {
        self.state().waiting.get(reference).cloned()
    }

    /// Returns whether the block could be pushed and does not wait yet.
    pub(super) fn wants(&self, reference: &Reference) -> bool {
        let state = self.state();
        state.is_taking() && !state.waiting.contains_key(reference)
    }

    /// Asks for a block to be written.
    pub(super) fn push(&self, block: Block) -> Pushed {
        let mut state = self.state();
        if !state.is_taking() {
            return Pushed::Off;
        }
        if state.waiting.contains_key(block.reference()) {
            return Pushed::Waiting;
        }
        if state.bytes + cost(&block) > self.bytes_max {
            return Pushed::Full;
        }
        state.bytes += cost(&block);
        state.order.push_back(Step::Write(*block.reference()));
        state.waiting.insert(*block.reference(), block);
        self.wake.notify_one();
        Pushed::Waiting
    }

    /// Asks for everything before this to be made durable; the receiver ends when that was tried.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.ended {
            state.order.push_back(Step::Flush(done));
            self.wake.notify_one();
        }
        receiver
    }

    /// Asks the owner to finish what waits and to end; the receiver ends when it has.
    pub(super) fn close(&self) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.ended {
            state.closing.get_or_insert_default().push(done);
            self.wake.notify_one();
        }
        receiver
    }

    /// Tells the owner that reads fail.
    pub(super) fn report_reads(&self) {
        self.state().reads_fail = true;
        self.wake.notify_one();
    }

    /// Waits for the owner's next job, at most until `due`.
    pub(super) fn next(&self, due: Option<Instant>) -> Job {
        let mut state = self.state();
        loop {
            if std::mem::take(&mut state.reads_fail) {
                return Job::ReadsFail;
            }
            match state.order.pop_front() {
                Some(Step::Flush(done)) => return Job::Flush(done),
                Some(Step::Write(reference)) => {
                    if let Some(block) = state.waiting.get(&reference) {
                        return Job::Write(block.clone());
                    }
                    continue;
                }
                None => {}
            }
            if let Some(done) = state.closing.take() {
                state.ended = true;
                return Job::Close(done);
            }
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => return Job::Due,
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Lets a block go that was written, or never will be.
    pub(super) fn written(&self, reference: &Reference) {
        let mut state = self.state();
        if let Some(block) = state.waiting.remove(reference) {
            state.bytes -= cost(&block);
        }
    }

    /// Says whether there is a disk to write to; without one nothing waits.
    pub(super) fn set_off(&self, off: bool) {
        let mut state = self.state();
        state.off = off;
        if off {
            state.drop_blocks();
        }
    }

    /// Notes that the owner is gone, however it went.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.drop_blocks();
        state.order.clear();
        state.closing = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is whole before the next call that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_taking(&self) -> bool {
        !self.off && !self.ended && self.closing.is_none()
    }

    fn drop_blocks(&mut self) {
        self.order.retain(|step| matches!(step, Step::Flush(_)));
        self.waiting.clear();
        self.bytes = 0;
    }
}

fn cost(block: &Block) -> usize {
    block.bytes().len() + OVERHEAD_BYTES
}

/// References in two tables and their slack.
const OVERHEAD_BYTES: usize = 320;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn a_block_waits_readable_until_it_was_written() {
        let queue = Queue::new(1 << 20);
        let block = block(1);
        assert!(queue.wants(block.reference()));
        assert_eq!(queue.push(block.clone()), Pushed::Waiting);
        assert!(!queue.wants(block.reference()));
        assert_eq!(queue.push(block.clone()), Pushed::Waiting);
        assert!(matches!(queue.next(None), Job::Write(_)));
        assert!(queue.find(block.reference()).is_some());
        queue.written(block.reference());
        assert!(queue.find(block.reference()).is_none());
        assert_eq!(queue.state().bytes, 0);
        assert!(matches!(queue.next(Some(Instant::now())), Job::Due), "twice asked is once written");
    }

    #[test]
    fn a_full_queue_refuses_and_has_room_again_later() {
        let queue = Queue::new(2 * cost(&block(0)));
        assert_eq!(queue.push(block(1)), Pushed::Waiting);
        assert_eq!(queue.push(block(2)), Pushed::Waiting);
        assert_eq!(queue.push(block(3)), Pushed::Full);
        queue.written(block(1).reference());
        assert_eq!(queue.push(block(3)), Pushed::Waiting);
    }

    #[test]
    fn a_queue_without_a_disk_keeps_nothing_and_still_answers_a_flush() {
        let queue = Queue::new(1 << 20);
        queue.push(block(1));
        let mut flushed = queue.flush();
        queue.set_off(true);
        assert_eq!(queue.push(block(2)), Pushed::Off);
        assert!(!queue.wants(block(2).reference()));
        assert!(queue.find(block(1).reference()).is_none());
        match queue.next(None) {
            Job::Flush(done) => done.send(()).unwrap(),
            other => panic!("{other:?}"),
        }
        assert!(flushed.try_recv().is_ok());
    }

    #[test]
    fn closing_comes_after_what_waits_and_an_ended_queue_answers_at_once() {
        let queue = Queue::new(1 << 20);
        queue.push(block(1));
        let mut closed = queue.close();
        assert_eq!(queue.push(block(2)), Pushed::Off);
        assert!(matches!(queue.next(None), Job::Write(_)));
        assert!(matches!(queue.next(None), Job::Close(_)));
        queue.end();
        assert!(closed.try_recv().is_err(), "ended");
        for mut receiver in [queue.flush(), queue.close()] {
            assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
    }

    #[test]
    fn the_owner_is_woken_when_its_time_comes() {
        let queue = Queue::new(1 << 20);
        let due = Instant::now() + Duration::from_millis(5);
        assert!(matches!(queue.next(Some(due)), Job::Due));
        assert!(Instant::now() >= due);
    }

    fn block(n: u8) -> Block {
        ServerSecret::new([1; 32]).mint(vec![n; 100].into())
    }
}
