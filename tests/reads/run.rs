//! One run: its steps, and what has to hold at each.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use wanigan::metrics::Source;

use crate::client::{Connection, Protocol, Visit, WHOLE, in_time};
use crate::dice::Dice;
use crate::office::{End, Loss, Office};
use crate::seen::Seen;
use crate::truth::{FILE_BYTES_MAX, Truth, content, fresh};

/// Steps of a run.
const STEPS: usize = 40;

/// The files. Their first part says what the web server tells of them; to the file server it is a directory.
pub(crate) const PATHS: [&str; 5] = ["/shared/0", "/shared/1", "/chunked/2", "/private/3", "/untagged/4"];

/// One seed's office and clients.
pub(crate) struct Run {
    pub(crate) dice: Dice,
    pub(crate) truth: Arc<Truth>,
    pub(crate) office: Office,
    /// Connections that are kept, and through which edge they go.
    pub(crate) kept: Vec<(usize, Protocol, Connection)>,
    began: Instant,
    traces: bool,
}

/// What happens while clients read or write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meanwhile {
    Edit,
    /// `None` is the core.
    Restart(Option<usize>, End, Loss),
}

impl Run {
    pub(crate) async fn start(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed_0f0f);
        let truth = Arc::new(Truth::default());
        for path in PATHS {
            let len = 1 + dice.below(FILE_BYTES_MAX);
            truth.write(path, content(len, &mut dice));
        }
        let office = Office::start(&truth, &mut dice).await;
        let traces = std::env::var("WANIGAN_READS_TRACE").is_ok();
        Self { dice, truth, office, kept: Vec::new(), began: Instant::now(), traces }
    }

    pub(crate) async fn run(mut self, seen: &mut Seen) {
        for step in 0..STEPS {
            self.kept.truncate(6);
            match self.dice.below(100) {
                0..40 => self.read(false, seen).await,
                40..48 => self.read(true, seen).await,
                48..65 => self.edit(seen),
                65..76 => self.upload(seen).await,
                76..82 => self.read_in_pieces_and_whole(seen).await,
                82..87 => self.flood().await,
                87..94 => {
                    let (which, end, loss) = self.choose_restart();
                    if end == End::Stop {
                        // What is open would hold it up for its whole deadline.
                        self.kept.clear();
                    }
                    self.restart(which, end, loss, seen).await;
                }
                94..96 if self.office.edges.len() < 3 => {
                    self.trace(format_args!("{step}: another edge"));
                    self.office.add_edge().await;
                }
                _ => {
                    let pause = self.dice.micros(10_000..400_000);
                    self.trace(format_args!("{step}: {pause:?} pass"));
                    sleep(pause).await;
                }
            }
        }
        for path in PATHS {
            let visit = Visit { path: path.to_owned(), asks: vec![None], ..WHOLE };
            self.visit_alone(0, Protocol::Http, visit).await;
        }
        self.kept.clear();
        self.office.stop().await;
        seen.add(&self.office);
    }

    /// Has clients read, all at once; if it is to be, something else happens meanwhile.
    async fn read(&mut self, disturbed: bool, seen: &mut Seen) {
        let meanwhile = disturbed.then(|| self.choose_meanwhile());
        let restarted = matches!(meanwhile, Some(Meanwhile::Restart(..)));
        self.trace(format_args!("read, and meanwhile {meanwhile:?}"));
        let began = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..self.dice.pick(&[1, 1, 2, 4]) {
            let visit = self.choose_visit();
            self.trace(format_args!(
                "  {} in {} parts, {:?}.., {} at a time; hangs up {:?}",
                visit.path,
                visit.asks.len(),
                visit.asks.first(),
                visit.depth,
                visit.hangs_up
            ));
            let (edge, protocol) = self.choose_way();
            let kept = self.take_kept(edge, protocol);
            let (address, truth) = (self.office.address(edge, protocol), Arc::clone(&self.truth));
            clients.push(tokio::spawn(async move {
                let reading = async {
                    let mut connection = match kept {
                        Some(kept) => kept,
                        None => Connection::open(protocol, address).await?,
                    };
                    let is_good = connection.visit(&truth, &visit).await?;
                    // A node that stops waits for who is still connected.
                    Ok((is_good, (is_good && !restarted).then_some((edge, protocol, connection))))
                };
                in_time("a read", reading).await
            }));
            seen.visits += 1;
        }
        if let Some(meanwhile) = meanwhile {
            self.disturb(meanwhile, seen).await;
        }
        for client in clients {
            match client.await.expect("the bytes are right") {
                Ok((is_good, kept)) => {
                    seen.hung_up += u64::from(!is_good);
                    if !restarted {
                        seen.longest = seen.longest.max(began.elapsed());
                    }
                    self.kept.extend(kept);
                }
                Err(error) => {
                    may_break(&error, restarted);
                    seen.broken += 1;
                }
            }
        }
    }

    fn edit(&mut self, seen: &mut Seen) {
        let path = self.dice.pick(&PATHS);
        let (_, old) = self.truth.now(path);
        if self.dice.chance(100) {
            // A rename onto another file, which takes the name of the first.
            let other = self.dice.pick(&PATHS);
            self.trace(format_args!("{path} and {other} change names"));
            let (_, content) = self.truth.now(other);
            self.truth.write(other, old.to_vec());
            self.truth.write(path, content.to_vec());
        } else {
            let new = self.edited(path);
            self.trace(format_args!("edit {path}: {} bytes become {}", old.len(), new.len()));
            self.truth.write(path, new);
        }
        seen.edits += 1;
    }

    /// Writes a file through an edge: in whole, or parts of it in place.
    async fn upload(&mut self, seen: &mut Seen) {
        let path = self.dice.pick(&PATHS);
        let (edge, protocol) = self.choose_way();
        let meanwhile = self.dice.chance(150).then(|| self.choose_meanwhile());
        let meanwhile = meanwhile.filter(|meanwhile| matches!(meanwhile, Meanwhile::Restart(..)));
        self.trace(format_args!("write {path} over {protocol:?}, and meanwhile {meanwhile:?}"));
        let (before, old) = self.truth.now(path);
        let from = self.dice.pick(&PATHS);
        let new = self.edited(from);
        let at = self.dice.below(old.len() + 1);
        let part = new[..new.len().min(1 + self.dice.below(300_000))].to_vec();
        let expected = match protocol {
            Protocol::Http => new.clone(),
            Protocol::Smb => {
                let mut expected = old.to_vec();
                expected.resize(old.len().max(at + part.len()), 0);
                expected[at..at + part.len()].copy_from_slice(&part);
                expected
            }
        };
        let (kept, address) = (self.take_kept(edge, protocol), self.office.address(edge, protocol));
        let mut dice = Dice::new(self.dice.next());
        let writing = tokio::spawn(async move {
            let writing = async {
                let mut connection = match kept {
                    Some(kept) => kept,
                    None => Connection::open(protocol, address).await?,
                };
                let version = match &mut connection {
                    Connection::Http(http) => http.put(path, &new, &mut dice).await?,
                    Connection::Smb(smb) => {
                        smb.open(path, true).await?;
                        smb.write(path, at, &part, &mut dice).await?
                    }
                };
                let kept = meanwhile.is_none().then_some((edge, protocol, connection));
                Ok::<_, io::Error>((version, kept))
            };
            in_time("a write", writing).await
        });
        if let Some(meanwhile) = meanwhile {
            self.disturb(meanwhile, seen).await;
        }
        let written = writing.await.expect("it does not panic");
        let (after, got) = self.truth.now(path);
        match written {
            Ok((version, kept)) => {
                assert_eq!((version, after), (before + 1, before + 1), "{path} was written once");
                self.kept.extend(kept);
            }
            Err(error) => {
                may_break(&error, meanwhile.is_some());
                seen.broken += 1;
                // The request may be still on its way to the server, or the answer lost.
                assert!(after <= before + 1);
            }
        }
        if after > before {
            let wrong = got.iter().zip(&expected).position(|(got, right)| got != right);
            assert_eq!((wrong, got.len()), (None, expected.len()), "{path} was written otherwise");
        }
        seen.uploads += 1;
    }

    /// A new file is read in small pieces, so that its bytes cross as they are and are sealed; what a second reader gets by
    /// reference is that. Then a part is read that is no block.
    async fn read_in_pieces_and_whole(&mut self, seen: &mut Seen) {
        let len = 200_000 + self.dice.below(200_000);
        let size = 1_000 + self.dice.below(20_000);
        self.trace(format_args!("pieces of {size} of a new file of {len}"));
        let path = PATHS[0];
        self.truth.write(path, fresh(len, &mut self.dice));
        self.kept.clear();
        let blocks = |run: &Self, sources: &[Source]| {
            let metrics = run.office.edges[0].metrics();
            sources.iter().map(|source| metrics.block_bytes(*source)).sum::<u64>()
        };
        let others = [Source::Core, Source::Fetch, Source::Peer, Source::Referral];
        let asks = (0..len).step_by(size).map(|at| Some(at..(at + size).min(len))).collect();
        let before = blocks(self, &others);
        let visit = Visit { path: path.to_owned(), asks, ..WHOLE };
        self.visit_alone(0, Protocol::Smb, visit).await;
        if blocks(self, &others) != before {
            return;
        }
        sleep(Duration::from_millis(100)).await;
        let before = blocks(self, &[Source::Store]);
        self.visit_alone(0, Protocol::Smb, Visit { path: path.to_owned(), ..WHOLE.of_all() }).await;
        seen.sealed += blocks(self, &[Source::Store]) - before;
        let (before, part) = (blocks(self, &[Source::Store]), 70_000..75_000);
        let visit = Visit { path: path.to_owned(), asks: vec![Some(part)], ..WHOLE };
        self.visit_alone(0, Protocol::Smb, visit).await;
        seen.sliced += blocks(self, &[Source::Store]) - before;
    }

    /// Has one client read much that is new, so that what was there is evicted.
    async fn flood(&mut self) {
        let len = (2 << 20) + self.dice.below(4 << 20);
        self.trace(format_args!("a flood of {len}"));
        self.truth.write("/shared/flood", fresh(len, &mut self.dice));
        let (edge, protocol) = self.choose_way();
        let visit = Visit { path: "/shared/flood".to_owned(), ..WHOLE.of_all() };
        self.visit_alone(edge, protocol, visit).await;
    }

    /// Has one client read, and nothing else happen.
    pub(crate) async fn visit_alone(&mut self, edge: usize, protocol: Protocol, visit: Visit) {
        let address = self.office.address(edge, protocol);
        let reading = async { Connection::open(protocol, address).await?.visit(&self.truth, &visit).await };
        assert!(in_time("a read", reading).await.expect("nothing breaks"));
    }

    async fn disturb(&mut self, meanwhile: Meanwhile, seen: &mut Seen) {
        sleep(self.dice.micros(0..60_000)).await;
        match meanwhile {
            Meanwhile::Edit => self.edit(seen),
            Meanwhile::Restart(which, end, loss) => {
                self.kept.clear();
                self.restart(which, end, loss, seen).await;
            }
        }
    }

    async fn restart(&mut self, which: Option<usize>, end: End, loss: Loss, seen: &mut Seen) {
        self.trace(format_args!("restart {which:?}: {end:?}, and lost is {loss:?}"));
        let node = match which {
            Some(edge) => {
                seen.edge_restarts += 1;
                &mut self.office.edges[edge]
            }
            None => {
                seen.core_restarts += 1;
                &mut self.office.core
            }
        };
        node.restart(end, loss).await;
        seen.stores_lost += u64::from(loss == Loss::Store);
        self.office.link_up().await;
        self.kept.clear();
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if self.traces {
            println!("{:?} {what}", self.began.elapsed());
        }
    }
}

/// Fails unless this may happen to a client: never an end in good order, and a reset only where a node was restarted.
#[track_caller]
fn may_break(error: &io::Error, restarted: bool) {
    assert!(error.kind() != io::ErrorKind::UnexpectedEof, "a flow that was not complete ended in good order");
    assert!(restarted, "a connection broke, and nothing else had: {error}");
}
