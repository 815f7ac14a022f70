//! Blocks from wherever they can be had: the own store, then peers, then the core.
//!
//! A flow has [`Blocks`], which looks into the store, and [`FlowFetches`], which brings what the store does not have.
//! Behind them is one owner for all flows of an edge, a task: it does what the [`Plan`] decides, so that a block is
//! fetched once however many flows wait for it. What comes is verified before anybody sees it, kept in the store,
//! and given to peers that wait for it. A shared fetch belongs to no flow: one that ends leaves it to the others.
//!
//! A node without a [`Lan`] of peers asks the core alone. A core has an owner for each of its edges
//! ([`Blocks::of_uploads`]): what an upload refers to and the core's store does not have comes from that very edge.
//!
//! Bounded: a flow wants at most [`WANTS_MAX`] blocks at a time, events wait in channels of fixed length, and what a
//! block occupies is reserved by the flow before it asks.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use tracing::debug;

pub mod plan;

use self::plan::{Action, CoreAnswer, EntryId, FlowKey, Plan, Want};
use crate::addr::NodeId;
use crate::block::{Block, Digest, Hashed, KeyId, Named, Reference, ServerSecret, Tag, tag};
use crate::discovery::{self, Discovery};
use crate::drain::Drain;
use crate::fault::GetOutcome;
use crate::metrics::{Metrics, Source};
use crate::peer::{GetError, Peers, Waiting};
use crate::store::Store;
use crate::wan::{FetchAnswer, Link};

/// Blocks that a flow may want at a time.
pub const WANTS_MAX: usize = 128;

/// An edge's neighbours: who is asked, who gives, who waits.
#[derive(Clone)]
pub struct Lan {
    /// Asks.
    pub discovery: Discovery,
    /// Gets.
    pub peers: Peers,
    /// Requests of peers for blocks that are on their way here.
    pub waiting: Waiting,
    /// What peers are told of those.
    pub soon: Arc<Soon>,
}

/// Where the blocks of a node are. Clones are the same.
#[derive(Clone)]
pub struct Blocks {
    store: Store,
    /// Names what this edge's clients uploaded, in its own store and nowhere else.
    own: Option<ServerSecret>,
    fetcher: Option<Fetcher>,
}

/// The handle of the task that fetches.
#[derive(Clone)]
struct Fetcher {
    inbox: mpsc::Sender<Event>,
    lan: Option<Lan>,
    /// Blocks that are being looked for; without any, arriving blocks need not be told of.
    wanted: Arc<AtomicUsize>,
    next_flow: Arc<AtomicU64>,
    tasks: Drain,
}

/// What a flow's store does not have comes through here. Dropped with the flow, and then nothing is fetched for it.
pub struct FlowFetches {
    fetcher: Option<Fetcher>,
    key: FlowKey,
    link: Link,
    flow: u64,
    sender: mpsc::Sender<Fetched>,
    /// What came: a block with its source, or `None` where nobody has it.
    pub fetched: mpsc::Receiver<Fetched>,
    used: bool,
}

/// What became of a number that a flow wanted.
pub type Fetched = (u64, Option<(Block, Source)>);

/// A block is on its way from the core: its tag, for peers that ask.
#[derive(Debug, Default)]
pub struct Soon(Mutex<HashMap<(KeyId, Tag), Reference>>);

enum Event {
    Want { flow: FlowKey, port: Port, wants: Vec<Want> },
    End(FlowKey),
    Arrived(Block),
}

impl Event {
    fn wants(self) -> Option<Vec<Want>> {
        match self {
            Self::Want { wants, .. } => Some(wants),
            Self::End(_) | Self::Arrived(_) => None,
        }
    }
}

/// A flow as the fetcher sees it.
#[derive(Clone)]
struct Port {
    link: Link,
    flow: u64,
    replies: mpsc::Sender<Fetched>,
}

impl Blocks {
    /// Starts the task of a core that fetches from one edge what its uploads refer to. It ends with the last handle.
    ///
    /// Each edge has its own, so that one that is slow or lies is waited for by its own flows alone.
    #[must_use]
    pub fn of_uploads(own: NodeId, store: Store, metrics: Metrics, tasks: &Drain) -> Self {
        Self::with_plan(Plan::of_uploads(own), store, None, metrics, tasks)
    }

    /// Starts the task that fetches what the store does not have. Beside the LAN is what comes of its asks there.
    #[must_use]
    pub fn start(
        own: NodeId,
        store: Store,
        lan: Option<(Lan, mpsc::Receiver<discovery::Event>)>,
        metrics: Metrics,
        tasks: &Drain,
    ) -> Self {
        Self::with_plan(Plan::new(own), store, lan, metrics, tasks)
    }

    fn with_plan(
        plan: Plan,
        store: Store,
        lan: Option<(Lan, mpsc::Receiver<discovery::Event>)>,
        metrics: Metrics,
        tasks: &Drain,
    ) -> Self {
        // Where nobody is asked, nobody answers.
        let (lan, answers) =
            lan.map_or_else(|| (None, mpsc::channel(1).1), |(lan, answers)| (Some(lan), answers));
        let (inbox, events) = mpsc::channel(EVENTS);
        let wanted = Arc::new(AtomicUsize::new(0));
        let (core, core_answers) = mpsc::channel(CORE_ANSWERS);
        let owner = Owner {
            plan,
            flows: HashMap::new(),
            gets: JoinSet::new(),
            running: HashMap::new(),
            looks: JoinSet::new(),
            store: store.clone(),
            lan: lan.clone(),
            core,
            wanted: wanted.clone(),
            metrics,
            tasks: tasks.clone(),
        };
        tasks.spawn("fetcher", owner.run(events, answers, core_answers));
        let next_flow = Arc::new(AtomicU64::new(0));
        let fetcher = Fetcher { inbox, lan, wanted, next_flow, tasks: tasks.clone() };
        Self { store, own: None, fetcher: Some(fetcher) }
    }

    /// Finds what clients uploaded too, which the store has under a secret of its own.
    #[must_use]
    pub fn with_uploads(self, own: ServerSecret) -> Self {
        Self { own: Some(own), ..self }
    }

    /// Returns the block if it is in memory.
    #[must_use]
    pub fn find_now(&self, want: &Want) -> Option<Block> {
        self.store.get_now(&want.reference)
    }

    /// Returns a block by its digest alone if it is in memory, to be compared with bytes that were just read.
    #[must_use]
    pub fn peek_now(&self, digest: &Digest, len: u32) -> Option<Hashed> {
        self.store.get_digest_now(digest, len).map(Hashed::from)
    }

    /// Returns a block by its digest alone, to be compared with bytes that were just read.
    pub async fn peek(&self, digest: &Digest, len: u32) -> Option<Hashed> {
        self.store.get_digest(digest, len).await.map(Hashed::from)
    }

    /// Returns whether the store may have a block that it did not give.
    #[must_use]
    pub fn may_have(&self, digest: &Digest) -> bool {
        self.store.may_have_digest(digest)
    }

    /// Returns whether the store's disk does not answer.
    #[must_use]
    pub fn disk_hangs(&self) -> bool {
        self.store.disk_hangs()
    }

    /// Returns the block if the store has it: under its name, its older one, or as an upload.
    pub async fn find(&self, want: &Want) -> Option<Block> {
        if let Some(block) = self.store.get(&want.reference).await {
            return Some(block);
        }
        let own = self.own.as_ref().map(|own| own.name(&want.reference.digest));
        for named in want.older.into_iter().chain(own) {
            if let Some(block) = self.find_under(want, named).await {
                return Some(block);
            }
        }
        None
    }

    async fn find_under(&self, want: &Want, named: Named) -> Option<Block> {
        let other = want.reference.under(named);
        let block = self.store.get(&other).await?.under(want.reference)?;
        self.store.adopt(&other, &want.reference);
        Some(block)
    }

    /// Keeps a block that came, for this node's flows and for peers.
    pub fn keep(&self, block: Block) {
        let fetcher = self.fetcher.as_ref();
        keep(&self.store, fetcher.and_then(|fetcher| fetcher.lan.as_ref()), block.clone());
        if let Some(fetcher) = fetcher.filter(|fetcher| fetcher.wanted.load(Ordering::Relaxed) > 0) {
            // Without room for the news it is found in the store a little later.
            let _ = fetcher.inbox.try_send(Event::Arrived(block));
        }
    }

    /// Prepares a flow to fetch.
    #[must_use]
    pub fn flow(&self, link: Link, flow: u64) -> FlowFetches {
        let (sender, fetched) = mpsc::channel(WANTS_MAX);
        let next = |fetcher: &Fetcher| fetcher.next_flow.fetch_add(1, Ordering::Relaxed);
        let key = FlowKey(self.fetcher.as_ref().map_or(0, next));
        FlowFetches { fetcher: self.fetcher.clone(), key, link, flow, sender, fetched, used: false }
    }
}

/// Keeps a block, and only then tells who waits: a request that begins to wait meanwhile finds it in the store.
fn keep(store: &Store, lan: Option<&Lan>, block: Block) {
    store.put(block.clone());
    if let Some(lan) = lan {
        lan.waiting.handle_block(&block);
    }
}

impl FlowFetches {
    /// Wants blocks; each comes out of [`FlowFetches::fetched`]. Returns what to await before the next call.
    pub fn want(&mut self, wants: Vec<Want>) -> impl Future<Output = ()> + Send + 'static {
        let (sender, flow) = (self.sender.clone(), self.key);
        let port = Port { link: self.link.clone(), flow: self.flow, replies: sender };
        let inbox = self.fetcher.as_ref().map(|fetcher| fetcher.inbox.clone());
        self.used |= inbox.is_some();
        async move {
            let replies = port.replies.clone();
            // A node that fetches nothing cannot be told of blocks by name.
            let refused = match inbox {
                Some(inbox) => {
                    let taken = inbox.send(Event::Want { flow, port, wants }).await;
                    taken.err().and_then(|mpsc::error::SendError(event)| event.wants())
                }
                None => Some(wants),
            };
            for want in refused.unwrap_or_default() {
                let _ = replies.send((want.number, None)).await;
            }
        }
    }
}

impl Drop for FlowFetches {
    fn drop(&mut self) {
        if let Some(fetcher) = self.fetcher.take().filter(|_| self.used) {
            let key = self.key;
            fetcher.tasks.clone().spawn("flow's end", async move {
                let _ = fetcher.inbox.send(Event::End(key)).await;
            });
        }
    }
}

impl Soon {
    /// Returns the block of a tag if it is on its way from the core.
    #[must_use]
    pub fn find(&self, key: KeyId, tag: Tag) -> Option<Reference> {
        self.lock().get(&(key, tag)).copied()
    }

    fn add(&self, reference: &Reference) {
        self.lock().insert((reference.key, tag(reference)), *reference);
    }

    fn remove(&self, reference: &Reference) {
        self.lock().remove(&(reference.key, tag(reference)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(KeyId, Tag), Reference>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that fetches.
struct Owner {
    plan: Plan,
    flows: HashMap<FlowKey, Port>,
    gets: JoinSet<Got>,
    running: HashMap<(EntryId, NodeId), AbortHandle>,
    looks: JoinSet<Option<Block>>,
    store: Store,
    lan: Option<Lan>,
    core: mpsc::Sender<(FlowKey, u64, CoreAnswer)>,
    wanted: Arc<AtomicUsize>,
    metrics: Metrics,
    tasks: Drain,
}

/// What came of a request.
struct Got {
    entry: EntryId,
    peer: NodeId,
    result: Result<Block, GetError>,
}

impl Owner {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut answers: mpsc::Receiver<discovery::Event>,
        mut core: mpsc::Receiver<(FlowKey, u64, CoreAnswer)>,
    ) {
        loop {
            let wakeup = self.plan.poll_timeout();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle_event(event),
                    // Every flow and the edge are gone.
                    None => return,
                },
                Some(event) = answers.recv() => self.handle_discovery(event),
                Some((flow, number, answer)) = core.recv() => {
                    self.plan.handle_core(flow, number, answer, Instant::now());
                }
                // A request that was given up is no result; a panic was printed and is none either.
                Some(joined) = self.gets.join_next() => if let Ok(got) = joined { self.handle_got(got) },
                Some(joined) = self.looks.join_next() => if let Ok(Some(block)) = joined {
                    self.plan.handle_arrived(&block, Instant::now());
                },
                () = until(wakeup) => self.plan.handle_timeout(Instant::now()),
            }
            while let Some(action) = self.plan.poll_action() {
                self.act(action);
            }
            self.wanted.store(self.plan.len(), Ordering::Relaxed);
        }
    }

    fn handle_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Want { flow, port, wants } => {
                self.flows.entry(flow).or_insert(port);
                self.plan.handle_want(flow, &wants, now);
            }
            Event::End(flow) => {
                self.flows.remove(&flow);
                self.plan.forget_flow(flow, now);
            }
            Event::Arrived(block) => self.plan.handle_arrived(&block, now),
        }
    }

    fn handle_discovery(&mut self, event: discovery::Event) {
        let now = Instant::now();
        match event {
            discovery::Event::Answer(answer) => self.plan.handle_answer(&answer, now),
            discovery::Event::NotAsked(blocks) => self.plan.handle_asked(&blocks, None, now),
        }
    }

    fn handle_got(&mut self, got: Got) {
        let Got { entry, peer, result } = got;
        self.running.remove(&(entry, peer));
        if let Err(error) = &result {
            debug!(?peer, error = error as &dyn std::error::Error, "a peer gave no block");
        }
        self.plan.handle_got(entry, peer, result.map_err(outcome), Instant::now());
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask(blocks) => {
                let round_trip = self.round_trip();
                let asked = self.lan.as_ref().and_then(|lan| lan.discovery.ask(blocks.clone(), round_trip));
                self.plan.handle_asked(&blocks, asked, Instant::now());
            }
            Action::Get { entry, peer, addresses, names, wait } => {
                self.get(entry, peer, addresses, names, wait);
            }
            Action::Look(reference) => {
                let store = self.store.clone();
                // A disk that hangs must not gather questions.
                let look = async move { timeout(LOOK_DEADLINE, store.get(&reference)).await.ok().flatten() };
                self.looks.spawn(look);
            }
            Action::Cancel { entry, peer } => {
                if let Some(running) = self.running.remove(&(entry, peer)) {
                    running.abort();
                    self.metrics.peers.count_get(GetOutcome::Late);
                }
            }
            Action::Fetch { flow, refer, wanted } => self.fetch(flow, refer, wanted),
            Action::Keep(block) => {
                keep(&self.store, self.lan.as_ref(), block);
            }
            Action::Deliver { flow, number, block } => {
                if let Some(port) = self.flows.get(&flow) {
                    // There is room for all that a flow may want; one that has ended wants nothing.
                    let _ = port.replies.try_send((number, block));
                }
            }
        }
    }

    fn get(
        &mut self,
        entry: EntryId,
        peer: NodeId,
        addresses: Vec<SocketAddr>,
        names: Vec<Reference>,
        wait: Duration,
    ) {
        let Some(Lan { peers, .. }) = self.lan.clone() else {
            // Referred to a neighbour, though this node speaks to none.
            return self.plan.handle_got(entry, peer, Err(GetOutcome::Lost), Instant::now());
        };
        let running = self.gets.spawn(async move {
            let result = get(&peers, peer, &addresses, &names, wait).await;
            Got { entry, peer, result }
        });
        self.running.insert((entry, peer), running);
    }

    fn fetch(&mut self, flow: FlowKey, refer: bool, wanted: Vec<(u64, Reference)>) {
        let Some(port) = self.flows.get(&flow).cloned() else { return };
        debug!(
            blocks = wanted.len(),
            refer, "the other side of the link is asked for blocks that are not here"
        );
        let soon = self.lan.as_ref().filter(|_| !refer).map(|lan| lan.soon.clone());
        if let Some(soon) = &soon {
            wanted.iter().for_each(|(_, reference)| soon.add(reference));
        }
        let (core, metrics, tasks) = (self.core.clone(), self.metrics.clone(), self.tasks.clone());
        // It serves every flow that waits, so it does not end with the one it is made for.
        self.tasks.spawn("fetch", async move {
            let left = wanted.iter().copied().collect();
            FromCore { flow, port, core, metrics, left, tasks }.run(refer).await;
            if let Some(soon) = soon {
                wanted.iter().for_each(|(_, reference)| soon.remove(reference));
            }
        });
    }

    /// Returns the shortest round trip to a core: how long asking the neighbours may take is measured by it.
    fn round_trip(&self) -> Duration {
        self.flows.values().map(|port| port.link.rtt()).min().unwrap_or_default()
    }
}

/// One FETCH and its answers.
struct FromCore {
    flow: FlowKey,
    port: Port,
    core: mpsc::Sender<(FlowKey, u64, CoreAnswer)>,
    metrics: Metrics,
    /// What was not answered yet.
    left: BTreeMap<u64, Reference>,
    tasks: Drain,
}

impl FromCore {
    async fn run(mut self, refer: bool) {
        let numbers = self.left.keys().copied().collect();
        let (sender, mut answers) = mpsc::channel(ANSWERS);
        let Port { link, flow, .. } = self.port.clone();
        let fetching = async move {
            let fetched = link.fetch(flow, refer, numbers, &sender).await;
            drop(sender);
            fetched
        };
        let taking = async {
            while let Some((number, answer)) = answers.recv().await {
                let Some(reference) = self.left.get(&number).copied() else { continue };
                let answer = self.verify(reference, answer);
                let _ = self.core.send((self.flow, number, answer)).await;
                self.left.remove(&number);
            }
        };
        let (fetched, ()) = tokio::join!(fetching, taking);
        if let Err(error) = fetched {
            debug!(error = &error as &dyn std::error::Error, "fetch failed");
        }
    }

    fn verify(&self, reference: Reference, answer: FetchAnswer) -> CoreAnswer {
        match answer {
            FetchAnswer::Block(bytes) => match Block::verify(reference, bytes) {
                Ok(block) => CoreAnswer::Block(block),
                Err(wrong) => {
                    self.metrics.wrong_blocks.inc();
                    debug!(
                        error = &wrong as &dyn std::error::Error,
                        "the other side of the link sent wrong bytes"
                    );
                    CoreAnswer::Gone
                }
            },
            FetchAnswer::Refer(referral) => CoreAnswer::Refer(referral),
            FetchAnswer::Gone => CoreAnswer::Gone,
        }
    }
}

impl Drop for FromCore {
    /// However it ended, whoever waits is told: what was not answered is not to be had here.
    fn drop(&mut self) {
        let (core, flow, left) = (self.core.clone(), self.flow, std::mem::take(&mut self.left));
        if !left.is_empty() {
            self.tasks.spawn("fetch's end", async move {
                for number in left.into_keys() {
                    let _ = core.send((flow, number, CoreAnswer::Gone)).await;
                }
            });
        }
    }
}

/// Requests a block at each address until one is reached, and there by each name until one is known.
async fn get(
    peers: &Peers,
    peer: NodeId,
    addresses: &[SocketAddr],
    names: &[Reference],
    wait: Duration,
) -> Result<Block, GetError> {
    let mut result = Err(GetError::Lost);
    for address in addresses.iter().take(ADDRESSES_TRIED) {
        for name in names {
            result = peers.get(peer, *address, name, wait).await;
            if !matches!(result, Err(GetError::Gone)) {
                break;
            }
        }
        // Whoever is at a wrong address may answer there, and is refused.
        if !matches!(result, Err(GetError::Lost | GetError::Refused)) {
            break;
        }
    }
    result
}

fn outcome(error: GetError) -> GetOutcome {
    match error {
        GetError::Gone => GetOutcome::Gone,
        GetError::Busy => GetOutcome::Busy,
        GetError::Lost | GetError::Refused => GetOutcome::Lost,
        GetError::Wrong => GetOutcome::Wrong,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// How long a block that may have come meanwhile may take from the disk.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Addresses of one peer that are tried for one block.
const ADDRESSES_TRIED: usize = 2;

/// Events of flows that wait for the task.
const EVENTS: usize = 1024;

/// Answers of cores that wait for the task, and those of one fetch that wait to be verified.
const CORE_ANSWERS: usize = 64;
const ANSWERS: usize = 4;
