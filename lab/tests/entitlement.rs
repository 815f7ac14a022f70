//! Users who may read less than others, and look for a way around it: their edge is told of no block but those that the
//! server gave them whole, or that belong to the very file and version they may read.
//!
//! Each test has two edges of one site, so that the core could name to one whatever the other holds, and shows with a read
//! that is entitled to it that it would be seen: by the blocks that come from elsewhere because they were named, and by the
//! names of blocks in the edge's memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wanigan_lab::capture::Needles;
use wanigan_lab::clients::steps::{Answer, Steps};
use wanigan_lab::content;
use wanigan_lab::names::{BLOCK, Domain};
use wanigan_lab::node::{Branch, Setup};
use wanigan_lab::scenario;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd, User};
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const WAN: Shape = Shape::new(100, Duration::from_millis(5));
/// Four blocks: so short that the core asks about none.
const LENGTH: usize = 4 * BLOCK;
/// Files of different users begin alike for half a block.
const ALIKE: usize = BLOCK / 2;
const HEAD: usize = 4 << 10;
const SNAPSHOT: &str = "@GMT-2026.01.02-03.04.05";
const HERS: usize = 0;
const HIS: usize = 1;

#[test]
fn a_reader_of_a_files_beginning_learns_no_hash_of_what_was_there_before_or_lies_elsewhere() {
    scenario!(["smbd", "smbpasswd", "lab-python", "nft", "wanigan"], 2, WAN, |lab| {
        let office = Office::open(lab)?;
        let [replaced, elsewhere, own] = [1, 2, 3].map(|seed| content::bytes(seed, LENGTH));
        let secrets = [("plan", &replaced), ("model", &elsewhere), ("own", &own)];
        for (name, secret) in secrets {
            office.smbd.give(name, secret, Some(User::ALICE))?;
        }
        office.read(HERS, &secrets.map(|(name, secret)| live(User::ALICE, name, secret)))?;
        office.expect_refusals(HIS, User::MALLORY, &secrets.map(|(name, _)| name))?;
        let (new, guess) = (begun_alike(&replaced, 4), begun_alike(&elsewhere, 5));
        office.smbd.give("plan", &new, None)?;
        office.smbd.give("guess", &guess, None)?;
        let before = office.named_bytes(HIS)?;
        for length in [HEAD, LENGTH] {
            let files = [("plan", &new), ("guess", &guess)];
            office.read(HIS, &files.map(|(name, file)| live(User::MALLORY, name, &file[..length])))?;
            office.expect_named(HIS, before, 0)?;
        }
        office.expect_unknown(HIS, &[&replaced, &elsewhere])?;
        // What has not changed since is named there to who may read it.
        office.read(HIS, &[live(User::ALICE, "own", &own[..HEAD])])?;
        office.expect_named(HIS, before, HEAD)?;
        office.expect_known(HIS, &own)?;
        office.expect_nothing_went_direct()
    });
}

#[test]
fn a_reader_of_a_file_learns_no_hash_of_its_snapshot_nor_of_the_file_who_reads_the_snapshot() {
    scenario!(["smbd", "smbpasswd", "lab-python", "samba-vfs", "nft", "wanigan"], 2, WAN, |lab| {
        let office = Office::open(lab)?;
        let [was, is, kept, own] = [1, 2, 3, 4].map(|seed| content::bytes(seed, LENGTH));
        let (was_changed, is_changed) = (begun_alike(&was, 5), begun_alike(&is, 6));
        // Of one the old state is secret, of one the new one; two have not changed.
        let (alice, mallory) = (User::ALICE, User::MALLORY);
        for (name, old, reader) in [
            ("was", &was, Some(alice)),
            ("is", &is_changed, None),
            ("kept", &kept, Some(alice)),
            ("own", &own, Some(alice)),
        ] {
            office.smbd.give(name, old, reader)?;
            office.smbd.keep_in_snapshot(SNAPSHOT, name)?;
        }
        office.smbd.give("was", &was_changed, None)?;
        office.smbd.give("is", &is, Some(alice))?;
        let alices = [
            past(alice, "was", &was),
            live(alice, "is", &is),
            live(alice, "kept", &kept),
            past(alice, "own", &own),
        ];
        office.read(HERS, &alices)?;
        office.expect_refusals(HIS, mallory, &["is", "kept", "own"])?;

        let before = office.named_bytes(HIS)?;
        for length in [HEAD, LENGTH] {
            let mallorys =
                [live(mallory, "was", &was_changed[..length]), past(mallory, "is", &is_changed[..length])];
            office.read(HIS, &mallorys)?;
            office.expect_named(HIS, before, 0)?;
        }
        // Even where nothing changed a snapshot is another version.
        office.read(HIS, &[past(alice, "kept", &kept[..HEAD])])?;
        office.expect_named(HIS, before, 0)?;
        office.expect_unknown(HIS, &[&was, &is, &kept])?;
        office.read(HIS, &[past(alice, "own", &own[..HEAD])])?;
        office.expect_named(HIS, before, HEAD)?;
        office.expect_known(HIS, &own)?;
        // The other way round.
        office.read(HERS, &[live(alice, "was", &was_changed), past(alice, "is", &is_changed)])?;
        office.read(HIS, &[past(alice, "was", &was), live(alice, "is", &is)])?;
        office.expect_nothing_went_direct()
    });
}

#[test]
fn another_sessions_handle_reads_nothing_and_names_nothing() {
    scenario!(["smbd", "smbpasswd", "lab-python", "nft", "wanigan"], 2, WAN, |lab| {
        let office = Office::open(lab)?;
        let plan = content::bytes(1, LENGTH);
        let guess = begun_alike(&plan, 2);
        office.smbd.give("plan", &plan, Some(User::ALICE))?;
        office.smbd.give("guess", &guess, Some(User::MALLORY))?;
        office.read(HERS, &[live(User::ALICE, "plan", &plan)])?;

        let before = office.named_bytes(HIS)?;
        let mut steps = Steps::new();
        let hers = steps.open(User::ALICE, "plan");
        let his = steps.open(User::MALLORY, "guess");
        let foreign = [User::MALLORY, User::ALICE];
        foreign.iter().for_each(|tree| steps.read_as(hers, HEAD, User::MALLORY, *tree));
        steps.read(his, HEAD);
        let answers = office.take(HIS, &steps)?;
        answers[..2].iter().try_for_each(Answer::expect_success)?;
        answers[2..4].iter().try_for_each(Answer::expect_refusal)?;
        answers[4].expect(&guess[..HEAD])?;
        office.expect_named(HIS, before, 0)?;
        office.expect_unknown(HIS, &[&plan])?;

        // Among the same sessions she reads by her own handle.
        steps.read(hers, HEAD);
        let answers = office.take(HIS, &steps)?;
        answers[5].expect(&plan[..HEAD])?;
        office.expect_named(HIS, before, HEAD)?;
        office.expect_known(HIS, &plan)?;
        office.expect_nothing_went_direct()
    });
}

/// Returns a file of other bytes after half a block.
fn begun_alike(file: &[u8], seed: u64) -> Vec<u8> {
    [&file[..ALIKE], &content::bytes(seed, file.len() - ALIKE)].concat()
}

/// What is to be read of a file, and by whom.
#[derive(Clone, Copy)]
struct Read<'a> {
    user: User,
    name: &'a str,
    is_past: bool,
    expected: &'a [u8],
}

fn live<'a>(user: User, name: &'a str, expected: &'a [u8]) -> Read<'a> {
    Read { user, name, is_past: false, expected }
}

/// Of the snapshot.
fn past<'a>(user: User, name: &'a str, expected: &'a [u8]) -> Read<'a> {
    Read { is_past: true, ..live(user, name, expected) }
}

/// Two users with an edge each in one site, and their server.
struct Office<'a> {
    lab: &'a Lab,
    smbd: Smbd,
    branch: Branch<'a>,
}

impl<'a> Office<'a> {
    fn open(lab: &'a Lab) -> Result<Self> {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
        [User::ALICE, User::MALLORY].into_iter().try_for_each(|user| smbd.admit(user))?;
        let edges: Vec<_> = [HERS, HIS].into_iter().map(|number| Setup::workstation(lab, number)).collect();
        let branch = Branch::start(lab, &Setup::core(lab), &edges)?;
        Ok(Self { lab, smbd, branch })
    }

    fn take(&self, edge: usize, steps: &Steps) -> Result<Vec<Answer>> {
        steps.run(self.branch.edges[edge].namespace(), self.lab.directory(), LIMIT)
    }

    /// Reads files one after the other on one connection, of each what is expected of it.
    fn read(&self, edge: usize, reads: &[Read<'_>]) -> Result<()> {
        let mut steps = Steps::new();
        for Read { user, name, is_past, expected } in reads {
            let file =
                if *is_past { steps.open_snapshot(SNAPSHOT, *user, name) } else { steps.open(*user, name) };
            steps.read(file, expected.len());
        }
        for (answers, read) in self.take(edge, &steps)?.chunks(2).zip(reads) {
            let Read { user, name, is_past, expected } = read;
            let told = || format!("{} reads {name}, of the snapshot: {is_past}", user.name);
            answers.iter().try_for_each(Answer::expect_success).with_context(told)?;
            answers[1].expect(expected).with_context(told)?;
        }
        Ok(())
    }

    fn expect_refusals(&self, edge: usize, user: User, names: &[&str]) -> Result<()> {
        let mut steps = Steps::new();
        for name in names {
            steps.open(user, name);
        }
        self.take(edge, &steps)?.iter().try_for_each(Answer::expect_refusal)
    }

    /// Returns the bytes that an edge wrote to clients out of blocks which it did not have when they were named to it.
    fn named_bytes(&self, edge: usize) -> Result<u64> {
        let from = |source| {
            self.branch.edges[edge].metric("wanigan_block_bytes_total", &format!("source=\"{source}\""))
        };
        Ok(from("peer")? + from("referral")? + from("fetch")?)
    }

    fn expect_named(&self, edge: usize, before: u64, bytes: usize) -> Result<()> {
        let named = self.named_bytes(edge)? - before;
        ensure!(named == bytes as u64, "{named} bytes were named, not {bytes}");
        Ok(())
    }

    /// Looks whether an edge has any name of the blocks of these files, or bytes that only their readers know.
    fn expect_unknown(&self, edge: usize, files: &[&[u8]]) -> Result<()> {
        let found = self.found(edge, files)?;
        let shown = &found[..found.len().min(5)];
        ensure!(found.is_empty(), "edge {edge} knows {} things, such as {shown:?}", found.len());
        Ok(())
    }

    /// Looks whether an edge has the names of a file's first block. Without that it would say nothing where it has none.
    fn expect_known(&self, edge: usize, file: &[u8]) -> Result<()> {
        let found = self.found(edge, &[file])?;
        for name in ["digest of block 0 of 0", "secret of block 0 of 0", "bytes of 0 at 0"] {
            ensure!(found.iter().any(|found| found == name), "edge {edge} does not know the {name}");
        }
        Ok(())
    }

    fn found(&self, edge: usize, files: &[&[u8]]) -> Result<Vec<String>> {
        let (domain, mut needles) = (Domain::of_core(self.branch.core.state())?, Needles::new());
        for (nth, file) in files.iter().enumerate() {
            needles.add_pieces(&format!("bytes of {nth}"), &file[ALIKE..], 512);
            for (number, block) in file.chunks(BLOCK).enumerate() {
                let (names, block) = (domain.names(block), format!("block {number} of {nth}"));
                needles.add(&format!("digest of {block}"), &names.digest);
                needles.add(&format!("secret of {block}"), &names.secret.context("the core has a secret")?);
            }
        }
        let dump = self.lab.path("memory");
        self.branch.edges[edge].dump_memory(&dump)?;
        needles.find_in(&dump)
    }

    /// Right bytes say little if they did not come through the edges.
    fn expect_nothing_went_direct(&self) -> Result<()> {
        for edge in &self.branch.edges {
            let direct = edge.metric("wanigan_flows_direct_total", "")?;
            ensure!(direct == 0, "{direct} connections went direct");
        }
        Ok(())
    }
}
