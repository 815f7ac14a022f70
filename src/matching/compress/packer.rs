//! The sender's side: decides which frames are tried, in which context, and sends what became smaller.
//!
//! A frame is never made larger, and a line is never made slower: content goes plain where the link carries more than
//! zstd produces, and frames that do not get smaller are tried ever more rarely.

use bytes::Bytes;
use wanigan_parsers::wan::Frame;
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

use super::worth::{Backoff, looks_compressible};
use super::{BEGINS, BULK_BYTES, Context, LARGE, PACKED_LITERAL_EXTRA, epoch};
use crate::budget::{Budget, Reservation};

/// Packs the frames of one direction of a flow.
pub struct Packer {
    enabled: bool,
    budget: Budget,
    /// What the receiver offered.
    small_ready: bool,
    large_ready: bool,
    releases: u64,
    pace: Pace,
    /// Bytes of messages that went plain while there was no context for them.
    waited: usize,
    small: Encoder,
    large: Encoder,
}

/// How hard content is worked on, by what the line carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pace {
    Thorough,
    Quick,
    /// The line is faster than zstd.
    Plain,
}

impl Packer {
    /// Makes a packer that packs once the receiver has offered to unpack, or never if it is not `enabled`.
    #[must_use]
    pub fn new(enabled: bool, budget: &Budget) -> Self {
        Self {
            enabled,
            budget: budget.clone(),
            small_ready: false,
            large_ready: false,
            releases: 0,
            pace: Pace::Thorough,
            waited: 0,
            small: Encoder::new(Context::Small),
            large: Encoder::new(Context::Large),
        }
    }

    /// Takes a credit as the receiver sent it: notes what the receiver can unpack, and returns the credit proper.
    #[must_use]
    pub fn handle_credit(&mut self, announced: u64) -> u64 {
        self.small_ready |= announced & 0x80 != 0;
        self.large_ready |= announced & 0x7f == epoch(self.releases);
        announced >> 8
    }

    /// Takes note of what the line carries, in bytes a second.
    pub fn handle_line(&mut self, rate: u64) {
        self.pace = if rate <= THOROUGH_RATE_MAX {
            Pace::Thorough
        } else if rate <= QUICK_RATE_MAX {
            Pace::Quick
        } else {
            Pace::Plain
        };
    }

    /// Returns the frame as it is to be sent; every frame of the direction goes through here.
    pub fn pack(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame {
            Frame::Literal(plain) => match self.pack_bytes(&plain, PACKED_LITERAL_EXTRA) {
                Some(bytes) => {
                    let len = u32::try_from(plain.len()).expect("a literal is far shorter");
                    Frame::PackedLiteral { len, bytes }
                }
                None => Frame::Literal(plain),
            },
            Frame::Data { reference, number, bytes: plain } => match self.pack_bytes(&plain, 0) {
                Some(bytes) => Frame::PackedData { reference, number, bytes },
                None => Frame::Data { reference, number, bytes: plain },
            },
            Frame::Release(bytes) => {
                self.releases += 1;
                self.large_ready = false;
                self.large = Encoder::new(Context::Large);
                Frame::Release(bytes)
            }
            frame => frame,
        }
    }

    /// Packs the content of one frame, unless it would not be smaller with `extra` bytes more.
    fn pack_bytes(&mut self, plain: &[u8], extra: usize) -> Option<Bytes> {
        if !self.enabled || !self.small_ready || plain.len() < PACK_BYTES_MIN {
            return None;
        }
        let bulk = plain.len() >= BULK_BYTES;
        if bulk && self.pace == Pace::Plain || plain.len() >= SAMPLE_FROM && !looks_compressible(plain) {
            return None;
        }
        let pace = self.pace;
        let encoder = if bulk && self.large_ready && self.large.open(&self.budget) {
            &mut self.large
        } else {
            // A context for a flow that says little costs more than it saves.
            if self.small.open.is_none() && plain.len() + self.waited < OPEN_SMALL_FROM {
                self.waited += plain.len();
                return None;
            }
            if !self.small.open(&self.budget) {
                return None;
            }
            &mut self.small
        };
        if !encoder.backoff.is_due() {
            return None;
        }
        let packed = encoder.encode(plain, extra, pace);
        match &packed {
            Some(packed) if !bulk || packed.len() < plain.len() - plain.len() / POOR => {
                encoder.backoff.handle_success();
            }
            _ => encoder.backoff.handle_failure(),
        }
        packed
    }
}

/// One context.
struct Encoder {
    context: Context,
    open: Option<Open>,
    backoff: Backoff,
}

struct Open {
    zstd: CCtx<'static>,
    pace: Pace,
    /// The receiver's context does not have what this one has seen, or there is none.
    begins: bool,
    /// Its memory, as long as it lives.
    _reservation: Reservation,
}

impl Encoder {
    fn new(context: Context) -> Self {
        Self { context, open: None, backoff: Backoff::default() }
    }

    /// Makes the context if there is none. Returns whether there is one.
    fn open(&mut self, budget: &Budget) -> bool {
        if self.open.is_none() {
            self.open = budget.reserve_spare(self.context.encoder_bytes()).and_then(|reservation| {
                let zstd = CCtx::try_create()?;
                Some(Open { zstd, pace: Pace::Thorough, begins: true, _reservation: reservation })
            });
        }
        self.open.is_some()
    }

    fn encode(&mut self, plain: &[u8], extra: usize, pace: Pace) -> Option<Bytes> {
        let open = self.open.as_mut()?;
        // To be slower again is not worth the history.
        open.begins |= self.context == Context::Large && pace > open.pace;
        let begins = open.begins;
        // Unless all goes well.
        open.begins = true;
        if begins {
            open.pace = pace;
            open.zstd.reset(ResetDirective::SessionAndParameters).ok()?;
            for parameter in parameters(self.context, pace) {
                open.zstd.set_parameter(parameter).ok()?;
            }
        }
        let flags = if self.context == Context::Large { LARGE } else { 0 } | if begins { BEGINS } else { 0 };
        // There is no room for what would not be smaller.
        let mut packed = Vec::with_capacity(plain.len().checked_sub(extra + 1)?);
        packed.push(flags);
        let mut output = OutBuffer::around_pos(&mut packed, 1);
        let mut input = InBuffer::around(plain);
        let flush = ZSTD_EndDirective::ZSTD_e_flush;
        let left = open.zstd.compress_stream2(&mut output, &mut input, flush).ok()?;
        if left > 0 || input.pos() < plain.len() || packed.len() + extra >= plain.len() {
            return None;
        }
        open.begins = false;
        // What is sent may wait long for its acknowledgement: without the room it did not need.
        packed.shrink_to_fit();
        Some(packed.into())
    }
}

fn parameters(context: Context, pace: Pace) -> [CParameter; 4] {
    let window = CParameter::WindowLog(context.window_log());
    let (level, hash, chain) = match (context, pace) {
        (Context::Small, _) => (3, 14, 13),
        (Context::Large, Pace::Thorough) => (5, 18, 17),
        (Context::Large, Pace::Quick | Pace::Plain) => (1, 17, 17),
    };
    [CParameter::CompressionLevel(level), window, CParameter::HashLog(hash), CParameter::ChainLog(chain)]
}

/// The fastest line for which content is worked on thoroughly, in bytes a second: level 5 takes 70 to 130 MB/s of text
/// on one core.
const THOROUGH_RATE_MAX: u64 = 40_000_000;

/// The fastest line for which content is packed at all, in bytes a second: level 1 takes 170 to 250 MB/s of text.
const QUICK_RATE_MAX: u64 = 120_000_000;

/// What is shorter goes plain: it would rarely be smaller, and a failure costs the history.
const PACK_BYTES_MIN: usize = 24;

/// From this length on a look at the bytes tells more than a try.
const SAMPLE_FROM: usize = 512;

/// A message this long, or as many bytes in shorter ones, make the small context.
const OPEN_SMALL_FROM: usize = 256;

/// Content that loses less than one byte in so many is not worth the work.
const POOR: usize = 32;

#[cfg(test)]
impl Packer {
    pub(super) fn is_large_offered(&self) -> bool {
        self.large_ready
    }

    pub(super) fn has_large(&self) -> bool {
        self.large.open.is_some()
    }
}

/// What zstd says that a context takes at each pace, one after the other as they may follow.
#[cfg(test)]
pub(super) fn sizes(context: Context, plain: &[u8], budget: &Budget) -> Vec<u64> {
    let mut encoder = Encoder::new(context);
    let size = |pace| {
        assert!(encoder.open(budget) && encoder.encode(plain, 0, pace).is_some());
        encoder.open.as_ref().unwrap().zstd.sizeof() as u64
    };
    [Pace::Thorough, Pace::Quick].map(size).into()
}
