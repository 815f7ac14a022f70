//! One intercepted connection, carried over the link: the shell that moves bytes between a TCP leg, the two halves of
//! the flow and the link's stream. It is the same at an edge and at a core; what differs is which direction it sends.
//!
//! ```text
//!  leg ──read──▶ shim ──spans──▶ Sending ──frames──▶ stream      (LITERAL, DATA, REF, RUN...)
//!  leg ◀─write── Receiving ◀──frames── stream                    store, then `fetch.rs`, for what is missing
//! ```
//!
//! Everything of a flow happens in one task that waits for whichever comes first, so that no direction, fetch or
//! acknowledgement ever waits for another. A flow ends in good order when both directions did; in any other case both
//! legs are reset, since a FIN would tell an HTTP client that its response is complete.

use std::future::pending;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, VarInt, WriteError};
use socket2::SockRef;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};
use tracing::debug;
use wanigan_parsers::Direction;
use wanigan_parsers::wan::DialStatus;

pub mod credit;
pub mod guessing;
pub mod minter;
pub mod outbound;
pub mod pushing;
pub mod receiving;
pub mod recent;
pub mod retained;
pub mod sending;
pub mod terms;
pub mod window;

#[cfg(test)]
mod tests;

use self::receiving::{LOOKAHEAD, Output, Receiving, Violation, Wanted, Written};
use self::sending::Sending;
use crate::block::{Block, Digest};
use crate::fault::ResetReason;
use crate::fetch::plan::Want;
use crate::fetch::{Blocks, FlowFetches, WANTS_MAX};
use crate::matching::compress::{self, Malpacked, Packer, Unpacker};
use crate::matching::matcher::Loaded;
use crate::matching::observer::Observer;
use crate::metrics::{Metrics, Source};
use crate::relay::SETTLE;
use crate::shim::{Shim, Span};
use crate::wan::frames::{READ_BYTES, push_frame};
use crate::wan::session::Hearing;
use crate::wan::transport::STREAM_WINDOW;
use crate::wan::{FetchRequest, FlowPort, FlowStream, Progress, code};

/// How a flow ended.
#[derive(Debug)]
pub enum End {
    /// Both directions in good order.
    Done,
    /// Both legs were, or are to be, reset.
    Reset(ResetReason),
    /// The core could not connect to the server; no byte of the client reached it.
    NotOpened(DialStatus, Vec<Bytes>),
    /// The core fell silent before it said whether it connected. The bytes of the client may have reached the server
    /// unless there were none.
    Unheard(Vec<Bytes>),
}

/// A flow at one of its two nodes.
pub struct Flow {
    /// Its stream on the link.
    pub stream: FlowStream,
    /// Its mailboxes.
    pub port: FlowPort,
    /// From the leg to the link.
    pub sending: Sending,
    /// From the link to the leg.
    pub receiving: Receiving,
    /// Makes frames smaller on their way out.
    pub packer: Packer,
    /// Makes them whole again on their way in.
    pub unpacker: Unpacker,
    /// Learns what content it is that comes from the link.
    pub observer: Observer,
    /// Watches both directions.
    pub shim: Box<dyn Shim>,
    /// The direction of `sending`.
    pub sends: Direction,
    /// Bytes of the client that went out before OPENED came; `None` once it did.
    pub unopened: Option<Vec<Bytes>>,
    /// Where references are looked up and blocks kept.
    pub blocks: Blocks,
    /// Brings what is not there.
    pub fetches: FlowFetches,
    /// Counts.
    pub metrics: Metrics,
}

/// Results of what ran beside the flow's loop.
enum Job {
    LookedUp(u64, Option<Block>),
    /// A block to compare with what the leg said.
    Loaded(Digest, Loaded),
    /// What is missing was asked for; it comes through the flow's fetches.
    Wanted,
}

/// What the loop holds between its parts.
#[derive(Default)]
struct Buffers {
    /// Chunks for the stream; those before `out_at` are written.
    out: Vec<Bytes>,
    out_at: usize,
    /// Bytes for the leg.
    writing: Option<(Bytes, Option<Source>)>,
    read: BytesMut,
    spans: Vec<Span>,
    /// A report that the control stream had no room for.
    unreported: Option<Progress>,
    leg: Leg,
    /// The other side's leg was reset, and so will this one be.
    leg_reset: bool,
    leg_finish: LegFinish,
    stream_finished: bool,
    recv_ended: bool,
    stop_seen: bool,
    /// The leg was reset while it was not read; until then it may still be read to its end.
    error_deadline: Option<Instant>,
}

#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
enum LegFinish {
    #[default]
    NotYet,
    Wanted,
    Done,
}

/// What is left of the leg.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
enum Leg {
    #[default]
    Whole,
    /// It takes no more bytes; what it still has to say may tell why.
    Deaf {
        /// Not after a FIN: what follows the last bytes is no end in good order. The write took the error with it.
        reset: bool,
    },
    /// It was reset; what it said before is on its way to the other leg, until the deadline.
    Broken(Instant),
}

impl Flow {
    /// Carries the flow to its end.
    pub async fn run(mut self, leg: &mut TcpStream) -> End {
        self.metrics.flows_active.inc();
        // From here on every exit but the orderly one resets the leg, a panic and a killed process included.
        let _ = leg.set_zero_linger();
        let mut buffers = Buffers::default();
        let end = match self.carry(leg, &mut buffers).await {
            Ok(()) => {
                let _ = SockRef::from(&*leg).set_linger(None);
                End::Done
            }
            // A link that broke is as good as one that is not heard, as long as the core has not answered.
            Err(End::Reset(ResetReason::LinkLost | ResetReason::Stopping)) if self.unopened.is_some() => {
                End::Unheard(self.unopened.take().unwrap_or_default())
            }
            Err(end) => end,
        };
        let code = match &end {
            End::Done => None,
            End::Reset(ResetReason::Protocol) => Some(code::PROTOCOL),
            End::Reset(ResetReason::Unresolved) => Some(code::UNRESOLVED),
            End::Reset(ResetReason::Stopping) | End::NotOpened(..) | End::Unheard(_) => Some(code::STOPPING),
            End::Reset(_) => Some(code::LEG),
        };
        if let Some(code) = code {
            // A RESET frame that is on its way must not be overtaken.
            if !buffers.stream_finished {
                let _ = self.stream.send.reset(code);
            }
            let _ = self.stream.recv.stop(code);
        }
        self.metrics.flows_active.dec();
        self.metrics.count_flow(self.shim.protocol());
        if let End::Reset(reason) = &end {
            debug!(reason = reason.as_str(), "flow reset");
            self.metrics.count_reset(*reason);
        }
        end
    }

    /// Moves bytes until the flow is over.
    async fn carry(&mut self, leg: &mut TcpStream, buffers: &mut Buffers) -> Result<(), End> {
        let (leg_read, mut leg_write) = leg.split();
        let mut jobs = JoinSet::new();
        let mut stopped = std::pin::pin!(self.stream.send.stopped());
        // Frames may have come together with the one that opened the flow.
        self.handle_frames()?;
        loop {
            self.handle_outputs(buffers, &mut jobs)?;
            self.load(&mut jobs);
            if buffers.leg_reset {
                tokio::time::sleep(SETTLE).await;
                return Err(self.other_leg_broke());
            }
            self.fill_stream(buffers);
            if buffers.leg_finish == LegFinish::Wanted && buffers.writing.is_none() {
                buffers.leg_finish = LegFinish::Done;
                if leg_write.shutdown().await.is_err() {
                    self.handle_deaf_leg(buffers, false)?;
                }
            }
            if buffers.leg == Leg::Whole
                && buffers.error_deadline.is_some_and(|deadline| deadline <= Instant::now())
            {
                self.handle_broken_leg(buffers);
            }
            if let Leg::Broken(deadline) = buffers.leg
                && (self.is_given(buffers) && buffers.recv_ended || Instant::now() >= deadline)
            {
                return Err(self.leg_broke());
            }
            if self.is_given(buffers) && self.is_received(buffers) {
                return Ok(());
            }
            self.wait(&leg_read, &mut leg_write, buffers, &mut jobs, stopped.as_mut()).await?;
        }
    }

    /// Waits for whichever comes first and takes it in. Every branch can be dropped without losing bytes.
    async fn wait(
        &mut self,
        leg_read: &ReadHalf<'_>,
        leg_write: &mut WriteHalf<'_>,
        buffers: &mut Buffers,
        jobs: &mut JoinSet<Job>,
        stopped: std::pin::Pin<&mut impl Future<Output = Result<Option<VarInt>, quinn::StoppedError>>>,
    ) -> Result<(), End> {
        let broken = match buffers.leg {
            Leg::Broken(deadline) => Some(deadline),
            Leg::Whole | Leg::Deaf { .. } => None,
        };
        let error = buffers.error_deadline.filter(|_| buffers.leg == Leg::Whole);
        let unopened = self.unopened.is_some();
        let link = self.port.link().clone();
        // While the core may be gone, bytes that stay here can still go direct.
        let hearing = link.hearing();
        if unopened && hearing == Hearing::Lost {
            return Err(End::Unheard(self.unopened.take().unwrap_or_default()));
        }
        let keeps_back = unopened && hearing != Hearing::Clear;
        let reads_leg = self.sending.wants_input() && buffers.out.is_empty() && !keeps_back;
        // A leg that is not read would not tell that it was reset.
        let watches_leg = !reads_leg && buffers.leg == Leg::Whole && buffers.error_deadline.is_none();
        if reads_leg {
            buffers.read.reserve(READ_BYTES);
            self.sending.handle_wait(Instant::now());
        }
        let timeouts = [self.sending.poll_timeout(), self.receiving.poll_timeout(), broken, error];
        let wakeup = timeouts.into_iter().flatten().min();
        tokio::select! {
            _ = leg_read.readable(), if reads_leg => match leg_read.try_read_buf(&mut buffers.read) {
                Ok(count) => self.handle_leg(count, buffers),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.handle_broken_leg(buffers),
            },
            _ = leg_read.ready(Interest::ERROR), if watches_leg => {
                buffers.error_deadline = Some(Instant::now() + BROKEN_GRACE);
            }
            count = write_leg(leg_write, buffers.writing.as_ref()), if buffers.writing.is_some() => {
                match count {
                    Ok(count) => self.handle_written(count, buffers),
                    Err(error) => self.handle_deaf_leg(buffers, error.kind() != io::ErrorKind::BrokenPipe)?,
                }
            }
            written = self.stream.send.write_chunks(&mut buffers.out[buffers.out_at..]), if !buffers.out.is_empty() => {
                let written = written.map_err(|error| self.stream_broke_writing(&error))?;
                self.metrics.count_flow_wan_bytes(self.shim.protocol(), self.sends, written.bytes);
                buffers.out_at += written.chunks;
                if buffers.out_at == buffers.out.len() {
                    buffers.out.clear();
                    buffers.out_at = 0;
                }
            }
            chunk = self.stream.recv.read_chunk(READ_BYTES, true), if !buffers.recv_ended => {
                match chunk.map_err(|error| self.stream_broke_reading(&error))? {
                    Some(chunk) => self.handle_stream(&chunk.bytes)?,
                    None => buffers.recv_ended = true,
                }
            }
            stop = stopped, if !buffers.stop_seen => {
                buffers.stop_seen = true;
                if let Ok(Some(code)) = stop && !(code == VarInt::from_u32(0) && self.sending.is_sent()) {
                    return Err(self.reset_by_other(code));
                }
            }
            () = link.closed(), if buffers.recv_ended => return Err(End::Reset(ResetReason::LinkLost)),
            Ok(()) = self.port.progress.changed() => {
                let latest = *self.port.progress.borrow_and_update();
                let credit = self.packer.handle_credit(latest.credit);
                self.sending.handle_progress(latest.resolved, latest.blocks, credit);
            }
            Some(request) = self.port.fetches.recv() => self.handle_fetch(request),
            Some((number, block)) = self.fetches.fetched.recv() => {
                let taken = self.receiving.handle_fetched(number, block, Instant::now());
                taken.map_err(|violation| self.violated(violation))?;
            }
            Some(job) = jobs.join_next(), if !jobs.is_empty() => self.handle_job(job)?,
            () = sleep_until_some(wakeup) => {
                let now = Instant::now();
                self.sending.handle_timeout(now);
                self.receiving.handle_timeout(now);
            }
            () = tokio::time::sleep(REPORT_AGAIN), if buffers.unreported.is_some() => {}
            () = link.hearing_changed(hearing), if unopened => {}
        }
        if buffers.recv_ended && !self.receiving.is_finished() {
            // The stream ended without FIN: the other node gave up.
            return Err(End::Reset(if unopened { ResetReason::Stopping } else { ResetReason::Protocol }));
        }
        Ok(())
    }

    fn handle_leg(&mut self, count: usize, buffers: &mut Buffers) {
        if count == 0 && buffers.leg == (Leg::Deaf { reset: true }) {
            return self.handle_broken_leg(buffers);
        }
        if count == 0 {
            self.sending.handle_end();
            return;
        }
        // Few bytes get a small buffer of their own, so that the large one is used again.
        let bytes = if count < READ_BYTES / 4 {
            let bytes = Bytes::copy_from_slice(&buffers.read);
            buffers.read.clear();
            bytes
        } else {
            buffers.read.split().freeze()
        };
        if let Some(unopened) = &mut self.unopened {
            unopened.push(bytes.clone());
        }
        buffers.spans.clear();
        self.shim.handle_input(self.sends, &bytes, &mut buffers.spans);
        // The first bytes tell the protocol.
        self.metrics.count_lan_bytes(self.shim.protocol(), self.sends, count);
        self.sending.handle_input(bytes, &buffers.spans, Instant::now());
        for (reason, bytes) in self.sending.poll_opaque() {
            self.metrics.count_opaque_bytes(reason, bytes);
        }
    }

    fn handle_written(&mut self, count: usize, buffers: &mut Buffers) {
        let Some((bytes, source)) = &mut buffers.writing else { return };
        self.metrics.count_lan_bytes(self.shim.protocol(), self.sends.reverse(), count);
        if let Some(source) = source {
            self.metrics.count_block_bytes(*source, count);
        }
        let _ = bytes.split_to(count);
        if bytes.is_empty() {
            buffers.writing = None;
        }
        self.receiving.handle_written(count, Instant::now());
    }

    fn handle_stream(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.metrics.count_flow_wan_bytes(self.shim.protocol(), self.sends.reverse(), bytes.len());
        self.stream.reader.handle_input(bytes);
        self.handle_frames()
    }

    /// Takes in every whole frame that arrived.
    fn handle_frames(&mut self) -> Result<(), End> {
        let now = Instant::now();
        while let Some(frame) =
            self.stream.reader.poll_frame().map_err(|_| End::Reset(ResetReason::Protocol))?
        {
            if let wanigan_parsers::wan::Frame::Opened { credit, .. } = &frame {
                let credit = self.packer.handle_credit(*credit);
                self.sending.handle_progress(0, 0, credit);
            }
            if let Some((before, after)) = compress::lengths(&frame) {
                self.metrics.count_compression(self.sends.reverse(), before, after);
            }
            let frame = self.unpacker.unpack(frame).map_err(malpacked)?;
            self.receiving.handle_frame(frame, now).map_err(|violation| self.violated(violation))?;
        }
        Ok(())
    }

    fn handle_outputs(&mut self, buffers: &mut Buffers, jobs: &mut JoinSet<Job>) -> Result<(), End> {
        let again = buffers.unreported.take();
        let mut progress = again;
        while let Some(output) = self.receiving.poll_output() {
            match output {
                Output::Opened(_) if self.unopened.is_none() => {
                    return Err(End::Reset(ResetReason::Protocol));
                }
                Output::Opened(DialStatus::Connected) => self.unopened = None,
                Output::Opened(status) => {
                    return Err(End::NotOpened(status, self.unopened.take().unwrap_or_default()));
                }
                Output::LookUp(wanted) => self.look_up(wanted, jobs),
                Output::Fetch(wanted) => {
                    debug!(count = wanted.len(), "references are not in the store");
                    let wanting = self.fetches.want(wanted.into_iter().map(Want::from).collect());
                    jobs.spawn(async move {
                        wanting.await;
                        Job::Wanted
                    });
                }
                Output::Store(block) => self.blocks.keep(block),
                Output::SealMissed => self.metrics.seals_missed.inc(),
                Output::Write(Written { bytes, source, origin }) => {
                    buffers.spans.clear();
                    self.shim.handle_input(self.sends.reverse(), &bytes, &mut buffers.spans);
                    if let Some(origin) = origin {
                        self.observer.handle_block(&origin, &bytes, &buffers.spans);
                    }
                    buffers.writing = Some((bytes, source));
                    if buffers.leg != Leg::Whole {
                        self.discard(buffers);
                    }
                }
                Output::Progress { resolved, blocks, credit } => {
                    let credit = self.unpacker.announce(credit);
                    progress = Some(Progress { resolved, blocks, credit });
                }
                Output::Finish => buffers.leg_finish = LegFinish::Wanted,
                Output::Reset => buffers.leg_reset = true,
            }
        }
        if let Some(progress) = progress
            && !self.port.link().report(self.port.flow(), progress)
        {
            buffers.unreported = Some(progress);
        }
        Ok(())
    }

    fn look_up(&mut self, wanted: Wanted, jobs: &mut JoinSet<Job>) {
        let (number, want) = (wanted.number, Want::from(wanted));
        if let Some(block) = self.blocks.find_now(&want) {
            return self.receiving.handle_looked_up(number, Some(block), Instant::now());
        }
        let blocks = self.blocks.clone();
        jobs.spawn(async move {
            // A disk that hangs is a disk that does not have the block.
            let block = timeout(LOOK_UP_DEADLINE, blocks.find(&want)).await;
            Job::LookedUp(number, block.ok().flatten())
        });
    }

    fn handle_fetch(&mut self, request: FetchRequest) {
        let FetchRequest { number, refer, reply } = request;
        // Nobody waits for the answer any longer when its stream broke.
        let _ = reply.send(self.sending.handle_fetch(number, refer));
    }

    fn handle_job(&mut self, job: Result<Job, JoinError>) -> Result<(), End> {
        match job {
            Ok(Job::LookedUp(number, block)) => {
                self.receiving.handle_looked_up(number, block, Instant::now())
            }
            Ok(Job::Loaded(digest, loaded)) => self.sending.handle_loaded(&digest, loaded),
            Ok(Job::Wanted) => {}
            // A bug of ours; the panic was logged.
            Err(_) => return Err(End::Reset(ResetReason::Unresolved)),
        }
        Ok(())
    }

    /// Has the blocks loaded that are to be compared with what the leg said.
    fn load(&mut self, jobs: &mut JoinSet<Job>) {
        while let Some((digest, len)) = self.sending.poll_load() {
            if let Some(block) = self.blocks.peek_now(&digest, len) {
                self.sending.handle_loaded(&digest, Loaded::Block(block));
                continue;
            }
            let blocks = self.blocks.clone();
            jobs.spawn(async move {
                // Bytes of the leg wait for it.
                let found = timeout(LOOK_UP_DEADLINE, blocks.peek(&digest, len)).await;
                let is_late = found.is_err() || blocks.disk_hangs();
                let missing = if is_late && blocks.may_have(&digest) { Loaded::NotNow } else { Loaded::Gone };
                Job::Loaded(digest, found.ok().flatten().map_or(missing, Loaded::Block))
            });
        }
    }

    /// Turns the frames that have credit into chunks for the stream, and ends it after FIN.
    fn fill_stream(&mut self, buffers: &mut Buffers) {
        while let Some(block) = self.sending.poll_kept() {
            self.blocks.keep(block);
        }
        if !buffers.out.is_empty() || buffers.stream_finished {
            return;
        }
        let mut bytes = 0;
        while bytes < READ_BYTES
            && let Some(frame) = self.sending.poll_frame()
        {
            if bytes == 0 {
                self.packer.handle_line(self.port.link().rate());
            }
            let plain = frame.payload().map_or(0, Bytes::len);
            let frame = self.packer.pack(frame);
            if let Some((before, after)) = compress::lengths(&frame) {
                self.metrics.count_compression(self.sends, before, after);
            }
            push_frame(frame, &mut buffers.out);
            // Packing takes time, so the bytes before it are what counts.
            bytes += buffers.out.last().map_or(0, Bytes::len).max(plain);
        }
        if buffers.out.is_empty() && self.sending.is_sent() {
            let _ = self.stream.send.finish();
            buffers.stream_finished = true;
        }
    }

    /// Whether the other side has all it needs of this one.
    fn is_given(&self, buffers: &Buffers) -> bool {
        buffers.stream_finished && self.sending.is_done()
    }

    fn is_received(&self, buffers: &Buffers) -> bool {
        self.receiving.is_done() && buffers.leg_finish == LegFinish::Done && buffers.unreported.is_none()
    }

    /// The leg takes no more bytes. If it was reset, reading it will say so after what came before the reset.
    fn handle_deaf_leg(&mut self, buffers: &mut Buffers, reset: bool) -> Result<(), End> {
        if self.sending.is_ended() && buffers.leg == Leg::Whole {
            return Err(self.leg_broke());
        }
        if buffers.leg == Leg::Whole {
            buffers.leg = Leg::Deaf { reset };
        }
        self.discard(buffers);
        Ok(())
    }

    fn handle_broken_leg(&mut self, buffers: &mut Buffers) {
        buffers.leg = Leg::Broken(Instant::now() + BROKEN_GRACE);
        self.discard(buffers);
        self.sending.handle_reset();
    }

    /// Drops bytes that the leg will never take.
    fn discard(&mut self, buffers: &mut Buffers) {
        if let Some((bytes, _)) = buffers.writing.take() {
            self.receiving.handle_written(bytes.len(), Instant::now());
        }
    }

    fn leg_broke(&self) -> End {
        End::Reset(match self.sends {
            Direction::ToServer => ResetReason::ClientLeg,
            Direction::ToClient => ResetReason::ServerLeg,
        })
    }

    fn other_leg_broke(&self) -> End {
        End::Reset(match self.sends {
            Direction::ToServer => ResetReason::ServerLeg,
            Direction::ToClient => ResetReason::ClientLeg,
        })
    }

    fn violated(&self, violation: Violation) -> End {
        debug!(error = &violation as &dyn std::error::Error, "flow is given up");
        match violation {
            Violation::Unresolved(_) => End::Reset(ResetReason::Unresolved),
            Violation::WrongBlock(_) => {
                self.metrics.wrong_blocks.inc();
                End::Reset(ResetReason::Protocol)
            }
            Violation::Forged(_) => {
                self.metrics.refused_references.inc();
                End::Reset(ResetReason::Protocol)
            }
            Violation::Overrun(_)
            | Violation::OutOfPlace
            | Violation::NumberTaken(_)
            | Violation::UnknownNumber(_)
            | Violation::NotYetCome(_) => End::Reset(ResetReason::Protocol),
        }
    }

    fn stream_broke_reading(&self, error: &ReadError) -> End {
        match error {
            ReadError::Reset(code) => self.reset_by_other(*code),
            _ => End::Reset(ResetReason::LinkLost),
        }
    }

    fn stream_broke_writing(&self, error: &WriteError) -> End {
        match error {
            WriteError::Stopped(code) => self.reset_by_other(*code),
            _ => End::Reset(ResetReason::LinkLost),
        }
    }

    fn reset_by_other(&self, by: VarInt) -> End {
        End::Reset(match by {
            code::LEG => return self.other_leg_broke(),
            code::UNRESOLVED => ResetReason::Unresolved,
            code::STOPPING => ResetReason::Stopping,
            _ => ResetReason::Protocol,
        })
    }
}

fn malpacked(error: Malpacked) -> End {
    debug!(error = &error as &dyn std::error::Error, "flow is given up");
    End::Reset(ResetReason::Protocol)
}

impl From<Wanted> for Want {
    fn from(wanted: Wanted) -> Self {
        let Wanted { number, reference, older } = wanted;
        Self { number, reference, older }
    }
}

async fn write_leg(leg: &mut WriteHalf<'_>, writing: Option<&(Bytes, Option<Source>)>) -> io::Result<usize> {
    match writing {
        Some((bytes, _)) => match leg.write(bytes).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        },
        None => pending().await,
    }
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// A flow's credit is what stops its sender, never the stream's own window.
const _: () = assert!(window::CREDIT_MAX < STREAM_WINDOW);

/// How long a block may take from the disk before the core is asked instead.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(2);

/// Whatever a flow looks ahead for has room among its wants.
const _: () = assert!(LOOKAHEAD <= WANTS_MAX);

/// How long what a leg said before its reset may take to the other side.
const BROKEN_GRACE: Duration = Duration::from_secs(10);

/// How soon a report that found the control stream full is tried again.
const REPORT_AGAIN: Duration = Duration::from_millis(5);
