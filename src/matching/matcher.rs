//! The matcher: what of the bytes just read is content that the store already has, and how the rest is cut.
//!
//! It takes the bytes of one direction with the spans a shim made of them and gives [`Piece`]s in the same order,
//! which together are the same bytes. Content of one object that follows on is a *run*:
//!
//! - While a **cursor** stands, the run is compared with the extents of the content map from there on: a whole block
//!   by its digest, part of one byte by byte, for which the block is loaded from the store. The cursor goes on from
//!   message to message, so the sizes of reads do not matter.
//! - Where the bytes part from the cursor it is lost at that very byte. Each **anchor** of the bytes that follow is
//!   looked up, and the first that leads to the same bytes sets a cursor again ([`search`]); the match begins as far
//!   before the anchor as the bytes agree.
//! - What nothing explains is cut on the grid of the object ([`CELL_BYTES`]). A cell that must go on before it is
//!   whole goes on as it is, and is sealed as a block when the rest has passed too ([`assembly`]).
//!
//! It holds at most a cell of bytes that came, and no longer than [`HOLD`] once the leg has nothing more to say.
//! What the content map says is a hint: bytes are only ever explained by bytes that were compared or hashed. Whether
//! a slice may be named to the other side is for the sender to decide, which knows what that side was sent; a slice
//! that may not be named comes back to [`Matcher::handle_denied`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::anchors::{self, ANCHOR_BYTES};
use super::map::{ContentMap, Extent, MapHandle, digest_key};
use crate::block::{Digest, Hashed};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::object::{Object, Place, Version};
use crate::shim::{Span, SpanKind};

mod assembly;
mod cursor;
mod news;
mod piece;
mod search;

use self::assembly::{Assemblies, Sealed};
use self::cursor::Cursor;
use self::news::News;
pub use self::piece::{Loaded, Piece, Slice};
use self::search::{Candidate, Near, Search, Trust, common_prefix};

/// Bytes of a cell of the grid, and so the longest block the matcher makes.
pub const CELL_BYTES: usize = 64 << 10;

/// Content shorter than this costs less as it is than as a block of its own.
pub const BLOCK_BYTES_MIN: usize = 4 << 10;

/// Content between matches that is shorter than this costs less as it is than as a block of its own.
pub const GAP_BYTES_MIN: usize = 512;

/// A match shorter than this costs less as it is than by reference.
pub const SLICE_BYTES_MIN: usize = 256;

/// How long an unfinished cell waits for its next bytes: longer than a server's read from a disk takes, shorter than
/// anyone notices on a WAN.
pub const HOLD: Duration = Duration::from_millis(20);

/// Bytes that wait while a block is loaded before no more of the leg is read.
const WAITING_BYTES_MAX: usize = 128 << 10;

/// Matches and cuts one direction of a flow.
#[derive(Debug)]
pub struct Matcher {
    map: MapHandle,
    /// Tells the places of one server from those of another.
    server: Vec<u8>,
    /// What passes is what a server releases, so that a version of it says who may read it.
    is_released: bool,
    inputs: VecDeque<(Bytes, SpanKind)>,
    input_bytes: usize,
    run: Run,
    cursor: Option<Cursor>,
    search: Search,
    near: Near,
    trust: Trust,
    /// What the search found, while its block is loaded.
    candidate: Option<Candidate>,
    flush: Option<Flush>,
    load: Load,
    assemblies: Assemblies,
    pieces: VecDeque<Piece>,
    /// Bytes of the direction before those that are held.
    passed: u64,
    news: News,
    deadline: Option<Instant>,
}

/// Content that follows on, as far as it has not been passed on.
#[derive(Debug, Default)]
struct Run {
    /// With the server in its place.
    object: Option<Object>,
    /// As the shim gave it.
    named: Option<Object>,
    held: BytesMut,
    /// Offset in the object that continues what is held.
    next: u64,
    /// The object has no bytes from there on.
    end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// More of the run may follow.
    Message,
    /// The server paused.
    Stall,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Load {
    #[default]
    Idle,
    Wanted(Digest, u32),
    Loading(Digest),
}

impl Matcher {
    /// Makes the matcher of one direction of a flow to or from a server.
    #[must_use]
    pub fn new(map: MapHandle, server: &[u8], budget: &Budget) -> Self {
        Self {
            map,
            server: server.to_vec(),
            is_released: true,
            inputs: VecDeque::new(),
            input_bytes: 0,
            run: Run::default(),
            cursor: None,
            search: Search::default(),
            near: Near::default(),
            trust: Trust::default(),
            candidate: None,
            flush: None,
            load: Load::Idle,
            assemblies: Assemblies::new(budget),
            pieces: VecDeque::new(),
            passed: 0,
            news: News::default(),
            deadline: None,
        }
    }

    /// Makes a matcher that shares what it knows with nobody, and remembers nothing.
    #[must_use]
    pub fn alone(budget: &Budget) -> Self {
        Self::new(Arc::new(Mutex::new(ContentMap::new(0, 0))), b"", budget)
    }

    /// Has it take what clients send: content that no server has released yet.
    #[must_use]
    pub fn of_uploads(mut self) -> Self {
        self.is_released = false;
        self
    }

    /// Takes the next bytes, partitioned by `spans`.
    ///
    /// # Panics
    /// If the spans do not sum to the bytes, which is a bug of the shim.
    pub fn handle_input(&mut self, mut bytes: Bytes, spans: &[Span]) {
        self.input_bytes += bytes.len();
        for span in spans {
            self.inputs.push_back((bytes.split_to(span.len), span.kind));
        }
        assert!(bytes.is_empty(), "a shim's spans cover its input");
        self.deadline = None;
        self.process();
    }

    /// Begins to wait for the next bytes. Until this is called a pause is ours, not the server's.
    pub fn handle_wait(&mut self, now: Instant) {
        if self.deadline.is_none() && self.load == Load::Idle && !self.run.held.is_empty() {
            self.deadline = Some(now + HOLD);
        }
        self.assemblies.handle_wait(now);
    }

    /// Gives up waiting for the rest of a cell when its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.flush = Some(Flush::Stall);
            self.process();
        }
        let sealed = self.assemblies.handle_timeout(now);
        sealed.into_iter().for_each(|sealed| self.seal(sealed));
    }

    /// Passes on everything that is held as soon as loading allows: no more bytes will come.
    pub fn handle_end(&mut self) {
        self.deadline = None;
        // Now or never: nothing follows the end of a direction.
        let sealed = self.assemblies.handle_end();
        sealed.into_iter().for_each(|sealed| self.seal(sealed));
        if !self.run.held.is_empty() {
            self.inputs.push_back((Bytes::new(), SpanKind::Opaque(OpaqueReason::Framing)));
        }
        self.process();
    }

    /// Takes what became of the block of [`Matcher::poll_load`]. One that is gone is forgotten by the map too.
    pub fn handle_loaded(&mut self, digest: &Digest, loaded: Loaded) {
        if self.load != Load::Loading(*digest) {
            return;
        }
        self.load = Load::Idle;
        match (loaded, self.candidate.take()) {
            (Loaded::Block(block), Some(candidate)) => self.try_candidate(&candidate, block),
            (Loaded::Block(block), None) => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.block = Some(block);
                }
            }
            (Loaded::Gone, Some(gone)) => self.forget(&gone.source, gone.extent_start, &gone.extent),
            (Loaded::NotNow, Some(_)) => {}
            (missing, None) => {
                if let Some(cursor) = self.cursor.take() {
                    if missing == Loaded::Gone {
                        self.forget(&cursor.source, cursor.extent_start, &cursor.extent);
                    }
                    self.search.handle_hint(self.start());
                }
            }
        }
        self.process();
    }

    /// Returns the digest and length of a block to load, once; [`Matcher::handle_loaded`] must follow.
    pub fn poll_load(&mut self) -> Option<(Digest, u32)> {
        let Load::Wanted(digest, len) = self.load else { return None };
        self.load = Load::Loading(digest);
        Some((digest, len))
    }

    /// Takes back a slice that the other side may not be told of: its bytes are to go on as they are, at once.
    pub fn handle_denied(&mut self, slice: &Slice) {
        let bytes = slice.bytes();
        // What it completes may have parts that are still to come out of here: the seal comes after them.
        let sealed = self.assemblies.handle_passed(slice.object, slice.offset, &bytes, slice.at, false);
        sealed.into_iter().for_each(|sealed| self.seal(sealed));
    }

    /// Returns when [`Matcher::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.deadline, self.assemblies.poll_timeout()].into_iter().flatten().min()
    }

    /// Returns the next piece.
    pub fn poll_piece(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// Returns whether there is room for more input.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.input_bytes < WAITING_BYTES_MAX
    }

    /// Returns whether every byte was passed on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.run.held.is_empty() && self.pieces.is_empty()
    }

    /// Works through the inputs until they end or a block must be loaded.
    fn process(&mut self) {
        loop {
            if !self.advance() {
                return;
            }
            self.flush = None;
            let Some((bytes, kind)) = self.inputs.pop_front() else {
                if self.run.held.is_empty() {
                    // A flow that has nothing to say keeps no buffer.
                    self.run.held = BytesMut::new();
                    self.near.let_go();
                }
                return;
            };
            match kind {
                SpanKind::Content { offset, last, end, object } => {
                    self.handle_content(bytes, offset, last, end, object);
                }
                SpanKind::Opaque(_) if !self.run.held.is_empty() => {
                    self.inputs.push_front((bytes, kind));
                    self.flush = Some(Flush::Message);
                }
                SpanKind::Opaque(reason) => {
                    self.input_bytes -= bytes.len();
                    if !bytes.is_empty() {
                        self.pass_on(bytes, reason);
                    }
                }
            }
        }
    }

    fn handle_content(
        &mut self,
        mut bytes: Bytes,
        offset: u64,
        last: bool,
        end: bool,
        object: Option<Object>,
    ) {
        if offset != self.run.next || object != self.run.named {
            if !self.run.held.is_empty() {
                let kind = SpanKind::Content { offset, last, end, object };
                self.inputs.push_front((bytes, kind));
                self.flush = Some(Flush::Message);
                return;
            }
            self.begin_run(offset, object);
        }
        let part = bytes.split_to(room(self.run.next).min(bytes.len()));
        self.input_bytes -= part.len();
        if self.run.held.is_empty() {
            self.run.held.reserve(CELL_BYTES);
        }
        self.run.held.extend_from_slice(&part);
        // Offsets are what a server said; the sum of two may be no offset.
        self.run.next = self.run.next.wrapping_add(part.len() as u64);
        if bytes.is_empty() {
            self.run.end = end;
            self.flush = last.then_some(Flush::Message);
        } else {
            let kind = SpanKind::Content { offset: self.run.next, last, end, object };
            self.inputs.push_front((bytes, kind));
        }
    }

    fn begin_run(&mut self, offset: u64, object: Option<Object>) {
        self.tell_all();
        let placed = |object: Object| Object {
            place: object.place.at(&self.server),
            version: object
                .version
                .filter(|_| self.is_released)
                .map(|version| Version::of(&[&self.server, &version.0])),
        };
        if object != self.run.named {
            self.run.object = object.map(placed);
            self.run.named = object;
        }
        self.run.next = offset;
        self.run.end = false;
        self.cursor = None;
        (self.search, self.near, self.trust) = Default::default();
    }

    /// Tells the map what it was not told yet: the run is over.
    fn tell_all(&mut self) {
        let Some(object) = self.run.object else { return };
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        self.news.tell_all(&mut map, &object.place);
    }

    /// Offset of the first byte held.
    fn start(&self) -> u64 {
        self.run.next.wrapping_sub(self.run.held.len() as u64)
    }

    /// Explains or cuts what is held, all of it if it is to be flushed. Returns `false` when it waits for a block.
    fn advance(&mut self) -> bool {
        while !self.run.held.is_empty() && self.load == Load::Idle {
            let goes_on = if self.cursor.is_some() { self.follow() } else { self.seek() };
            if !goes_on {
                break;
            }
        }
        self.load == Load::Idle
    }

    /// Compares what is held with what the cursor is at. Returns whether there may be more to do at once.
    fn follow(&mut self) -> bool {
        let cursor = self.cursor.as_mut().expect("who follows has a cursor");
        let (extent, flushes) = (cursor.extent, self.flush.is_some());
        let (skip, left, whole) = (cursor.skip(), cursor.left(), cursor.is_at_whole_block());
        let held = self.run.held.len();
        if let Some(block) = cursor.block.clone() {
            let reach = left.min(held);
            let equal = common_prefix(&self.run.held[..reach], &block.bytes()[skip..skip + reach]);
            if equal < reach {
                self.lose(&block, skip, equal);
                return true;
            }
            if reach < left && !flushes {
                return false;
            }
            self.take_slice(&block, skip, reach);
            return true;
        }
        if held < left && !flushes {
            return false;
        }
        if whole && held >= left {
            let hashed = Hashed::of(Bytes::copy_from_slice(&self.run.held[..left]));
            if *hashed.digest() == extent.digest {
                self.take_slice(&hashed, 0, left);
                return true;
            }
            if !self.trust.loads_another() {
                self.cursor = None;
                self.search = Search::new(self.start(), None);
                return true;
            }
        }
        if let Some(block) = self.near.block(&extent.digest) {
            cursor.block = Some(block);
            return true;
        }
        self.load = Load::Wanted(extent.digest, extent.block_len);
        false
    }

    /// Passes on a part of a block that is equal to what is held, and moves the cursor behind it.
    fn take_slice(&mut self, block: &Hashed, skip: usize, len: usize) {
        let Some(mut cursor) = self.cursor.take() else { return };
        let Some(object) = self.run.object else { return };
        let offset = self.start();
        let at = self.passed;
        drop(self.run.held.split_to(len));
        self.passed += len as u64;
        self.search.handle_match();
        cursor.from_start = skip == 0 || cursor.from_start;
        let ends_block = skip + len == block.bytes().len();
        let released = if ends_block && cursor.from_start { object.version } else { None };
        let same_version = object.version.is_some() && cursor.extent.version == object.version;
        self.pieces.push_back(if skip == 0 && ends_block {
            Piece::Whole(block.clone())
        } else if len < SLICE_BYTES_MIN {
            self.assemblies.handle_other(len);
            Piece::Opaque(block.bytes().slice(skip..skip + len), OpaqueReason::TooSmall)
        } else {
            Piece::Slice(Slice { block: block.clone(), skip, len, same_version, object, offset, at })
        });
        self.trust.handle_match();
        let stays = cursor.source == object.place && cursor.at == offset;
        let is_worth_finding = !stays && len >= SLICE_BYTES_MIN;
        let anchors =
            if is_worth_finding { anchors::of_block(&block.bytes()[skip..skip + len]) } else { Vec::new() };
        let map = Arc::clone(&self.map);
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = released.filter(|_| stays) {
            map.confirm(&object.place, cursor.extent_start, block.digest(), version);
        }
        cursor.at += len as u64;
        if cursor.source == object.place {
            self.news.need(cursor.at);
        }
        if !stays {
            let digest = (skip == 0 && ends_block).then_some(block.digest());
            map.index_all(&object.place, offset, digest, &anchors);
            self.news.add(offset, extent(block, skip, len, released));
        }
        self.news.tell(&mut map, &object.place);
        if cursor.at < cursor.extent_start + u64::from(cursor.extent.len) {
            cursor.block = Some(block.clone());
            self.cursor = Some(cursor);
        } else {
            self.cursor = Cursor::at(&mut map, cursor.source, cursor.at);
        }
    }

    /// The bytes part from what the cursor is at, `equal` bytes from here.
    fn lose(&mut self, block: &Hashed, skip: usize, equal: usize) {
        let (source, at) = match &self.cursor {
            Some(cursor) => (cursor.source, cursor.at),
            None => return,
        };
        if equal >= SLICE_BYTES_MIN {
            self.take_slice(block, skip, equal);
        }
        let taken = if equal >= SLICE_BYTES_MIN { equal } else { 0 };
        self.cursor = None;
        let lost = Some((source, at + taken as u64));
        self.search = Search::new(self.start(), lost);
        // The place is likely to be found again in the rest of the same block.
        let from = (skip + taken).saturating_sub(ANCHOR_BYTES);
        self.near.set(block, source, at.wrapping_sub(skip as u64), from);
    }

    /// Looks for a place to set the cursor; cuts what it can no longer hold. Returns whether there is more to do.
    fn seek(&mut self) -> bool {
        if self.take_hint() {
            return true;
        }
        if let Some(candidate) = self.search() {
            if let Some(block) = self.near.block(&candidate.extent.digest) {
                self.try_candidate(&candidate, block);
                return true;
            }
            self.load = Load::Wanted(candidate.extent.digest, candidate.extent.block_len);
            self.candidate = Some(candidate);
            return false;
        }
        let (held, start) = (self.run.held.len(), self.start());
        let room = room(start);
        if held >= room {
            self.cut(room, None);
            return true;
        }
        if self.flush.is_some() {
            self.cut(held, self.flush);
            return true;
        }
        false
    }

    /// Sets the cursor where the map has content of the same place.
    fn take_hint(&mut self) -> bool {
        let (start, Some(object)) = (self.start(), self.run.object) else { return false };
        if !self.search.may_take_hint(start) {
            return false;
        }
        self.search.handle_hint(start);
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        self.cursor = Cursor::at(&mut map, object.place, start);
        self.cursor.is_some()
    }

    fn search(&mut self) -> Option<Candidate> {
        let (start, held, place) = (self.start(), self.run.held.len(), self.run.object?.place);
        let is_cut = self.flush.is_some() || held >= room(start);
        let reach = if is_cut { held } else { held.saturating_sub(SLICE_BYTES_MIN) };
        let beyond = self.search.look_beyond_gap(&self.map, place, start, reach);
        beyond.or_else(|| self.search.find_anchor(&self.map, &self.near, &self.run.held))
    }

    /// Sets the cursor where a candidate is, if its block agrees with what is held.
    fn try_candidate(&mut self, candidate: &Candidate, block: Hashed) {
        let Some(before) = candidate.agreement(&self.run.held, &block) else { return };
        if candidate.held > before {
            self.cut_before_match(candidate.held - before);
        }
        self.search = Search::default();
        let &Candidate { within, source, extent_start, extent, .. } = candidate;
        let at = extent_start + (within - before) as u64;
        let block = Some(block);
        self.cursor = Some(Cursor { source, at, extent_start, extent, block, from_start: false });
    }

    /// Passes on what came before a match.
    fn cut_before_match(&mut self, mut len: usize) {
        while len > 0 {
            let part = room(self.start()).min(len);
            self.cut(part, None);
            len -= part;
        }
    }

    /// Cuts bytes off what is held that nothing explains: a block of their own, or bytes that go on as they are.
    fn cut(&mut self, len: usize, flush: Option<Flush>) {
        let offset = self.start();
        let at = self.passed;
        let is_all = len == self.run.held.len();
        let bytes = self.run.held.split_to(len).freeze();
        self.passed += len as u64;
        self.search = Search::default();
        let Some(object) = self.run.object else {
            if len < BLOCK_BYTES_MIN {
                self.assemblies.handle_other(len);
                self.pieces.push_back(Piece::Opaque(bytes, OpaqueReason::TooSmall));
            } else {
                self.pieces.push_back(Piece::New(Hashed::of(bytes)));
            }
            return;
        };
        let ends_cell = room(offset) == len || (is_all && self.run.end);
        let begins_cell = offset.is_multiple_of(CELL_BYTES as u64);
        // What lies between matches is a block of its own: it will lie there the next time, too.
        let is_block = if begins_cell && ends_cell {
            len >= BLOCK_BYTES_MIN
        } else {
            flush.is_none() && len >= GAP_BYTES_MIN && !self.assemblies.goes_on(object, offset)
        };
        if is_block {
            let block = Hashed::of(bytes);
            self.learn(object, offset, &block);
            self.pieces.push_back(Piece::New(block));
            return;
        }
        let reason = match flush {
            Some(Flush::Stall) => OpaqueReason::Stalled,
            _ if len < BLOCK_BYTES_MIN => OpaqueReason::TooSmall,
            _ => OpaqueReason::Piecemeal,
        };
        let sealed =
            self.assemblies.handle_passed(object, offset, &bytes, at, ends_cell && is_all && self.run.end);
        self.pieces.push_back(Piece::Opaque(bytes, reason));
        sealed.into_iter().for_each(|sealed| self.seal(sealed));
    }

    fn pass_on(&mut self, bytes: Bytes, reason: OpaqueReason) {
        self.passed += bytes.len() as u64;
        self.assemblies.handle_other(bytes.len());
        self.pieces.push_back(Piece::Opaque(bytes, reason));
    }

    fn seal(&mut self, sealed: Sealed) {
        let Sealed { object, offset, bytes, spans } = sealed;
        let block = Hashed::of(bytes);
        self.learn(object, offset, &block);
        self.pieces.push_back(Piece::Seal(block, spans));
    }

    /// Notes where a block is of which every byte has passed, and sets the cursor behind it if it is known elsewhere.
    fn learn(&mut self, object: Object, offset: u64, block: &Hashed) {
        let anchors = anchors::of_block(block.bytes());
        let map = Arc::clone(&self.map);
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        let elsewhere = map.find(digest_key(block.digest()));
        let whole = extent(block, 0, block.bytes().len(), object.version);
        if self.run.object == Some(object) {
            self.news.add(offset, whole);
            self.news.tell(&mut map, &object.place);
        } else {
            map.learn(&object.place, offset, whole);
        }
        map.index_all(&object.place, offset, Some(block.digest()), &anchors);
        let Some((place, start)) = elsewhere.filter(|(place, _)| *place != object.place) else { return };
        // A copy goes on where the block went on before.
        let next = offset.wrapping_add(block.bytes().len() as u64);
        let is_there = map.at(&place, start).is_some_and(|(_, extent)| extent.digest == *block.digest());
        let goes_on = self.run.object == Some(object) && self.start() == next;
        if is_there && goes_on && self.cursor.is_none() {
            self.search.handle_match();
            self.cursor = Cursor::at(&mut map, place, start.wrapping_add(block.bytes().len() as u64));
        }
    }

    fn forget(&mut self, place: &Place, at: u64, extent: &Extent) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.forget(place, at, &extent.digest);
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        self.tell_all();
    }
}

fn extent(block: &Hashed, skip: usize, len: usize, version: Option<Version>) -> Extent {
    let narrow = |len: usize| u32::try_from(len).expect("a block is far below 4 GiB");
    Extent {
        digest: *block.digest(),
        block_len: narrow(block.bytes().len()),
        skip: narrow(skip),
        len: narrow(len),
        version,
    }
}

/// Bytes from an offset to the end of its cell.
fn room(offset: u64) -> usize {
    CELL_BYTES - usize::try_from(offset % CELL_BYTES as u64).expect("less than a cell")
}

#[cfg(test)]
mod tests;
