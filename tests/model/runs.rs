//! What is run: anything, and cases in which more is known of how it must go.

use std::time::Duration;

use crate::dice::Dice;
use crate::edge::Lie;
use crate::world::{Event, Op, Settings, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn whatever_happens_every_read_completes_and_nothing_is_given_without_proof() {
    let (mut flows, mut completed, mut by_peers, mut by_cores, mut longest) = (0, 0, 0, 0, Duration::ZERO);
    let mut numbered = 0;
    for seed in seeds() {
        let world = anything(seed);
        flows += world.opened;
        completed += world.completed;
        by_peers += world.delivered[0];
        by_cores += world.delivered[1];
        longest = longest.max(world.longest);
        numbered += world.numbered;
    }
    println!(
        "{flows} flows, {completed} whole; wants met by others {by_peers}, by cores {by_cores}; {longest:?}; {numbered} blocks named by number"
    );
}

/// Returns the seeds of every run, or those that `WANIGAN_MODEL_SEEDS=FROM..TO` names. `WANIGAN_MODEL_TRACE=1` tells what
/// happens in them.
fn seeds() -> Vec<u64> {
    match std::env::var("WANIGAN_MODEL_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("FROM..TO");
            (from.parse().expect("a number")..to.parse().expect("a number")).collect()
        }
        Err(_) => (0..300).collect(),
    }
}

/// Tells which seed failed.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn anything(seed: u64) -> World {
    let _told = Told(seed);
    let mut dice = Dice::new(seed ^ 0x5eed);
    let dice = &mut dice;
    let (bad, fetch_fails) = (dice.below(3), [0, 0, 50][dice.below(3)]);
    let settings = Settings {
        edges: 2 + dice.below(5),
        cores: 1 + dice.below(2),
        lans: 1 + u8::from(dice.chance(300)),
        files: 3,
        blocks: dice.pick(&[8, 24, 60]),
        lost: [0, 50, 300][bad],
        doubled: [0, 50, 200][bad],
        late: [0, 20, 100][bad],
        changed: [0, 20, 100][bad],
        ill: [0, 200, 600][dice.below(3)],
        slow: Duration::ZERO,
        fetch_fails,
        held_up: [0, 10, 50][dice.below(3)],
        // Where a core refuses, a peer that owes the block is waited for to the end.
        patience: if fetch_fails == 0 { 10 * SECOND } else { 15 * SECOND },
    };
    let mut world = World::new(settings, seed);
    for at in 0..settings.edges {
        world.edges[at].round_trip = dice.micros(4_000..80_000);
        if dice.chance(150) {
            world.edges[at].set_sharing(false, dice);
        }
        if dice.chance(250) {
            world.edges[at].lie =
                dice.pick(&[Lie::Forges, Lie::Denies, Lie::Withholds, Lie::Boasts, Lie::Promises]);
        }
    }
    world.begin();
    if dice.chance(700) {
        world.after(10 * MS, Event::Mischief);
    }
    world.run(script(settings, dice));
    world
}

fn script(settings: Settings, dice: &mut Dice) -> Vec<(Duration, Op)> {
    let mut script = Vec::new();
    let last = 8_000_000;
    for _ in 0..3 + dice.below(10) {
        let (mut at, file) = (dice.micros(1_000..last), dice.below(settings.files));
        let from = dice.below(settings.blocks);
        let count = 1 + dice.below(settings.blocks - from);
        // Often several edges read the same about the same time, or one edge for several clients.
        let (together, all_at) = (dice.chance(400), dice.below(settings.edges));
        for _ in 0..[1, 1, 2, 4][dice.below(4)] {
            let edge = if together { all_at } else { dice.below(settings.edges) };
            let core = dice.below(settings.cores);
            let soon = if dice.chance(500) { 150_000 } else { 2_000_000 };
            let hangs_up = dice.chance(200).then(|| dice.micros(1_000..soon));
            script.push((at, Op::Read { edge, core, file, from, count, hangs_up }));
            at += dice.micros(1..if together { 30_000 } else { 300_000 });
        }
    }
    for _ in 0..dice.below(6) {
        let (at, edge) = (dice.micros(1_000..last), dice.below(settings.edges));
        let (silent, core) = (dice.chance(500), dice.below(settings.cores));
        let op = match dice.below(5) {
            0 => Op::Kill { edge, silent, back: dice.micros(200_000..4_000_000) },
            1 => Op::BreakLink { edge, core },
            2 => Op::BreakConnections { edge, silent },
            _ => Op::Evict { edge, per_mille: dice.pick(&[100, 500, 1_000]) },
        };
        script.push((at, op));
    }
    if dice.chance(300) {
        let at = dice.micros(1_000..last / 2);
        script.push((at, Op::Rotate { secret: 9 }));
        for edge in 0..settings.edges {
            script.push((at + dice.micros(1_000_000..2_000_000), Op::Renew { edge, core: 0 }));
        }
        script.push((at + dice.micros(2_000_000..6_000_000), Op::Expire));
    }
    script
}

/// A quiet LAN of honest edges with one core.
fn quiet(edges: usize, blocks: usize, patience: Duration) -> Settings {
    Settings { edges, cores: 1, lans: 1, files: 1, blocks, patience, ..Settings::default() }
}

fn read(edge: usize, at: Duration, count: usize) -> (Duration, Op) {
    (at, Op::Read { edge, core: 0, file: 0, from: 0, count, hangs_up: None })
}

#[test]
fn a_second_edges_first_read_costs_the_wan_no_block() {
    for seed in 0..20 {
        let _told = Told(seed);
        let mut world = World::new(quiet(2, 60, SECOND), seed);
        world.begin();
        world.run(vec![read(0, MS, 60), read(1, 10 * SECOND, 60)]);
        let file: usize = world.truth.files[0].iter().map(|block| block.len()).sum();
        assert_eq!(world.truth.wan_bytes, file);
        assert_eq!((world.completed, world.from_peers), (2, 60));
    }
}

#[test]
fn what_an_edge_reads_again_over_one_link_is_named_by_number() {
    for seed in 0..20 {
        let _told = Told(seed);
        let mut world = World::new(quiet(1, 60, SECOND), seed);
        world.begin();
        world.run(vec![
            read(0, MS, 60),
            read(0, 10 * SECOND, 60),
            (20 * SECOND, Op::BreakLink { edge: 0, core: 0 }),
            read(0, 21 * SECOND, 60),
            read(0, 30 * SECOND, 60),
        ]);
        assert_eq!((world.completed, world.numbered), (4, 2 * 60), "a new link has no numbers yet");
        let file: usize = world.truth.files[0].iter().map(|block| block.len()).sum();
        assert_eq!(world.truth.wan_bytes, file);
    }
}

#[test]
fn edges_that_open_a_new_file_at_once_cost_the_wan_little_more_than_one_copy() {
    for seed in 0..30 {
        let _told = Told(seed);
        let mut dice = Dice::new(seed);
        let edges = 2 + dice.below(7);
        let mut world = World::new(quiet(edges, 60, 5 * SECOND), seed);
        for edge in &mut world.edges {
            edge.round_trip = dice.micros(10_000..60_000);
        }
        world.begin();
        let script = (0..edges).map(|edge| read(edge, dice.micros(1_000..900_000), 60)).collect();
        world.run(script);
        let file: usize = world.truth.files[0].iter().map(|block| block.len()).sum();
        let copies = world.truth.wan_bytes as f64 / file as f64;
        assert!(copies <= 1.3, "{edges} edges took {copies} copies");
        assert_eq!(world.completed, edges);
    }
}

#[test]
fn a_peer_that_dies_falls_silent_or_lies_costs_about_a_second() {
    let lies = [Lie::None, Lie::Forges, Lie::Denies, Lie::Withholds, Lie::Boasts, Lie::Promises];
    for seed in 0..120 {
        let _told = Told(seed);
        let mut dice = Dice::new(seed);
        let round_trip = 40 * MS;
        let lie = dice.pick(&lies);
        // Who promises a block is believed for a second.
        let more = if lie == Lie::Promises { 400 * MS } else { Duration::ZERO };
        let mut world = World::new(quiet(3, 60, SECOND + 3 * round_trip + more), seed);
        world.edges.iter_mut().for_each(|edge| edge.round_trip = round_trip);
        world.edges[0].lie = lie;
        world.begin();
        let mut script = vec![read(0, MS, 60), read(1, 10 * SECOND, 60), read(2, 10 * SECOND + 5 * MS, 60)];
        let (at, silent) = (10 * SECOND + dice.micros(30_000..120_000), dice.chance(500));
        script.push(match dice.below(3) {
            0 => (at, Op::Kill { edge: 0, silent, back: 5 * SECOND }),
            1 => (at, Op::BreakConnections { edge: 0, silent }),
            _ => (at, Op::Evict { edge: 0, per_mille: 1_000 }),
        });
        world.run(script);
        assert_eq!(world.completed, 3);
    }
}

#[test]
fn a_client_that_hangs_up_leaves_its_peers_room_to_others() {
    for seed in 0..40 {
        let _told = Told(seed);
        let mut dice = Dice::new(seed);
        let slow = Settings { slow: 100 * MS, ..quiet(2, 120, 8 * SECOND) };
        let mut world = World::new(slow, seed);
        world.begin();
        let part = |at: Duration, from: usize, hangs_up: Option<Duration>| {
            (at, Op::Read { edge: 1, core: 0, file: 0, from, count: 60, hangs_up })
        };
        let hangs_up = Some(dice.micros(100_000..900_000));
        let second = 10 * SECOND + dice.micros(1..40_000);
        world.run(vec![read(0, MS, 120), part(10 * SECOND, 0, hangs_up), part(second, 60, None)]);
        assert_eq!((world.opened, world.completed), (3, 2));
    }
}

#[test]
fn a_peer_that_trickles_is_helped_by_the_core() {
    for seed in 0..20 {
        let _told = Told(seed);
        let each = Dice::new(seed).micros(100_000..390_000);
        let mut world = World::new(Settings { slow: each, ..quiet(2, 60, 5 * SECOND) }, seed);
        world.begin();
        world.run(vec![read(0, MS, 60), read(1, 10 * SECOND, 60)]);
        assert_eq!(world.completed, 2);
    }
}
