//! The matcher: what of the bytes just read is content that the store already has, and how the rest is cut.
//!
//! It takes the bytes of one direction with the spans a shim made of them and gives [`Piece`]s in the same order,
//! which together are the same bytes. Content of one object that follows on is a *run*:
//!
//! - While a **cursor** stands, the run is compared with the extents of the content map from there on: a whole block
//!   by its digest, part of one byte by byte, for which the block is loaded from the store. The cursor goes on from
//!   message to message, so the sizes of reads do not matter.
//! - Where the bytes part from the cursor it is lost at that very byte. Each **anchor** of the bytes that follow is
//!   looked up, and the first that leads to the same bytes sets a cursor again; the match begins as far before the
//!   anchor as the bytes agree.
//! - What nothing explains is cut on the grid of the object ([`CELL_BYTES`]). A cell that must go on before it is
//!   whole goes on as it is, and is sealed as a block when the rest has passed too ([`assembly`]).
//!
//! It holds at most a cell of bytes that came, and no longer than [`HOLD`] once the leg has nothing more to say.
//! What the content map says is a hint: bytes are only ever explained by bytes that were compared or hashed. Whether
//! a slice may be named to the other side is for the sender to decide, which knows what that side was sent; a slice
//! that may not be named comes back to [`Matcher::handle_denied`].

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use wanigan_parsers::wan::SealSpan;

use super::anchors::{ANCHOR_BYTES, Gear};
use super::map::{ContentMap, Extent, digest_key};
use crate::block::{Digest, Hashed};
use crate::budget::Budget;
use crate::fault::OpaqueReason;
use crate::object::{Object, Place, Version};
use crate::shim::{Span, SpanKind};

mod assembly;

use self::assembly::{Assemblies, Sealed};

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

/// Blocks that are loaded in vain for anchors of one run before the next cell begins.
const CANDIDATES_MAX: u32 = 4;

/// Bytes that wait while a block is loaded before no more of the leg is read.
const WAITING_BYTES_MAX: usize = 128 << 10;

/// Bytes of a direction, matched and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// To be passed on as they are.
    Opaque(Bytes, OpaqueReason),
    /// A block of which every byte has just been read and that nothing was known of.
    New(Hashed),
    /// A block of which every byte has just been read, where the map said.
    Whole(Hashed),
    /// A part of a block, read just now.
    Slice(Slice),
    /// These bytes, passed on as they were before, are a block.
    Seal(Hashed, Vec<SealSpan>),
}

/// A part of a block that the store has, equal to bytes that were read just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The block.
    pub block: Hashed,
    /// Where in the block the part begins.
    pub skip: usize,
    /// Its length.
    pub len: usize,
    /// Whether every byte of the block was released at this place in this version.
    pub same_version: bool,
    /// What was read, and where in it.
    object: Object,
    offset: u64,
    /// Where in the direction the part is.
    at: u64,
}

impl Slice {
    /// Returns the part's bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.block.bytes().slice(self.skip..self.skip + self.len)
    }
}

/// Where blocks are known to be; shared by the flows of a node.
pub type MapHandle = Arc<Mutex<ContentMap>>;

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
    flush: Option<Flush>,
    load: Load,
    assemblies: Assemblies,
    pieces: VecDeque<Piece>,
    /// Bytes of the direction before those that are held.
    passed: u64,
    /// What the map is to be told of the run's object as soon as the cursor needs no more of what the map says there.
    news: Vec<(u64, Extent)>,
    /// From here on in the run's object: as far as it was matched with what the map had of it.
    kept: Option<u64>,
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

/// Where in known content the held bytes are thought to be.
#[derive(Debug)]
struct Cursor {
    source: Place,
    /// Offset in the source of the first byte held.
    at: u64,
    extent_start: u64,
    extent: Extent,
    block: Option<Hashed>,
    /// The block was matched from its first byte on.
    from_start: bool,
}

/// The search for a place to set the cursor.
#[derive(Debug, Default)]
struct Search {
    gear: Gear,
    /// Bytes of what is held that the gear has seen.
    scanned: usize,
    /// Anchors of the block where the cursor was lost.
    near: HashMap<u64, (Place, u64)>,
    /// Where the map's own word for this offset led to nothing.
    hint_tried: Option<u64>,
    /// Where in the source the cursor was lost.
    lost: Option<(Place, u64)>,
    /// Where the map's word for an offset further on led to nothing.
    gap_tried: Option<u64>,
    candidate: Option<Candidate>,
    candidates: u32,
}

/// Where a match may begin or go on, while the block is loaded that will tell.
#[derive(Debug)]
struct Candidate {
    /// Bytes held before it.
    held: usize,
    /// Bytes of the extent before it.
    within: usize,
    /// Bytes before it that have to agree, where the extent has so many.
    before: usize,
    source: Place,
    extent_start: u64,
    extent: Extent,
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
            flush: None,
            load: Load::Idle,
            assemblies: Assemblies::new(budget),
            pieces: VecDeque::new(),
            passed: 0,
            news: Vec::new(),
            kept: None,
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

    /// Takes the block of [`Matcher::poll_load`], or `None` where the store does not have it.
    pub fn handle_loaded(&mut self, digest: &Digest, block: Option<Hashed>) {
        if self.load != Load::Loading(*digest) {
            return;
        }
        self.load = Load::Idle;
        match (block, self.search.candidate.take()) {
            (Some(block), Some(candidate)) => self.try_candidate(candidate, block),
            (Some(block), None) => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.block = Some(block);
                }
            }
            (None, Some(gone)) => self.forget(&gone.source, gone.extent_start, &gone.extent),
            (None, None) => {
                if let Some(cursor) = self.cursor.take() {
                    self.forget(&cursor.source, cursor.extent_start, &cursor.extent);
                    self.search.hint_tried = Some(self.start());
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
            place: placed(&self.server, &object.place),
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
        self.search = Search::default();
    }

    /// Tells the map where content of the run's object is. What the cursor has yet to follow stays as it is until then:
    /// of an edited file the map has the old order, a little before or behind.
    fn tell(&mut self, map: &mut ContentMap, news: Option<(u64, Extent)>) {
        self.news.extend(news);
        let Some(object) = self.run.object else { return self.news.clear() };
        let is_free = |(offset, extent): &(u64, Extent)| {
            self.kept.is_none_or(|kept| offset.saturating_add(u64::from(extent.len)) <= kept)
        };
        let free = self.news.iter().take_while(|news| is_free(news)).count();
        let ready = free.max(self.news.len().saturating_sub(NEWS_MAX));
        for (offset, extent) in self.news.drain(..ready) {
            map.learn(&object.place, offset, extent);
        }
    }

    fn tell_all(&mut self) {
        self.kept = None;
        let map = Arc::clone(&self.map);
        self.tell(&mut map.lock().unwrap_or_else(PoisonError::into_inner), None);
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
        let skip =
            extent.skip as usize + usize::try_from(cursor.at - cursor.extent_start).expect("in a block");
        let left = (extent.skip + extent.len) as usize - skip;
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
        let whole = skip == 0 && left == extent.block_len as usize;
        if held < left && !flushes {
            return false;
        }
        if whole && held >= left {
            let hashed = Hashed::of(Bytes::copy_from_slice(&self.run.held[..left]));
            if *hashed.digest() == extent.digest {
                self.take_slice(&hashed, 0, left);
                return true;
            }
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
        self.search.hint_tried = None;
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
        let map = Arc::clone(&self.map);
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = cursor.source == object.place && cursor.at == offset;
        if let Some(version) = released.filter(|_| stays) {
            map.confirm(&object.place, cursor.extent_start, block.digest(), version);
        }
        cursor.at += len as u64;
        if cursor.source == object.place {
            self.kept = Some(cursor.at);
        }
        if !stays && skip == 0 && ends_block {
            index(&mut map, object.place, offset, Some(block.digest()), block.bytes());
        }
        self.tell(&mut map, (!stays).then(|| (offset, extent(block, skip, len, released))));
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
        let mut search = Search { hint_tried: Some(self.start()), lost, ..Search::default() };
        // The place is likely to be found again in the rest of the same block.
        let from = (skip + taken).saturating_sub(ANCHOR_BYTES);
        let base = at.wrapping_sub(skip as u64);
        anchors(&block.bytes()[from..], |end, key| {
            search.near.entry(key).or_insert((source, base.wrapping_add((from + end) as u64)));
        });
        self.search = search;
    }

    /// Looks for a place to set the cursor; cuts what it can no longer hold. Returns whether there is more to do.
    fn seek(&mut self) -> bool {
        if self.take_hint() {
            return true;
        }
        self.look_beyond_gap();
        self.find_anchor();
        if let Some(candidate) = &self.search.candidate {
            self.load = Load::Wanted(candidate.extent.digest, candidate.extent.block_len);
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
        if self.search.scanned > 0 || self.search.hint_tried == Some(start) {
            return false;
        }
        self.search.hint_tried = Some(start);
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        self.cursor = Cursor::at(&mut map, object.place, start);
        self.cursor.is_some()
    }

    /// Looks where the map has content again, behind where the cursor was lost or at the same place, once enough is
    /// held to tell: what lies between was too short to be made a block.
    fn look_beyond_gap(&mut self) {
        let (start, held, Some(object)) = (self.start(), self.run.held.len(), self.run.object) else {
            return;
        };
        let is_cut = self.flush.is_some() || held >= room(start);
        let reach = if is_cut { held } else { held.saturating_sub(SLICE_BYTES_MIN) };
        if self.search.gap_tried == Some(start) || reach == 0 {
            return;
        }
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, from) = self.search.lost.unwrap_or((object.place, start));
        let next = map.after(&source, from.saturating_add(1));
        let gap = next.and_then(|(next, _)| usize::try_from(next - from).ok()).filter(|gap| *gap < reach);
        let (Some(held), Some((extent_start, extent))) = (gap, next) else { return };
        self.search.gap_tried =
            self.search.lost.take().is_none_or(|lost| lost == (object.place, start)).then_some(start);
        self.search.candidate = Some(Candidate { held, within: 0, before: 0, source, extent_start, extent });
    }

    /// Looks up the anchors of what is held.
    fn find_anchor(&mut self) {
        let search = &mut self.search;
        if self.run.object.is_none() {
            return;
        }
        while search.scanned < self.run.held.len() && search.candidate.is_none() {
            let from = search.scanned;
            let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = None;
            // In small steps, so that an anchor that leads somewhere is taken before the next is looked at.
            let to = self.run.held.len().min(from + SEARCH_STEP);
            search.gear.scan(&self.run.held[from..to], |end, key| {
                if found.is_none() && search.candidates < CANDIDATES_MAX {
                    found =
                        search.near.get(&key).copied().or_else(|| map.find(key)).map(|to| (from + end, to));
                }
            });
            search.scanned = to;
            let Some((held, (source, at))) = found else { continue };
            // The anchor's last byte is in the extent; what follows it may be in the next.
            let Some((extent_start, extent)) = at.checked_sub(1).and_then(|last| map.at(&source, last))
            else {
                continue;
            };
            search.candidates += 1;
            let within = usize::try_from(at - extent_start).expect("in a block");
            let before = ANCHOR_BYTES;
            search.candidate = Some(Candidate { held, within, before, source, extent_start, extent });
        }
    }

    /// Compares around a candidate with the block it led to, and sets the cursor if they agree.
    fn try_candidate(&mut self, candidate: Candidate, block: Hashed) {
        let Candidate { held, within, before: wanted, source, extent_start, extent } = candidate;
        let low = extent.skip as usize;
        let (middle, high) = (low + within, low + extent.len as usize);
        let before = common_suffix(&self.run.held[..held], &block.bytes()[low..middle]);
        let reach = (self.run.held.len() - held).min(high - middle);
        let after = common_prefix(&self.run.held[held..held + reach], &block.bytes()[middle..middle + reach]);
        if before < wanted.min(within) || before + after < SLICE_BYTES_MIN {
            return;
        }
        if held > before {
            self.cut_before_match(held - before);
        }
        self.search = Search::default();
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
        self.search = Search { near: mem::take(&mut self.search.near), ..Search::default() };
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
        let map = Arc::clone(&self.map);
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        let elsewhere = map.find(digest_key(block.digest()));
        let whole = extent(block, 0, block.bytes().len(), object.version);
        if self.run.object == Some(object) {
            self.tell(&mut map, Some((offset, whole)));
        } else {
            map.learn(&object.place, offset, whole);
        }
        index(&mut map, object.place, offset, Some(block.digest()), block.bytes());
        let Some((place, start)) = elsewhere.filter(|(place, _)| *place != object.place) else { return };
        // A copy goes on where the block went on before.
        let next = offset.wrapping_add(block.bytes().len() as u64);
        let is_there = map.at(&place, start).is_some_and(|(_, extent)| extent.digest == *block.digest());
        let goes_on = self.run.object == Some(object) && self.start() == next;
        if is_there && goes_on && self.cursor.is_none() {
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

impl Cursor {
    fn at(map: &mut ContentMap, source: Place, at: u64) -> Option<Self> {
        let (extent_start, extent) = map.at(&source, at)?;
        Some(Self { source, at, extent_start, extent, block: None, from_start: false })
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

/// Tells the places of one server from those of another.
pub(super) fn placed(server: &[u8], place: &Place) -> Place {
    Place::of(&[server, &place.0])
}

/// Has bytes found by their anchors, and by a block's digest if they are the whole block.
pub(super) fn index(map: &mut ContentMap, place: Place, offset: u64, digest: Option<&Digest>, bytes: &[u8]) {
    if let Some(digest) = digest {
        map.index(digest_key(digest), &place, offset);
    }
    anchors(bytes, |end, key| map.index(key, &place, offset.wrapping_add(end as u64)));
}

/// Calls with the anchors of a block; of bytes that are all alike, not with all of them.
fn anchors(bytes: &[u8], mut found: impl FnMut(usize, u64)) {
    let mut left = ANCHORS_MAX;
    Gear::default().scan(bytes, |end, key| {
        if left > 0 {
            left -= 1;
            found(end, key);
        }
    });
}

/// Bytes from an offset to the end of its cell.
fn room(offset: u64) -> usize {
    CELL_BYTES - usize::try_from(offset % CELL_BYTES as u64).expect("less than a cell")
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 64;
    let whole =
        one.chunks_exact(STEP).zip(other.chunks_exact(STEP)).take_while(|(a, b)| a == b).count() * STEP;
    whole + one[whole..].iter().zip(&other[whole..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// What may be kept from the map, in blocks, while the cursor follows what it has.
const NEWS_MAX: usize = 1024;

/// Anchors of one block that are used; on average it has a quarter as many.
const ANCHORS_MAX: usize = 256;

/// Bytes that are searched for anchors at a time.
const SEARCH_STEP: usize = 1 << 10;

#[cfg(test)]
mod tests;
