//! What compression saves and costs: bytes on the link and processor time at both ends, without link and kernel.
//!
//! `cargo bench --bench compression -- FILE`. The file goes as DATA in cells of 64 KiB, credit is reported after each as a
//! receiver would, and the frames' own bytes count. Without a file: 32 MiB at random, which must cost next to nothing.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::IntGauge;
use wanigan::block::ServerSecret;
use wanigan::budget::Budget;
use wanigan::matching::compress::{Packer, Unpacker};
use wanigan::matching::matcher::CELL_BYTES;
use wanigan_parsers::wan::Frame;

/// Bytes a second of a slow line, of one for which zstd has to hurry, and of one that it would only hold up.
const LINES: [u64; 3] = [2_500_000, 100_000_000, 1_000_000_000];

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let content = match file {
        Some(file) => std::fs::read(file)?,
        None => {
            let mut content = vec![0; 32 << 20];
            aws_lc_rs::rand::fill(&mut content).map_err(|_| "no randomness")?;
            content
        }
    };
    let secret = ServerSecret::new([7; 32]);
    let data = |(number, cell): (usize, &[u8])| {
        let block = secret.mint(Bytes::copy_from_slice(cell));
        Frame::Data { reference: *block.reference(), number: number as u64, bytes: block.bytes().clone() }
    };
    let frames: Vec<Frame<Bytes>> = content.chunks(CELL_BYTES).enumerate().map(data).collect();
    for rate in LINES {
        carry(&frames, rate, content.len())?;
    }
    Ok(())
}

fn carry(frames: &[Frame<Bytes>], rate: u64, len: usize) -> Result<(), Box<dyn Error>> {
    let budget = Budget::new(512 << 20, IntGauge::new("used", "bench")?);
    let (mut packer, mut unpacker) = (Packer::new(true, &budget), Unpacker::new(&budget));
    packer.handle_line(rate);
    let (mut packing, mut unpacking, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    let mut wire = Vec::new();
    for frame in frames {
        let _ = packer.handle_credit(unpacker.announce(0));
        let begun = Instant::now();
        let packed = packer.pack(frame.clone());
        packing += begun.elapsed();
        wire.clear();
        packed.encode(&mut wire);
        bytes += wire.len();
        let begun = Instant::now();
        let whole = unpacker.unpack(packed)?;
        unpacking += begun.elapsed();
        if whole != *frame {
            return Err("a frame came out otherwise than it went in".into());
        }
    }
    let speed = |time: Duration| len as f64 / 1e6 / time.as_secs_f64();
    println!(
        "line {:4} MB/s: {bytes} bytes, {:.4} of {len}; pack {:.0} MB/s, unpack {:.0} MB/s",
        rate / 1_000_000,
        bytes as f64 / len as f64,
        speed(packing),
        speed(unpacking),
    );
    Ok(())
}
