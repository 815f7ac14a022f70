//! What asking costs: processor time and bytes for each block, at who asks and at who answers, without the kernel.
//!
//! `cargo bench --bench discovery`. A batch is 18 blocks, one datagram; every block is found, which is the dearest case.
//! Virtual time passes between batches, so that no rate limit has a say.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wanigan::addr::NodeId;
use wanigan::block::{Reference, ServerSecret};
use wanigan::discovery::state::{Found, Origin, Output, State, StateSettings};
use wanigan_parsers::discovery::BLOCKS_MAX;

const ROUNDS: u32 = 5_000;
const ROUND_TRIP: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(50);
const TIME_MS: u64 = 1_700_000_000_000;

/// What the two sides spent.
#[derive(Default)]
struct Spent {
    asking: Duration,
    answering: Duration,
    believing: Duration,
    asked_bytes: usize,
    answered_bytes: usize,
    found: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let secret = ServerSecret::new([7; 32]);
    let blocks: Vec<Reference> = (0..BLOCKS_MAX)
        .map(|n| Ok(*named(&secret, u8::try_from(n)?).reference()))
        .collect::<Result<_, std::num::TryFromIntError>>()?;
    let mut now = Instant::now();
    let (mut asker, mut answerer) = (node(1), node(2));
    for state in [&mut asker, &mut answerer] {
        state.handle_time(secret.id(), TIME_MS, now);
    }
    let mut spent = Spent::default();
    for _ in 0..ROUNDS {
        now += PAUSE;
        round(&mut asker, &mut answerer, &blocks, now, &mut spent);
    }
    let all = ROUNDS * u32::try_from(BLOCKS_MAX)?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(all);
    println!("{} of {all} blocks found, {BLOCKS_MAX} a datagram", spent.found);
    println!("ask:     {:6.2} us and {:5.1} bytes a block", each(spent.asking), per(spent.asked_bytes, all));
    println!(
        "answer:  {:6.2} us and {:5.1} bytes a block",
        each(spent.answering),
        per(spent.answered_bytes, all)
    );
    println!("believe: {:6.2} us a block", each(spent.believing));
    if spent.found == all as usize { Ok(()) } else { Err("some blocks were not found".into()) }
}

fn round(asker: &mut State, answerer: &mut State, blocks: &[Reference], now: Instant, spent: &mut Spent) {
    let from = |n: u8| SocketAddr::from(([10, 1, 0, n], 7747));
    let start = Instant::now();
    asker.ask(blocks.to_vec(), ROUND_TRIP, now);
    let asks: Vec<Vec<u8>> = outputs(asker)
        .into_iter()
        .filter_map(|output| if let Output::Ask(bytes) = output { Some(bytes) } else { None })
        .collect();
    spent.asking += start.elapsed();
    let start = Instant::now();
    let mut answers = Vec::new();
    for ask in &asks {
        spent.asked_bytes += ask.len();
        answerer.handle_datagram(from(1), Origin::OnLink, ask, now);
        for output in outputs(answerer) {
            if let Output::LookUp { number, tags, .. } = output {
                let found: Vec<_> = tags
                    .iter()
                    .zip(blocks)
                    .map(|(_, block)| Some(Found { reference: *block, soon: false }))
                    .collect();
                answerer.handle_found(number, &found, 0, now);
            }
        }
        answers.extend(outputs(answerer).into_iter().filter_map(|output| match output {
            Output::Send { bytes, .. } => Some(bytes),
            _ => None,
        }));
    }
    spent.answering += start.elapsed();
    let start = Instant::now();
    for answer in &answers {
        spent.answered_bytes += answer.len();
        asker.handle_datagram(from(2), Origin::OnLink, answer, now);
        for output in outputs(asker) {
            if let Output::Answer { answer, .. } = output {
                spent.found += answer.blocks.len();
            }
        }
    }
    spent.believing += start.elapsed();
}

fn outputs(state: &mut State) -> Vec<Output> {
    std::iter::from_fn(|| state.poll_output()).collect()
}

fn node(n: u8) -> State {
    let settings = StateSettings { id: NodeId([n; 32]), share: true, transfer_port: 7747 };
    let mut drawn = 0_u128;
    let random = move || {
        drawn += 1;
        Some((drawn << 8 | u128::from(n)).to_be_bytes())
    };
    State::new(settings, Box::new(random))
}

fn named(secret: &ServerSecret, fill: u8) -> wanigan::block::Block {
    secret.mint(Bytes::from(vec![fill; 4_096]))
}

fn per(bytes: usize, blocks: u32) -> f64 {
    bytes as f64 / f64::from(blocks)
}
