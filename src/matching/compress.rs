//! Frames with content, made smaller by zstd (RFC 8878) on their way over the link and whole again before a flow sees
//! them. Both halves of a flow, and all credit, know uncompressed frames alone.
//!
//! A direction of a flow has two *contexts*, each with a history that spans frames. The *small* one is for headers
//! and short messages, which look like those before them; the *large* one for content. They are apart so that content
//! does not push the headers out of the history. A packed frame says which one it needs and is flushed, so the
//! receiver can unpack it as soon as it is there:
//!
//! ```text
//!  0       1
//! +-------+------------------------------+
//! | flags | zstd: whole blocks           |    flags: 1 large context, 2 the context begins anew
//! +-------+------------------------------+
//! ```
//!
//! **In step.** A context at the receiver has seen exactly the packed frames, in their order. A frame that turned out
//! no smaller goes plain; the sender's context has seen it and the receiver's has not, so the sender's next packed
//! frame begins the context anew. That costs the history: so content that looks random is not tried at all
//! ([`worth`]), and after a failure fewer and fewer frames are.
//!
//! **Memory.** It comes from the node's budget, and from its half that savings may use ([`Budget::reserve_spare`]), so that no
//! flow is refused for it. A sender without room packs nothing. A receiver must be able to unpack whatever comes, so
//! it says beforehand what it has reserved memory for: in the low 8 bits of every credit (OPEN, OPENED, PROGRESS),
//! see [`Ready`]. The small decoder is reserved with the flow, where there is room, for as long as it lives. The large
//! one is reserved once packed content came through the small context, which shows that it pays, and given up at
//! RELEASE: the flow is idle, and both sides forget the large context. Since a PROGRESS that was on its way may still
//! tell of the decoder before, the offer counts the RELEASEs that the receiver has seen.
//!
//! What can go wrong is the other node's doing: a context that was not offered, a larger window than
//! [`Context::window_log`], or zstd that is broken or yields other than the frame's length ([`Malpacked`]). Never more
//! than one byte beyond that length is written, whatever is claimed inside.
//!
//! [`Budget::reserve_spare`]: crate::budget::Budget::reserve_spare

use wanigan_parsers::wan::Frame;

pub mod packer;
pub mod unpacker;
pub mod worth;

#[cfg(test)]
mod tests;

pub use packer::Packer;
pub use unpacker::{Malpacked, Unpacker};

/// One of the two contexts of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Headers and short messages.
    Small,
    /// Content.
    Large,
}

impl Context {
    /// Returns the logarithm of the history's length in bytes, which is the largest window a frame may ask for.
    ///
    /// With 1 MiB and level 5, 32 MiB of text take 4 % fewer bytes than `zstd -3` makes of the whole file; with 2 MiB
    /// it would be another 1 to 6 % for twice the memory.
    #[must_use]
    pub fn window_log(self) -> u32 {
        match self {
            Self::Small => 15,
            Self::Large => 20,
        }
    }

    /// Returns what a sender reserves for it, in bytes. A test holds zstd to it.
    fn encoder_bytes(self) -> u64 {
        match self {
            Self::Small => 352 << 10,
            Self::Large => 3200 << 10,
        }
    }

    /// Returns what a receiver reserves for it, in bytes. A test holds zstd to it.
    fn decoder_bytes(self) -> u64 {
        match self {
            Self::Small => 240 << 10,
            Self::Large => 1600 << 10,
        }
    }
}

/// The flag of a frame in the large context.
const LARGE: u8 = 1;

/// The flag of a frame that begins its context anew.
const BEGINS: u8 = 2;

/// What the receiver of a flow has memory to unpack; told with every credit.
///
/// ```text
/// |63                          8 7 6            0|
/// +-----------------------------+-+--------------+   S: small context
/// | credit                      |S| L            |   L: 0, or for the large context 1 + RELEASEs seen, modulo 127
/// +-----------------------------+-+--------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ready {
    small: bool,
    /// The RELEASEs that the receiver had seen when it reserved the large decoder.
    large: Option<u64>,
}

impl Ready {
    /// Returns the field on the wire.
    fn with_credit(self, credit: u64) -> u64 {
        let large = self.large.map_or(0, epoch);
        credit.min(u64::MAX >> 8) << 8 | u64::from(self.small) << 7 | large
    }
}

/// Returns how an offer after so many RELEASEs is told from others. No report is on its way for 127 RELEASEs, which
/// come a second apart.
fn epoch(releases: u64) -> u64 {
    1 + releases % 127
}

/// Returns the content's length before and after it was packed, for a packed frame.
#[must_use]
pub fn lengths<B: AsRef<[u8]>>(frame: &Frame<B>) -> Option<(usize, usize)> {
    match frame {
        Frame::PackedLiteral { len, bytes } => {
            Some((*len as usize, bytes.as_ref().len() + PACKED_LITERAL_EXTRA))
        }
        Frame::PackedData { reference, bytes, .. } => Some((reference.len as usize, bytes.as_ref().len())),
        _ => None,
    }
}

/// Content from this length on belongs to the large context, in bytes.
const BULK_BYTES: usize = 4 << 10;

/// The length that a packed LITERAL has before its bytes.
const PACKED_LITERAL_EXTRA: usize = 4;
