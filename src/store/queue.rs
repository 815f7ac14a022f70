//! The queue between the store's handles and its owner: blocks not yet written and adoptions not yet done, bounded by
//! bytes.
//!
//! A waiting block can be read (it is a block like any other); it leaves when the owner wrote it, or when the disk
//! turned off. A waiting adoption leads from the new reference to the old one. All is done in the order in which it
//! was asked for. A full queue refuses: the block is then not on disk, and the link will bring it again; the adoption
//! is not done, and whoever walks over the store again will find it missing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::name::Name;
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
    Write(Name, Block),
    /// Make a block known under another reference, which has this name, then call [`Queue::adopted`].
    Adopt(Name, Adoption),
    /// Make the list of expired keys durable.
    SaveExpired,
    /// Make what was written durable, then say so.
    Flush(oneshot::Sender<()>),
    /// Reads fail one after the other: stop using the disk.
    ReadsFail,
    /// The time has come.
    Due,
    /// Finish, then say so to these.
    Close(Vec<oneshot::Sender<()>>),
}

/// That a block is to be known under another reference of the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Adoption {
    pub(super) old: Reference,
    pub(super) new: Reference,
}

/// What became of a block or an adoption.
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
    waiting: HashMap<Name, Block>,
    /// By the name of the new reference.
    adopting: HashMap<Name, Adoption>,
    bytes: usize,
    off: bool,
    reads_fail: bool,
    save_expired: bool,
    closing: Option<Vec<oneshot::Sender<()>>>,
    ended: bool,
}

enum Step {
    Write(Name),
    Adopt(Name),
    Flush(oneshot::Sender<()>),
}

impl Queue {
    /// Makes a queue for at most so many bytes of blocks.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), bytes_max }
    }

    /// Returns a waiting block.
    pub(super) fn find(&self, name: &Name) -> Option<Block> {
        self.state().waiting.get(name).cloned()
    }

    /// Returns the reference that the block has which is being adopted under this one.
    pub(super) fn adopted_from(&self, new: &Reference, name: &Name) -> Option<Reference> {
        let state = self.state();
        let mut old = state.adopting.get(name).filter(|adoption| adoption.new == *new)?.old;
        // That may be one that is being adopted itself.
        for _ in 1..ADOPTIONS_DEEP {
            match state.adopting.get(&Name::of(&old)) {
                Some(adoption) => old = adoption.old,
                None => break,
            }
        }
        Some(old)
    }

    /// Returns the reference of a block that waits to be written or adopted.
    pub(super) fn reference(&self, name: &Name) -> Option<Reference> {
        let state = self.state();
        let adopting = || state.adopting.get(name).map(|adoption| adoption.new);
        state.waiting.get(name).map(|block| *block.reference()).or_else(adopting)
    }

    /// Returns whether the block could be pushed and does not wait yet.
    pub(super) fn wants(&self, name: &Name) -> bool {
        let state = self.state();
        state.is_taking() && !state.waiting.contains_key(name)
    }

    /// Asks for a block to be written.
    pub(super) fn push(&self, name: Name, block: Block) -> Pushed {
        let mut state = self.state();
        if !state.is_taking() {
            return Pushed::Off;
        }
        if state.waiting.contains_key(&name) {
            return Pushed::Waiting;
        }
        if state.bytes + cost(&block) > self.bytes_max {
            return Pushed::Full;
        }
        state.bytes += cost(&block);
        state.order.push_back(Step::Write(name));
        state.waiting.insert(name, block);
        self.wake.notify_one();
        Pushed::Waiting
    }

    /// Asks for a block to be known under another reference, which has this name.
    pub(super) fn adopt(&self, name: Name, adoption: Adoption) -> Pushed {
        let mut state = self.state();
        if !state.is_taking() {
            return Pushed::Off;
        }
        if state.adopting.contains_key(&name) {
            return Pushed::Waiting;
        }
        if state.bytes + OVERHEAD_BYTES > self.bytes_max {
            return Pushed::Full;
        }
        state.bytes += OVERHEAD_BYTES;
        state.order.push_back(Step::Adopt(name));
        state.adopting.insert(name, adoption);
        self.wake.notify_one();
        Pushed::Waiting
    }

    /// Asks for the list of expired keys to be made durable. Without a disk it is when that comes back.
    pub(super) fn save_expired(&self) {
        let mut state = self.state();
        if state.is_taking() {
            state.save_expired = true;
            self.wake.notify_one();
        }
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
            if std::mem::take(&mut state.save_expired) {
                return Job::SaveExpired;
            }
            match state.order.pop_front() {
                Some(Step::Flush(done)) => return Job::Flush(done),
                Some(Step::Write(name)) => {
                    if let Some(block) = state.waiting.get(&name) {
                        return Job::Write(name, block.clone());
                    }
                    continue;
                }
                Some(Step::Adopt(name)) => {
                    if let Some(adoption) = state.adopting.get(&name) {
                        return Job::Adopt(name, *adoption);
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
    pub(super) fn written(&self, name: &Name) {
        let mut state = self.state();
        if let Some(block) = state.waiting.remove(name) {
            state.bytes -= cost(&block);
        }
    }

    /// Lets an adoption go that was done, or never will be.
    pub(super) fn adopted(&self, name: &Name) {
        let mut state = self.state();
        if state.adopting.remove(name).is_some() {
            state.bytes -= OVERHEAD_BYTES;
        }
    }

    /// Says whether there is a disk to write to; without one nothing waits.
    pub(super) fn set_off(&self, off: bool) {
        let mut state = self.state();
        state.off = off;
        if off {
            state.drop_work();
        }
    }

    /// Notes that the owner is gone, however it went.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.drop_work();
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

    fn drop_work(&mut self) {
        self.order.retain(|step| matches!(step, Step::Flush(_)));
        self.waiting.clear();
        self.adopting.clear();
        self.save_expired = false;
        self.bytes = 0;
    }
}

fn cost(block: &Block) -> usize {
    block.bytes().len() + OVERHEAD_BYTES
}

/// Names in two tables, references and their slack.
const OVERHEAD_BYTES: usize = 320;
/// More than a block can have references.
const ADOPTIONS_DEEP: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::ServerSecret;

    #[test]
    fn a_block_waits_readable_until_it_was_written() {
        let queue = Queue::new(1 << 20);
        let block = block(1);
        assert!(queue.wants(&name(1)));
        assert_eq!(queue.push(name(1), block.clone()), Pushed::Waiting);
        assert!(!queue.wants(&name(1)));
        assert_eq!(queue.push(name(1), block.clone()), Pushed::Waiting);
        assert!(matches!(queue.next(None), Job::Write(..)));
        assert!(queue.find(&name(1)).is_some());
        queue.written(&name(1));
        assert!(queue.find(&name(1)).is_none());
        assert_eq!(queue.state().bytes, 0);
        assert!(matches!(queue.next(Some(Instant::now())), Job::Due), "twice asked is once written");
    }

    #[test]
    fn a_full_queue_refuses_and_has_room_again_later() {
        let queue = Queue::new(2 * cost(&block(0)));
        assert_eq!(queue.push(name(1), block(1)), Pushed::Waiting);
        assert_eq!(queue.push(name(2), block(2)), Pushed::Waiting);
        assert_eq!(queue.push(name(3), block(3)), Pushed::Full);
        queue.written(&name(1));
        assert_eq!(queue.push(name(3), block(3)), Pushed::Waiting);
    }

    #[test]
    fn a_queue_without_a_disk_keeps_nothing_and_still_answers_a_flush() {
        let queue = Queue::new(1 << 20);
        queue.push(name(1), block(1));
        let mut flushed = queue.flush();
        queue.set_off(true);
        assert_eq!(queue.push(name(2), block(2)), Pushed::Off);
        assert!(!queue.wants(&name(2)));
        assert!(queue.find(&name(1)).is_none());
        match queue.next(None) {
            Job::Flush(done) => done.send(()).unwrap(),
            other => panic!("{other:?}"),
        }
        assert!(flushed.try_recv().is_ok());
    }

    #[test]
    fn closing_comes_after_what_waits_and_an_ended_queue_answers_at_once() {
        let queue = Queue::new(1 << 20);
        queue.push(name(1), block(1));
        let mut closed = queue.close();
        assert_eq!(queue.push(name(2), block(2)), Pushed::Off);
        assert!(matches!(queue.next(None), Job::Write(..)));
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

    #[test]
    fn a_waiting_adoption_leads_to_what_the_block_is_there_as() {
        let queue = Queue::new(1 << 20);
        let reference = |n: u8| *ServerSecret::new([n; 32]).mint(vec![7; 100].into()).reference();
        let name = |n: u8| Name::of(&reference(n));
        let adoption = |old, new| Adoption { old: reference(old), new: reference(new) };
        for (old, new) in [(1, 2), (2, 3), (2, 3)] {
            assert_eq!(queue.adopt(name(new), adoption(old, new)), Pushed::Waiting);
        }
        assert_eq!(queue.reference(&name(3)), Some(reference(3)));
        assert_eq!(queue.adopted_from(&reference(3), &name(3)), Some(reference(1)));
        let other = Reference { len: 99, ..reference(3) };
        assert_eq!(queue.adopted_from(&other, &name(3)), None);
        for (old, new) in [(1, 2), (2, 3)] {
            match queue.next(None) {
                Job::Adopt(of, job) => assert_eq!((of, job), (name(new), adoption(old, new))),
                other => panic!("{other:?}"),
            }
            queue.adopted(&name(new));
        }
        assert_eq!((queue.reference(&name(3)), queue.state().bytes), (None, 0));
        assert!(matches!(queue.next(Some(Instant::now())), Job::Due), "twice asked is once done");
    }

    #[test]
    fn adoptions_that_go_round_in_a_circle_end() {
        let queue = Queue::new(1 << 20);
        let reference = |n: u8| *ServerSecret::new([n; 32]).mint(vec![7; 100].into()).reference();
        for (old, new) in [(1, 2), (2, 1)] {
            queue.adopt(Name::of(&reference(new)), Adoption { old: reference(old), new: reference(new) });
        }
        assert!(queue.adopted_from(&reference(1), &Name::of(&reference(1))).is_some());
    }

    fn name(n: u8) -> Name {
        Name::of(block(n).reference())
    }

    fn block(n: u8) -> Block {
        ServerSecret::new([1; 32]).mint(vec![n; 100].into())
    }
}
