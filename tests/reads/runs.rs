//! What is run: anything, and a case in which more is known of how it must go.

use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use crate::client::{Connection, Protocol, Visit, WHOLE};
use crate::office::{End, Loss};
use crate::run::Run;
use crate::seen::Seen;
use crate::truth::fresh;

#[test]
fn whatever_is_read_edited_restarted_and_evicted_the_bytes_are_right() {
    let mut seen = Seen::default();
    let seeds = seeds();
    for seed in seeds.clone() {
        let _told = Told(seed);
        let began = Instant::now();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { Run::start(seed).await.run(&mut seen).await });
        println!("seed {seed}: {:?}", began.elapsed());
    }
    println!("{seen:#?}");
    if seeds.clone().count() >= SEEDS.count() {
        seen.everything();
    }
}

#[test]
fn an_edge_that_crashed_and_is_back_waits_for_nothing_that_its_old_link_carried() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::start(0).await;
        run.truth.write("/shared/0", fresh(8 << 20, &mut run.dice));
        // Its client takes a little, so that the rest of what credit there is stays on its way.
        let limit = Some((1_000, true));
        let part = Visit { path: "/shared/0".to_owned(), hangs_up: limit, ..WHOLE.of_all() };
        let address = run.office.address(0, Protocol::Http);
        let mut connection = Connection::open(Protocol::Http, address).await.unwrap();
        assert!(!connection.visit(&run.truth, &part).await.unwrap());
        run.office.edges[0].restart(End::Crash, Loss::Store).await;
        run.office.link_up().await;
        let back = Instant::now();
        run.visit_alone(0, Protocol::Http, Visit { hangs_up: None, ..part }).await;
        // It takes ten seconds until the core gives the old link up.
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        drop(connection);
    });
}

/// The seeds of every run.
const SEEDS: Range<u64> = 0..4;

/// Returns the seeds of every run, or those that `WANIGAN_READS_SEEDS=FROM..TO` names. `WANIGAN_READS_TRACE=1` tells what
/// happens in them.
fn seeds() -> Range<u64> {
    match std::env::var("WANIGAN_READS_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("FROM..TO");
            from.parse().expect("a number")..to.parse().expect("a number")
        }
        Err(_) => SEEDS,
    }
}

/// Tells which seed failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0}: run it again with WANIGAN_READS_SEEDS={0}..{1}", self.0, self.0 + 1);
        }
    }
}
