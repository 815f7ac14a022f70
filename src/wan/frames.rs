//! Frames out of a QUIC stream and into one.

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream};
use wanigan_parsers::wan::{Frame, FrameError, StreamKind};

/// Gathers the bytes of a stream until they make a frame.
///
/// What it holds is bounded by the longest frame and one read.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// Takes the next bytes of the stream.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole frame; its content is a copy of its own, so that no frame keeps another's memory.
    ///
    /// # Errors
    /// [`FrameError`] when the stream breaks the protocol.
    pub fn poll_frame(&mut self) -> Result<Option<Frame<Bytes>>, FrameError> {
        let Some((frame, taken)) = Frame::decode(&self.buffer)? else { return Ok(None) };
        let frame = frame.map(Bytes::copy_from_slice);
        let _ = self.buffer.split_to(taken);
        Ok(Some(frame))
    }
}

/// A stream that ended, broke or broke the protocol before a frame was whole.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The transport's word.
    #[error("stream broke")]
    Read(#[from] ReadError),
    /// The other side's fault.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended inside a frame or before one.
    #[error("stream ended early")]
    Ended,
}

/// Waits for the first byte of a stream, and returns what it says the stream is for.
///
/// # Errors
/// [`StreamError`].
pub async fn read_kind(recv: &mut RecvStream) -> Result<Option<StreamKind>, StreamError> {
    match recv.read_chunk(1, true).await? {
        Some(chunk) => Ok(StreamKind::from_byte(chunk.bytes[0])),
        None => Err(StreamError::Ended),
    }
}

/// Waits for the next frame.
///
/// Not cancel-safe in the middle of a frame only if `reader` is dropped with it: the bytes are kept there.
///
/// # Errors
/// [`StreamError`].
pub async fn read_frame(
    recv: &mut RecvStream,
    reader: &mut FrameReader,
) -> Result<Frame<Bytes>, StreamError> {
    loop {
        if let Some(frame) = reader.poll_frame()? {
            return Ok(frame);
        }
        match recv.read_chunk(READ_BYTES, true).await? {
            Some(chunk) => reader.handle_input(&chunk.bytes),
            None => return Err(StreamError::Ended),
        }
    }
}

/// Appends a frame as chunks: its head, then its content from where it is.
pub fn push_frame(frame: Frame<Bytes>, chunks: &mut Vec<Bytes>) {
    let mut head = Vec::with_capacity(96);
    frame.encode_head(&mut head);
    chunks.push(head.into());
    if let Some(payload) = frame.payload() {
        chunks.push(payload.clone());
    }
}

/// Bytes taken from a stream at once.
pub const READ_BYTES: usize = 64 << 10;
