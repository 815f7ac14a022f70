//! The receiver's side: offers what it has memory for, and makes packed frames whole. Nothing that a frame claims is
//! trusted: its length is checked before memory is taken for it, and what zstd yields is held to that length.

use bytes::Bytes;
use wanigan_parsers::wan::{BLOCK_BYTES_MAX, Frame, LITERAL_BYTES_MAX};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::{BEGINS, BULK_BYTES, Context, LARGE, Ready};
use crate::budget::{Budget, Reservation};

/// Unpacks the frames of one direction of a flow.
pub struct Unpacker {
    budget: Budget,
    small: Decoder,
    large: Decoder,
    releases: u64,
    /// Bytes of content that came through the small context since the last RELEASE.
    bulk: usize,
}

/// A packed frame that breaks the protocol. The flow it came on is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malpacked {
    /// Flags that mean nothing, or no bytes.
    #[error("packed frame without a form")]
    Malformed,
    /// It needs a context that was not offered, or that no frame began.
    #[error("packed frame for a context that there is not")]
    NoContext,
    /// It claims a length that no such frame has.
    #[error("packed frame claims {0} bytes")]
    Length(usize),
    /// The bytes within are more or fewer than it claims.
    #[error("packed frame has other than the {0} bytes it claims")]
    OtherLength(usize),
    /// Not zstd, a window that is too large, or the end of a zstd frame.
    #[error("packed frame is broken: {0}")]
    Broken(&'static str),
}

impl Unpacker {
    /// Makes an unpacker, with memory for the small context where there is room.
    #[must_use]
    pub fn new(budget: &Budget) -> Self {
        let mut small = Decoder::new(Context::Small);
        small.offer(budget);
        Self { budget: budget.clone(), small, large: Decoder::new(Context::Large), releases: 0, bulk: 0 }
    }

    /// Returns a credit as it goes to the sender, with what can be unpacked.
    pub fn announce(&mut self, credit: u64) -> u64 {
        if self.bulk >= OFFER_LARGE_FROM {
            self.large.offer(&self.budget);
        }
        let large = self.large.reservation.is_some().then_some(self.releases);
        Ready { small: self.small.reservation.is_some(), large }.with_credit(credit)
    }

    /// Returns the frame as it was before it was packed; every frame of the direction goes through here.
    ///
    /// # Errors
    /// [`Malpacked`]; the flow must be reset.
    pub fn unpack(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Malpacked> {
        match frame {
            Frame::PackedLiteral { len, bytes } => {
                let bytes = self.unpack_bytes(&bytes, len as usize, LITERAL_BYTES_MAX)?;
                Ok(Frame::Literal(bytes))
            }
            Frame::PackedData { reference, number, bytes } => {
                let bytes = self.unpack_bytes(&bytes, reference.len as usize, BLOCK_BYTES_MAX)?;
                Ok(Frame::Data { reference, number, bytes })
            }
            Frame::Release(bytes) => {
                self.releases += 1;
                self.bulk = 0;
                self.large = Decoder::new(Context::Large);
                Ok(Frame::Release(bytes))
            }
            frame => Ok(frame),
        }
    }

    fn unpack_bytes(&mut self, packed: &[u8], len: usize, len_max: usize) -> Result<Bytes, Malpacked> {
        if len == 0 || len > len_max {
            return Err(Malpacked::Length(len));
        }
        let Some((flags @ 0..=3, zstd)) = packed.split_first() else { return Err(Malpacked::Malformed) };
        let begins = flags & BEGINS != 0;
        if flags & LARGE != 0 {
            return self.large.decode(zstd, len, begins);
        }
        if len >= BULK_BYTES {
            self.bulk = self.bulk.saturating_add(len);
        }
        self.small.decode(zstd, len, begins)
    }
}

/// One context.
struct Decoder {
    context: Context,
    /// Its memory; it was offered from the moment this is there.
    reservation: Option<Reservation>,
    zstd: Option<DCtx<'static>>,
}

impl Decoder {
    fn new(context: Context) -> Self {
        Self { context, reservation: None, zstd: None }
    }

    fn offer(&mut self, budget: &Budget) {
        if self.reservation.is_none() {
            self.reservation = budget.reserve_spare(self.context.decoder_bytes());
        }
    }

    fn decode(&mut self, packed: &[u8], len: usize, begins: bool) -> Result<Bytes, Malpacked> {
        if self.reservation.is_none() {
            return Err(Malpacked::NoContext);
        }
        if begins {
            self.begin()?;
        }
        let zstd = self.zstd.as_mut().ok_or(Malpacked::NoContext)?;
        // With room for one byte too many, zstd has something to show for itself if there are more.
        let mut plain = Vec::with_capacity(len + 1);
        let mut output = OutBuffer::around(&mut plain);
        let mut input = InBuffer::around(packed);
        while input.pos() < packed.len() {
            let before = (input.pos(), output.pos());
            let hint = zstd.decompress_stream(&mut output, &mut input).map_err(broken)?;
            // A context ends with its flow: nothing may follow the end of a frame, nor be skipped.
            if hint == 0 {
                return Err(Malpacked::Broken("it ends"));
            }
            if output.pos() > len || (input.pos(), output.pos()) == before {
                return Err(Malpacked::OtherLength(len));
            }
        }
        if plain.len() != len {
            return Err(Malpacked::OtherLength(len));
        }
        Ok(plain.into())
    }

    /// Makes the context, or empties it.
    fn begin(&mut self) -> Result<(), Malpacked> {
        if let Some(zstd) = &mut self.zstd {
            return zstd.reset(ResetDirective::SessionOnly).map(|_| ()).map_err(broken);
        }
        let mut zstd = DCtx::try_create().ok_or(Malpacked::Broken("no memory"))?;
        zstd.set_parameter(DParameter::WindowLogMax(self.context.window_log())).map_err(broken)?;
        self.zstd = Some(zstd);
        Ok(())
    }
}

fn broken(code: usize) -> Malpacked {
    Malpacked::Broken(zstd_safe::get_error_name(code))
}

/// Content through the small context that shows that the large one pays, in bytes.
const OFFER_LARGE_FROM: usize = 32 << 10;

#[cfg(test)]
impl Unpacker {
    pub(super) fn forget_small(&mut self) {
        self.small.zstd = None;
    }
}

/// What zstd says that a context takes after a frame.
#[cfg(test)]
pub(super) fn size(context: Context, packed: &[u8], len: usize, budget: &Budget) -> u64 {
    let mut decoder = Decoder::new(context);
    decoder.offer(budget);
    decoder.decode(packed, len, true).unwrap();
    decoder.zstd.unwrap().sizeof() as u64
}
