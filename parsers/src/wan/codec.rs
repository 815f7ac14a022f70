//! Frames to bytes and back. The table of them is in the module above.

use std::net::{IpAddr, SocketAddr};

use nom::bytes::complete::take;
use nom::combinator::{map, map_opt, map_res, rest, verify};
use nom::multi::length_count;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use super::{
    ADDRESSES_MAX, BLOCK_BYTES_MAX, DialStatus, Digest, FETCH_NUMBERS_MAX, Frame, FrameError, HEADER_BYTES,
    KeyId, LITERAL_BYTES_MAX, Named, OlderKey, PAYLOAD_BYTES_MAX, REFERENCE_BYTES, REKEY_BLOCKS_MAX,
    RUN_BLOCKS_MAX, Reference, Referral, Refusal, SEAL_SPANS_MAX, SealSpan, Secret,
};
use crate::NodeId;

impl<'a> Frame<&'a [u8]> {
    /// Reads the frame at the start of `input`. Returns it with the bytes it took, or `None` while it is incomplete.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the header shows that no valid frame can follow.
    pub fn decode(input: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((header, body)) = input.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let kind = header[0];
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let max = payload_bytes_max(kind).ok_or(FrameError::UnknownType(kind))?;
        if len as usize > max {
            return Err(FrameError::TooLong { kind, len });
        }
        let Some(payload) = body.get(..len as usize) else { return Ok(None) };
        match payload_of(kind, payload) {
            Ok(([], frame)) => Ok(Some((frame, HEADER_BYTES + len as usize))),
            Ok(_) | Err(_) => Err(FrameError::Malformed(kind)),
        }
    }

    /// Replaces the borrowed payload by what `own` makes of it.
    pub fn map<B>(self, own: impl FnOnce(&'a [u8]) -> B) -> Frame<B> {
        match self {
            Self::Literal(bytes) => Frame::Literal(own(bytes)),
            Self::Data { reference, number, bytes } => Frame::Data { reference, number, bytes: own(bytes) },
            Self::PackedLiteral { len, bytes } => Frame::PackedLiteral { len, bytes: own(bytes) },
            Self::PackedData { reference, number, bytes } => {
                Frame::PackedData { reference, number, bytes: own(bytes) }
            }
            Self::Block(number, bytes) => Frame::Block(number, own(bytes)),
            Self::Hello { version_min, version_max, store, stores, shares, asks } => {
                Frame::Hello { version_min, version_max, store, stores, shares, asks }
            }
            Self::Welcome { version, time_ms, flows, retain } => {
                Frame::Welcome { version, time_ms, flows, retain }
            }
            Self::Refuse(refusal) => Frame::Refuse(refusal),
            Self::Progress { flow, resolved, blocks, credit } => {
                Frame::Progress { flow, resolved, blocks, credit }
            }
            Self::Open { flow, client, server, credit } => Frame::Open { flow, client, server, credit },
            Self::Opened { status, credit } => Frame::Opened { status, credit },
            Self::Keys { key, older } => Frame::Keys { key, older },
            Self::Reached(addresses) => Frame::Reached(addresses),
            Self::Ref { reference, number, older, skip, len } => {
                Frame::Ref { reference, number, older, skip, len }
            }
            Self::Seal { reference, number, spans } => Frame::Seal { reference, number, spans },
            Self::Run { first, count } => Frame::Run { first, count },
            Self::Slice { number, skip, len } => Frame::Slice { number, skip, len },
            Self::Fin => Frame::Fin,
            Self::Reset => Frame::Reset,
            Self::Release(credit) => Frame::Release(credit),
            Self::Fetch { flow, refer, numbers } => Frame::Fetch { flow, refer, numbers },
            Self::Gone(number) => Frame::Gone(number),
            Self::Refer { referral, numbers } => Frame::Refer { referral, numbers },
            Self::Rekey { key, blocks } => Frame::Rekey { key, blocks },
            Self::Rekeyed { key, secrets } => Frame::Rekeyed { key, secrets },
        }
    }
}

impl<B: AsRef<[u8]>> Frame<B> {
    /// Returns the bytes of content or literal that end the frame; they follow what [`Frame::encode_head`] writes.
    pub fn payload(&self) -> Option<&B> {
        match self {
            Self::Literal(bytes)
            | Self::Data { bytes, .. }
            | Self::PackedLiteral { bytes, .. }
            | Self::PackedData { bytes, .. }
            | Self::Block(_, bytes) => Some(bytes),
            Self::Hello { .. }
            | Self::Welcome { .. }
            | Self::Refuse(_)
            | Self::Progress { .. }
            | Self::Open { .. }
            | Self::Opened { .. }
            | Self::Ref { .. }
            | Self::Seal { .. }
            | Self::Run { .. }
            | Self::Slice { .. }
            | Self::Fin
            | Self::Reset
            | Self::Release(_)
            | Self::Fetch { .. }
            | Self::Gone(_)
            | Self::Keys { .. }
            | Self::Reached(_)
            | Self::Refer { .. }
            | Self::Rekey { .. }
            | Self::Rekeyed { .. } => None,
        }
    }

    /// Appends everything of the frame but [`Frame::payload`], which the caller sends from where it is.
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let kind = match self {
            Self::Hello { version_min, version_max, store, stores, shares, asks } => {
                out.extend_from_slice(&version_min.to_be_bytes());
                out.extend_from_slice(&version_max.to_be_bytes());
                out.extend_from_slice(store);
                out.push(u8::from(*stores) | u8::from(*shares) << 1 | u8::from(*asks) << 2);
                HELLO
            }
            Self::Welcome { version, time_ms, flows, retain } => {
                out.extend_from_slice(&version.to_be_bytes());
                out.extend_from_slice(&time_ms.to_be_bytes());
                out.extend_from_slice(&flows.to_be_bytes());
                out.extend_from_slice(&retain.to_be_bytes());
                WELCOME
            }
            Self::Refuse(refusal) => {
                out.push(refusal.to_byte());
                REFUSE
            }
            Self::Progress { flow, resolved, blocks, credit } => {
                out.extend_from_slice(&flow.to_be_bytes());
                out.extend_from_slice(&resolved.to_be_bytes());
                out.extend_from_slice(&blocks.to_be_bytes());
                out.extend_from_slice(&credit.to_be_bytes());
                PROGRESS
            }
            Self::Open { flow, client, server, credit } => {
                out.extend_from_slice(&flow.to_be_bytes());
                encode_address(client, out);
                encode_address(server, out);
                out.extend_from_slice(&credit.to_be_bytes());
                OPEN
            }
            Self::Opened { status, credit } => {
                out.push(status.to_byte());
                out.extend_from_slice(&credit.to_be_bytes());
                OPENED
            }
            Self::Literal(_) => LITERAL,
            Self::Data { reference, number, bytes: _ } => {
                encode_reference(reference, out);
                out.extend_from_slice(&number.to_be_bytes());
                DATA
            }
            Self::Keys { key, older } => {
                out.extend_from_slice(&key.0);
                out.push(u8::from(older.is_some()));
                if let Some(older) = older {
                    out.extend_from_slice(&older.key.0);
                    out.extend_from_slice(&older.left_ms.to_be_bytes());
                }
                KEYS
            }
            Self::Reached(addresses) => {
                encode_addresses(addresses, out);
                REACHED
            }
            Self::Ref { reference, number, older, skip, len } => {
                encode_reference(reference, out);
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&skip.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                if let Some(older) = older {
                    out.extend_from_slice(&older.key.0);
                    out.extend_from_slice(&older.secret.0);
                }
                if older.is_some() { REF_OLDER } else { REF }
            }
            Self::Seal { reference, number, spans } => {
                encode_reference(reference, out);
                out.extend_from_slice(&number.to_be_bytes());
                encode_spans(spans, out);
                SEAL
            }
            Self::Run { first, count } => {
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
                RUN
            }
            Self::Slice { number, skip, len } => {
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(&skip.to_be_bytes());
                out.extend_from_slice(&len.to_be_bytes());
                SLICE
            }
            Self::PackedLiteral { len, bytes: _ } => {
                out.extend_from_slice(&len.to_be_bytes());
                PACKED_LITERAL
            }
            Self::PackedData { reference, number, bytes: _ } => {
                encode_reference(reference, out);
                out.extend_from_slice(&number.to_be_bytes());
                PACKED_DATA
            }
            Self::Fin => FIN,
            Self::Reset => RESET,
            Self::Release(credit) => {
                out.extend_from_slice(&credit.to_be_bytes());
                RELEASE
            }
            Self::Fetch { flow, refer, numbers } => {
                out.extend_from_slice(&flow.to_be_bytes());
                out.push(u8::from(*refer));
                encode_numbers(numbers, out);
                FETCH
            }
            Self::Block(number, _) => {
                out.extend_from_slice(&number.to_be_bytes());
                BLOCK
            }
            Self::Gone(number) => {
                out.extend_from_slice(&number.to_be_bytes());
                GONE
            }
            Self::Refer { referral, numbers } => {
                out.extend_from_slice(&referral.node.0);
                out.extend_from_slice(&referral.wait_ms.to_be_bytes());
                encode_addresses(&referral.addresses, out);
                encode_numbers(numbers, out);
                REFER
            }
            Self::Rekey { key, blocks } => {
                out.extend_from_slice(&key.0);
                encode_count(blocks.len(), out);
                for (digest, proof) in blocks {
                    out.extend_from_slice(&digest.0);
                    out.extend_from_slice(proof);
                }
                REKEY
            }
            Self::Rekeyed { key, secrets } => {
                out.extend_from_slice(&key.0);
                encode_count(secrets.len(), out);
                for (secret, proof) in secrets {
                    out.extend_from_slice(&secret.0);
                    out.extend_from_slice(proof);
                }
                REKEYED
            }
        };
        let payload = self.payload().map_or(0, |bytes| bytes.as_ref().len());
        let len =
            u32::try_from(out.len() - start - HEADER_BYTES + payload).expect("frames are far below 4 GiB");
        out[start] = kind;
        out[start + 1..start + HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let Some(payload) = self.payload() {
            out.extend_from_slice(payload.as_ref());
        }
    }
}

const HELLO: u8 = 0x01;
const WELCOME: u8 = 0x02;
const REFUSE: u8 = 0x03;
const PROGRESS: u8 = 0x04;
const KEYS: u8 = 0x05;
const REACHED: u8 = 0x06;
const OPEN: u8 = 0x10;
const OPENED: u8 = 0x11;
const LITERAL: u8 = 0x12;
const DATA: u8 = 0x13;
const REF: u8 = 0x14;
const FIN: u8 = 0x15;
const RESET: u8 = 0x16;
const RELEASE: u8 = 0x17;
const SEAL: u8 = 0x18;
const REF_OLDER: u8 = 0x19;
const RUN: u8 = 0x1a;
const SLICE: u8 = 0x1b;
const PACKED_LITERAL: u8 = 0x1c;
const PACKED_DATA: u8 = 0x1d;
const FETCH: u8 = 0x20;
const BLOCK: u8 = 0x21;
const GONE: u8 = 0x22;
const REFER: u8 = 0x23;
const REKEY: u8 = 0x24;
const REKEYED: u8 = 0x25;

fn payload_bytes_max(kind: u8) -> Option<usize> {
    match kind {
        LITERAL => Some(LITERAL_BYTES_MAX),
        // What is compressed is shorter than what it was.
        PACKED_LITERAL => Some(4 + LITERAL_BYTES_MAX - 1),
        DATA => Some(PAYLOAD_BYTES_MAX),
        PACKED_DATA => Some(PAYLOAD_BYTES_MAX - 1),
        SEAL => Some(REFERENCE_BYTES + 8 + 1 + SEAL_SPAN_BYTES * SEAL_SPANS_MAX),
        BLOCK => Some(8 + BLOCK_BYTES_MAX),
        FETCH => Some(8 + 1 + 2 + 8 * FETCH_NUMBERS_MAX),
        REFER => Some(32 + 4 + 1 + ADDRESS_BYTES_MAX * ADDRESSES_MAX + 2 + 8 * FETCH_NUMBERS_MAX),
        REKEY => Some(8 + 2 + 64 * REKEY_BLOCKS_MAX),
        REKEYED => Some(8 + 2 + 64 * REKEY_BLOCKS_MAX),
        HELLO | WELCOME | REFUSE | PROGRESS | KEYS | REACHED | OPEN | OPENED | REF | REF_OLDER | RUN
        | SLICE | FIN | RESET | RELEASE | GONE => Some(256),
        _ => None,
    }
}

fn payload_of(kind: u8, input: &[u8]) -> IResult<&[u8], Frame<&[u8]>> {
    match kind {
        HELLO => map((be_u16, be_u16, array, be_u8), |(version_min, version_max, store, flags)| {
            let (stores, shares, asks) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            Frame::Hello { version_min, version_max, store, stores, shares, asks }
        })
        .parse(input),
        WELCOME => map((be_u16, be_u64, be_u32, be_u64), |(version, time_ms, flows, retain)| {
            Frame::Welcome { version, time_ms, flows, retain }
        })
        .parse(input),
        REFUSE => map(be_u8, |code| Frame::Refuse(Refusal::from_byte(code))).parse(input),
        PROGRESS => map((be_u64, be_u64, be_u64, be_u64), |(flow, resolved, blocks, credit)| {
            Frame::Progress { flow, resolved, blocks, credit }
        })
        .parse(input),
        OPEN => map((be_u64, address, address, be_u64), |(flow, client, server, credit)| Frame::Open {
            flow,
            client,
            server,
            credit,
        })
        .parse(input),
        OPENED => map((be_u8, be_u64), |(status, credit)| Frame::Opened {
            status: DialStatus::from_byte(status),
            credit,
        })
        .parse(input),
        LITERAL => map(verify(rest, |bytes: &[u8]| !bytes.is_empty()), Frame::Literal).parse(input),
        DATA => map(
            verify((reference, be_u64, rest), |(reference, _, bytes): &(Reference, u64, &[u8])| {
                reference.len as usize == bytes.len()
            }),
            |(reference, number, bytes)| Frame::Data { reference, number, bytes },
        )
        .parse(input),
        PACKED_LITERAL => map_opt((be_u32, rest), |(len, bytes): (u32, &[u8])| {
            let packs = len as usize <= LITERAL_BYTES_MAX && packs(bytes, len);
            packs.then_some(Frame::PackedLiteral { len, bytes })
        })
        .parse(input),
        PACKED_DATA => map_opt((reference, be_u64, rest), |(reference, number, bytes): (_, _, &[u8])| {
            packs(bytes, reference.len).then_some(Frame::PackedData { reference, number, bytes })
        })
        .parse(input),
        KEYS => map((map(array, KeyId), older_key), |(key, older)| Frame::Keys { key, older }).parse(input),
        REACHED => map(addresses, Frame::Reached).parse(input),
        REF => map(slice_of_reference, |(reference, number, skip, len)| Frame::Ref {
            reference,
            number,
            older: None,
            skip,
            len,
        })
        .parse(input),
        REF_OLDER => {
            map((slice_of_reference, array, array), |((reference, number, skip, len), key, secret)| {
                let older = Some(Named { key: KeyId(key), secret: Secret(secret) });
                Frame::Ref { reference, number, older, skip, len }
            })
            .parse(input)
        }
        SEAL => map_opt((reference, be_u64, spans), |(reference, number, spans)| {
            let whole = spans.iter().map(|span| u64::from(span.len)).sum::<u64>() == u64::from(reference.len);
            whole.then_some(Frame::Seal { reference, number, spans })
        })
        .parse(input),
        RUN => map_opt((be_u64, count_to(RUN_BLOCKS_MAX)), |(first, count)| {
            first.checked_add(u64::from(count)).map(|_| Frame::Run { first, count })
        })
        .parse(input),
        SLICE => map_opt((be_u64, be_u32, be_u32), |(number, skip, len)| {
            is_slice(BLOCK_BYTES_MAX as u32, skip, len).then_some(Frame::Slice { number, skip, len })
        })
        .parse(input),
        FIN => Ok((input, Frame::Fin)),
        RESET => Ok((input, Frame::Reset)),
        RELEASE => map(be_u64, Frame::Release).parse(input),
        FETCH => map((be_u64, be_u8, numbers), |(flow, flags, numbers)| Frame::Fetch {
            flow,
            refer: flags & 1 != 0,
            numbers,
        })
        .parse(input),
        BLOCK => map((be_u64, rest), |(number, bytes)| Frame::Block(number, bytes)).parse(input),
        GONE => map(be_u64, Frame::Gone).parse(input),
        REFER => map((array, be_u32, addresses, numbers), |(node, wait_ms, addresses, numbers)| {
            let referral = Referral { node: NodeId(node), wait_ms, addresses };
            Frame::Refer { referral, numbers }
        })
        .parse(input),
        REKEY => map(
            (array, length_count(count_to(REKEY_BLOCKS_MAX), (map(array, Digest), array))),
            |(key, blocks)| Frame::Rekey { key: KeyId(key), blocks },
        )
        .parse(input),
        REKEYED => {
            let named = (map(array, Secret), array);
            map((array, length_count(count_to(REKEY_BLOCKS_MAX), named)), |(key, secrets)| Frame::Rekeyed {
                key: KeyId(key),
                secrets,
            })
            .parse(input)
        }
        _ => Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    }
}

/// A reference with its number and a slice of its block.
fn slice_of_reference(input: &[u8]) -> IResult<&[u8], (Reference, u64, u32, u32)> {
    verify((reference, be_u64, be_u32, be_u32), |(reference, _, skip, len)| {
        is_slice(reference.len, *skip, *len)
    })
    .parse(input)
}

fn is_slice(block_len: u32, skip: u32, len: u32) -> bool {
    len > 0 && skip.checked_add(len).is_some_and(|end| end <= block_len)
}

/// Who compresses does so only where it helps.
fn packs(bytes: &[u8], len: u32) -> bool {
    !bytes.is_empty() && bytes.len() < len as usize
}

fn spans(input: &[u8]) -> IResult<&[u8], Vec<SealSpan>> {
    let span = map_opt((be_u64, be_u32), |(offset, len)| {
        let ends = len > 0 && offset.checked_add(u64::from(len)).is_some();
        ends.then_some(SealSpan { offset, len })
    });
    length_count(verify(be_u8, |count| (1..=SEAL_SPANS_MAX).contains(&usize::from(*count))), span)
        .parse(input)
}

fn older_key(input: &[u8]) -> IResult<&[u8], Option<OlderKey>> {
    let (input, count) = verify(be_u8, |count| *count <= 1).parse(input)?;
    if count == 0 {
        return Ok((input, None));
    }
    map((array, be_u64), |(key, left_ms)| Some(OlderKey { key: KeyId(key), left_ms })).parse(input)
}

/// A number of things, at least one.
fn count_to<'a>(max: usize) -> impl Parser<&'a [u8], Output = u16, Error = nom::error::Error<&'a [u8]>> {
    verify(be_u16, move |count| (1..=max).contains(&usize::from(*count)))
}

fn numbers(input: &[u8]) -> IResult<&[u8], Vec<u64>> {
    length_count(count_to(FETCH_NUMBERS_MAX), be_u64).parse(input)
}

fn addresses(input: &[u8]) -> IResult<&[u8], Vec<SocketAddr>> {
    length_count(verify(be_u8, |count| usize::from(*count) <= ADDRESSES_MAX), address).parse(input)
}

fn array<const N: usize>(input: &[u8]) -> IResult<&[u8], [u8; N]> {
    map_res(take(N), <[u8; N]>::try_from).parse(input)
}

fn reference(input: &[u8]) -> IResult<&[u8], Reference> {
    map(
        (array, array, array, verify(be_u32, |len| (1..=BLOCK_BYTES_MAX).contains(&(*len as usize)))),
        |(digest, secret, key, len)| Reference {
            digest: Digest(digest),
            secret: Secret(secret),
            key: KeyId(key),
            len,
        },
    )
    .parse(input)
}

fn address(input: &[u8]) -> IResult<&[u8], SocketAddr> {
    let (input, family) = be_u8(input)?;
    let (input, ip) = match family {
        4 => map(array::<4>, IpAddr::from).parse(input)?,
        6 => map(array::<16>, IpAddr::from).parse(input)?,
        _ => return Err(nom::Err::Failure(nom::error::Error::new(input, nom::error::ErrorKind::Switch))),
    };
    map(be_u16, |port| SocketAddr::new(ip, port)).parse(input)
}

fn encode_reference(reference: &Reference, out: &mut Vec<u8>) {
    out.extend_from_slice(&reference.digest.0);
    out.extend_from_slice(&reference.secret.0);
    out.extend_from_slice(&reference.key.0);
    out.extend_from_slice(&reference.len.to_be_bytes());
}

fn encode_count(count: usize, out: &mut Vec<u8>) {
    let count = u16::try_from(count).expect("lists are built far below 65,536 entries");
    out.extend_from_slice(&count.to_be_bytes());
}

fn encode_numbers(numbers: &[u64], out: &mut Vec<u8>) {
    encode_count(numbers.len(), out);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

fn encode_addresses(addresses: &[SocketAddr], out: &mut Vec<u8>) {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    out.push(u8::try_from(addresses.len()).expect("at most ADDRESSES_MAX"));
    addresses.iter().for_each(|address| encode_address(address, out));
}

fn encode_spans(spans: &[SealSpan], out: &mut Vec<u8>) {
    out.push(u8::try_from(spans.len()).expect("at most SEAL_SPANS_MAX"));
    for span in spans {
        out.extend_from_slice(&span.offset.to_be_bytes());
        out.extend_from_slice(&span.len.to_be_bytes());
    }
}

fn encode_address(address: &SocketAddr, out: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// An address of IPv6 with its family and port.
const ADDRESS_BYTES_MAX: usize = 1 + 16 + 2;

/// A span of a SEAL.
const SEAL_SPAN_BYTES: usize = 8 + 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_frame_comes_back_from_its_bytes() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let (decoded, taken) = Frame::decode(&bytes).unwrap().expect("the frame is complete");
            assert_eq!(taken, bytes.len(), "{frame:?}");
            assert_eq!(decoded.map(<[u8]>::to_vec), frame);
        }
    }

    #[test]
    fn a_cut_frame_is_incomplete_at_every_byte() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..cut]), Ok(None), "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_from_the_header_alone() {
        let header = [DATA, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Frame::decode(&header), Err(FrameError::TooLong { kind: DATA, len: u32::MAX }));
    }

    #[test]
    fn a_slice_outside_its_block_is_refused() {
        let mut bytes = Vec::new();
        let reference = sample_reference(100);
        Frame::<Vec<u8>>::Ref { reference, number: 0, older: None, skip: 60, len: 41 }.encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed(REF)));
        for (skip, len) in [(0, 0), (BLOCK_BYTES_MAX as u32, 1), (1, BLOCK_BYTES_MAX as u32), (u32::MAX, 2)] {
            refused(Frame::Slice { number: 1, skip, len }, SLICE);
        }
    }

    #[test]
    fn a_run_has_blocks_and_its_numbers_an_end() {
        let most = RUN_BLOCKS_MAX as u16;
        for (first, count) in [(1, 0), (1, most + 1), (u64::MAX - 1, 2), (u64::MAX, 1)] {
            refused(Frame::Run { first, count }, RUN);
        }
    }

    #[test]
    fn a_seal_that_is_not_as_long_as_its_block_is_refused() {
        let span = |offset, len| SealSpan { offset, len };
        let wrong = [
            vec![],
            vec![span(0, 99)],
            vec![span(0, 50), span(70, 51)],
            vec![span(0, 100), span(200, 0)],
            vec![span(u64::MAX - 99, 100)],
            vec![span(0, u32::MAX), span(9, 101)],
        ];
        for spans in wrong {
            refused(Frame::Seal { reference: sample_reference(100), number: 0, spans }, SEAL);
        }
        let (reference, one) = (sample_reference(1 + SEAL_SPANS_MAX as u32), span(0, 1));
        let mut bytes = Vec::new();
        Frame::<Vec<u8>>::Seal { reference, number: 0, spans: vec![one; 1 + SEAL_SPANS_MAX] }
            .encode(&mut bytes);
        assert!(matches!(Frame::decode(&bytes), Err(FrameError::TooLong { kind: SEAL, .. })));
    }

    #[test]
    fn what_compression_made_longer_is_refused() {
        for (len, bytes) in [(4, 4), (4, 0), (0, 0), (LITERAL_BYTES_MAX + 1, 9), (u32::MAX as usize, 9)] {
            let bytes = vec![7; bytes];
            refused(Frame::PackedLiteral { len: u32::try_from(len).unwrap(), bytes }, PACKED_LITERAL);
        }
        for len in [0, 100, 101] {
            let (reference, bytes) = (sample_reference(100), vec![7; len]);
            refused(Frame::PackedData { reference, number: 0, bytes }, PACKED_DATA);
        }
    }

    #[test]
    fn the_longest_frames_are_taken() {
        let reference = sample_reference(BLOCK_BYTES_MAX as u32);
        let span =
            |n: usize| SealSpan { offset: n as u64 * 5000, len: (BLOCK_BYTES_MAX / SEAL_SPANS_MAX) as u32 };
        let longest = [
            Frame::Data { reference, number: u64::MAX, bytes: vec![1; BLOCK_BYTES_MAX] },
            Frame::PackedData { reference, number: u64::MAX, bytes: vec![1; BLOCK_BYTES_MAX - 1] },
            Frame::PackedLiteral { len: LITERAL_BYTES_MAX as u32, bytes: vec![1; LITERAL_BYTES_MAX - 1] },
            Frame::Seal { reference, number: u64::MAX, spans: (0..SEAL_SPANS_MAX).map(span).collect() },
        ];
        for frame in longest {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let (decoded, _) = Frame::decode(&bytes).unwrap().expect("the frame is complete");
            assert!(decoded.map(<[u8]>::to_vec) == frame);
        }
    }

    #[test]
    fn data_whose_length_is_not_its_references_is_refused() {
        let bytes = b"five!".to_vec();
        refused(Frame::Data { reference: sample_reference(4), number: 0, bytes }, DATA);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::decode(&bytes);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_meaning(kind in 0u8..0x30, body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(Some((frame, _))) = Frame::decode(&bytes) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                let (same, _) = Frame::decode(&again).unwrap().expect("complete");
                prop_assert_eq!(same, frame);
            }
        }
    }

    #[track_caller]
    fn refused(frame: Frame<Vec<u8>>, kind: u8) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes), Err(FrameError::Malformed(kind)), "{frame:?}");
    }

    fn sample_reference(len: u32) -> Reference {
        Reference { digest: Digest([1; 32]), secret: Secret([2; 32]), key: KeyId([3; 8]), len }
    }

    fn samples() -> Vec<Frame<Vec<u8>>> {
        let v4 = SocketAddr::from(([10, 1, 0, 7], 50_000));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 445));
        vec![
            Frame::Hello {
                version_min: 1,
                version_max: 3,
                store: [9; 16],
                stores: true,
                shares: false,
                asks: true,
            },
            Frame::Welcome { version: 1, time_ms: 5, flows: 7, retain: 1 << 24 },
            Frame::Refuse(Refusal::Version),
            Frame::Refuse(Refusal::Other(99)),
            Frame::Progress { flow: 1, resolved: 2, blocks: 4, credit: 3 },
            Frame::Open { flow: 1, client: v4, server: v6, credit: 65_536 },
            Frame::Opened { status: DialStatus::Refused, credit: 4 },
            Frame::Literal(b"abc".to_vec()),
            Frame::Data { reference: sample_reference(3), number: 9, bytes: b"abc".to_vec() },
            Frame::PackedLiteral { len: 50, bytes: b"abc".to_vec() },
            Frame::PackedData { reference: sample_reference(50), number: 9, bytes: b"abc".to_vec() },
            Frame::Ref { reference: sample_reference(100), number: 7, older: None, skip: 60, len: 40 },
            Frame::Seal {
                reference: sample_reference(100),
                number: 11,
                spans: vec![SealSpan { offset: 1 << 40, len: 60 }, SealSpan { offset: 5, len: 40 }],
            },
            Frame::Run { first: 1 << 50, count: 256 },
            Frame::Slice { number: 1 << 50, skip: 9, len: 100 },
            Frame::Ref {
                reference: sample_reference(100),
                number: u64::MAX,
                older: Some(Named { key: KeyId([7; 8]), secret: Secret([8; 32]) }),
                skip: 0,
                len: 100,
            },
            Frame::Keys { key: KeyId([3; 8]), older: None },
            Frame::Keys { key: KeyId([3; 8]), older: Some(OlderKey { key: KeyId([4; 8]), left_ms: 9 }) },
            Frame::Reached(Vec::new()),
            Frame::Reached(vec![v4, v6]),
            Frame::Fin,
            Frame::Reset,
            Frame::Release(77),
            Frame::Fetch { flow: 4, refer: true, numbers: vec![1, 5, u64::MAX] },
            Frame::Refer {
                referral: Referral { node: NodeId([6; 32]), wait_ms: 5, addresses: vec![v6] },
                numbers: vec![2, 3],
            },
            Frame::Rekey { key: KeyId([3; 8]), blocks: vec![(Digest([1; 32]), [2; 32])] },
            Frame::Rekeyed {
                key: KeyId([4; 8]),
                secrets: vec![(Secret([5; 32]), [6; 32]), (Secret([7; 32]), [8; 32])],
            },
            Frame::Block(5, b"xyz".to_vec()),
            Frame::Gone(6),
        ]
    }
}
