//! Short streams of a link: FETCH for references that nobody else resolves, and REKEY for new names of blocks.
//!
//! Whoever receives a flow's references may FETCH them from their sender, so an edge's fetches go to the core and those
//! for an upload to the edge; each side has a budget of streams for the other's. REKEY is the edge's alone.
//!
//! A FETCH names a flow and numbers in it, never a digest. Its answers come one by one, each a block, an edge to get it
//! from, or word that it is gone; whoever answers holds one block at a time.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;
use wanigan_parsers::wan::{Digest, Frame, KeyId, Referral, Secret, StreamKind};

use super::frames::{FrameReader, push_frame, read_frame, read_kind};
use super::{FETCH_PRIORITY, Link, LinkError};
use crate::drain::Drain;

/// A reference of a flow that the other side asks for, and where the answer goes.
#[derive(Debug)]
pub struct FetchRequest {
    /// Number of the REF frame.
    pub number: u64,
    /// Whether the asker would rather be told of an edge that has the block.
    pub refer: bool,
    /// Takes the answer.
    pub reply: oneshot::Sender<FetchAnswer>,
}

/// What the other side answers to a fetch.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchAnswer {
    /// The block, not verified yet.
    Block(Bytes),
    /// An edge that has it, or soon will.
    Refer(Referral),
    /// It is not retained any longer.
    Gone,
}

impl Link {
    /// Asks the other side for references of a flow; each answer goes to `answers` as soon as it is there. With `refer`
    /// it may name an edge that has a block in the block's place.
    ///
    /// # Errors
    /// [`LinkError`] when the link breaks, or nothing arrives for [`FETCH_SILENCE`] however slow the line is.
    pub async fn fetch(
        &self,
        flow: u64,
        refer: bool,
        numbers: Vec<u64>,
        answers: &mpsc::Sender<(u64, FetchAnswer)>,
    ) -> Result<(), LinkError> {
        let _permit = self.0.fetch_permits.acquire().await.expect("the semaphore is never closed");
        let mut bytes = vec![StreamKind::Fetch.to_byte()];
        let mut asked: HashSet<u64> = numbers.iter().copied().collect();
        Frame::<Bytes>::Fetch { flow, refer, numbers }.encode(&mut bytes);
        // A side that takes no stream is silent too.
        let opening = async {
            let (mut send, recv) = self.0.connection.open_bi().await?;
            send.write_all(&bytes).await?;
            let _ = send.finish();
            Ok::<_, LinkError>(recv)
        };
        let opened = timeout(FETCH_SILENCE, opening).await;
        let mut recv = opened.map_err(|_| LinkError::TimedOut(FETCH_SILENCE))??;
        let mut reader = FrameReader::default();
        while !asked.is_empty() {
            let frame = timeout(FETCH_SILENCE, read_frame(&mut recv, &mut reader)).await;
            let answered = match frame.map_err(|_| LinkError::TimedOut(FETCH_SILENCE))?? {
                Frame::Block(number, bytes) => vec![(number, FetchAnswer::Block(bytes))],
                Frame::Gone(number) => vec![(number, FetchAnswer::Gone)],
                Frame::Refer { referral, numbers } if refer => {
                    numbers.into_iter().map(|number| (number, FetchAnswer::Refer(referral.clone()))).collect()
                }
                _ => return Err(LinkError::Unexpected),
            };
            for (number, answer) in answered {
                if !asked.remove(&number) {
                    return Err(LinkError::Unexpected);
                }
                if answers.send((number, answer)).await.is_err() {
                    // Nobody waits any longer.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Answers the fetches of the core for as long as the link stands: it opens no other streams.
    ///
    /// They are answered beside each other, as many as [`FETCH_STREAMS`](super::transport::FETCH_STREAMS), each by the
    /// flow's own task, so none waits for another flow or for a leg.
    pub async fn answer_core(&self, drain: &Drain) -> LinkError {
        loop {
            let (send, mut recv) = match self.accept().await {
                Ok(streams) => streams,
                Err(error) => return error.into(),
            };
            let link = self.clone();
            drain.spawn("core's fetch", async move {
                let answered = match timeout(FETCH_SILENCE, read_kind(&mut recv)).await {
                    Ok(Ok(Some(StreamKind::Fetch))) => link.answer_fetch(send, recv).await,
                    Ok(Ok(_)) => Err(LinkError::Unexpected),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(LinkError::TimedOut(FETCH_SILENCE)),
                };
                if let Err(error) = answered {
                    debug!(error = &error as &dyn std::error::Error, "the core's fetch broke");
                }
            });
        }
    }

    /// Answers a fetch stream whose first byte was read.
    ///
    /// # Errors
    /// [`LinkError`] when the stream breaks or asks for what it may not.
    pub async fn answer_fetch(&self, mut send: SendStream, mut recv: RecvStream) -> Result<(), LinkError> {
        let frame = timeout(FETCH_SILENCE, read_frame(&mut recv, &mut FrameReader::default())).await;
        let Frame::Fetch { flow, refer, numbers } =
            frame.map_err(|_| LinkError::TimedOut(FETCH_SILENCE))??
        else {
            return Err(LinkError::Unexpected);
        };
        let _ = send.set_priority(FETCH_PRIORITY);
        let fetches = self.with_flows(|flows| flows.get(&flow).map(|mailbox| mailbox.fetches.clone()));
        let mut referrals = Referrals::default();
        // One at a time: what is on its way is bounded by the stream, not by what was asked for.
        for number in numbers {
            let (reply, answer) = oneshot::channel();
            let asked = match &fetches {
                Some(fetches) => fetches.send(FetchRequest { number, refer, reply }).await.is_ok(),
                None => false,
            };
            let answer = if asked { answer.await.unwrap_or(FetchAnswer::Gone) } else { FetchAnswer::Gone };
            let frame = match answer {
                FetchAnswer::Block(bytes) => Frame::Block(number, bytes),
                FetchAnswer::Gone => Frame::Gone(number),
                FetchAnswer::Refer(referral) => {
                    referrals.add(referral, number);
                    continue;
                }
            };
            // Who is referred elsewhere need not wait for the bytes of others.
            let mut chunks = referrals.take();
            push_frame(frame, &mut chunks);
            send.write_all_chunks(&mut chunks).await?;
        }
        send.write_all_chunks(&mut referrals.take()).await?;
        let _ = send.finish();
        Ok(())
    }

    /// Returns keying material that this very connection alone has (RFC 8446 section 7.5).
    #[must_use]
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        self.0.connection.export_keying_material(&mut material, label, b"").ok()?;
        Some(material)
    }

    /// Asks the core for the new names of blocks that this edge has under an older server secret, each with its proof:
    /// a secret and a proof for each, zeros where the core gives none.
    ///
    /// # Errors
    /// [`LinkError`] when the link breaks or the core does not answer as it should.
    pub async fn rekey(
        &self,
        key: KeyId,
        blocks: Vec<(Digest, [u8; 32])>,
    ) -> Result<(KeyId, Vec<(Secret, [u8; 32])>), LinkError> {
        let _permit = self.0.fetch_permits.acquire().await.expect("the semaphore is never closed");
        let (mut send, mut recv) = self.0.connection.open_bi().await?;
        let count = blocks.len();
        let mut bytes = vec![StreamKind::Rekey.to_byte()];
        Frame::<Bytes>::Rekey { key, blocks }.encode(&mut bytes);
        send.write_all(&bytes).await?;
        let _ = send.finish();
        let answer = timeout(FETCH_SILENCE, read_frame(&mut recv, &mut FrameReader::default())).await;
        match answer.map_err(|_| LinkError::TimedOut(FETCH_SILENCE))?? {
            Frame::Rekeyed { key, secrets } if secrets.len() == count => Ok((key, secrets)),
            _ => Err(LinkError::Unexpected),
        }
    }
}

/// Referrals that wait to be written, a frame for each edge.
#[derive(Debug, Default)]
struct Referrals(Vec<(Referral, Vec<u64>)>);

impl Referrals {
    fn add(&mut self, referral: Referral, number: u64) {
        match self.0.iter_mut().find(|(same, _)| *same == referral) {
            Some((_, numbers)) => numbers.push(number),
            None => self.0.push((referral, vec![number])),
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        for (referral, numbers) in self.0.drain(..) {
            push_frame(Frame::Refer { referral, numbers }, &mut chunks);
        }
        chunks
    }
}

/// How long a fetch may bring no block, or its question may take, before its flow is given up.
const FETCH_SILENCE: Duration = Duration::from_secs(30);
