//! The other nodes, and calls to them.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use protocol::{
    Advert, Answer, Known, News, Node, Outcome, Packet, Replica, Revision, Route, Version, Visibility, Visible,
    write_request,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::cache;
use crate::discovery::Wish;
use crate::error::CallError;
use crate::in_flight::Refusal;
use crate::link::{Link, Lost, Pending, Readiness};
use crate::params;
use crate::router::{Match, Router};

/// How long a call may take unless it says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// Routes without a provider that are remembered, to tell "not now" from "never".
const MAX_REMEMBERED_ROUTES: usize = 10_000;

/// The other nodes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// What we say of ourselves; the link to the Distributor passes it on.
    advert: watch::Sender<Advert>,
    wishes: mpsc::Sender<Wish>,
    /// What calls are routed by; replaced as a whole at every change.
    table: watch::Sender<Arc<Table>>,
}

/// What changes come in through.
#[derive(Debug, Default)]
struct State {
    replica: Replica,
    /// Since when no Distributor is there to tell what changes.
    stale_since: Option<Instant>,
    /// Entries whose nodes calls failed to; the Distributor is told.
    failed: BTreeSet<u64>,
    /// The cache file does not have what is known.
    unsaved: bool,
    links: HashMap<SocketAddr, (Arc<Link>, Option<String>)>,
    /// Routes that had providers once.
    remembered: HashMap<Route, ()>,
}

#[derive(Debug, Default)]
struct Table {
    router: Router<Providers>,
    /// Routes that had providers once. Asked when `router` knows none: a route that is gone must not hide one that is there.
    remembered: Router<Providers>,
    nodes: Vec<Node>,
}

/// The nodes that offer one route and want calls.
#[derive(Debug, Default)]
struct Providers {
    list: Vec<Provider>,
    /// Whose turn it is, one after the other: each as often as its weight says. Empty when all weigh the same.
    schedule: Vec<usize>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Provider {
    link: Arc<Link>,
    route: Route,
    weight: u16,
    /// The Distributor has had no sign of life from it for a moment.
    suspect: bool,
    /// Its entries in the Distributor's list.
    ids: Arc<[u64]>,
}

/// Entries that are reported at a time; calls to others are reported when they fail again.
const MAX_FAILED: usize = 64;

/// An answer as it came, with what it means.
#[derive(Debug)]
pub struct RawAnswer {
    frame: Bytes,
}

/// Why one attempt at one provider failed.
enum Attempt {
    /// Nothing was written: another provider may try.
    Unsent,
    Refused(Refusal),
    /// It may have been carried out.
    Lost(SocketAddr),
    Deadline,
}

impl Peers {
    pub(crate) fn new(advert: watch::Sender<Advert>, wishes: mpsc::Sender<Wish>) -> Self {
        let mut state = State::default();
        state.stale_since = Some(Instant::now());
        let inner = Inner { state: Mutex::new(state), advert, wishes, table: watch::Sender::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Calls what offers `url`, such as `GET/members` or `GET/members/7`, and reads its result as a `T`.
    ///
    /// Providers take turns. One that cannot be reached is passed over; a call that was lost on the way is tried once more
    /// elsewhere if its method is idempotent by HTTP's rules (RFC 9110, 9.2.2). Await the returned value to run the call;
    /// dropping that future takes the call back.
    pub fn call<'a, T>(&'a self, url: &'a str, params: &(impl Serialize + ?Sized)) -> Call<'a, T> {
        let params = serde_json::to_string(params);
        Call { peers: self, url, params, within: DEFAULT_DEADLINE, result: PhantomData }
    }

    /// Calls with JSON text in and a packet out, unread: for gateways. `params` must be a JSON object if any provider may
    /// be of version 1.
    ///
    /// # Errors
    /// [`CallError`], but never `Refused` or `Answer`: what the node answered is in the [`RawAnswer`].
    pub async fn call_raw(
        &self,
        method: &str,
        path: &str,
        params: &str,
        within: Duration,
    ) -> Result<RawAnswer, CallError> {
        let deadline = Instant::now() + within;
        let table = Arc::clone(&self.inner.table.borrow());
        let url = || format!("{method}{path}");
        let found = table.router.find(method, path).or_else(|| table.remembered.find(method, path));
        let Some(Match { value: providers, captured }) = found else {
            return Err(CallError::NoRoute { url: url() });
        };
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut lost: Option<SocketAddr> = None;
        let (mut full, mut too_large) = (false, false);
        while let Some(provider) = self.pick(providers, &tried) {
            tried.push(provider.link.address);
            match self.attempt(provider, (method, path), params, &captured, deadline).await {
                Ok(frame) => return Ok(RawAnswer { frame }),
                Err(Attempt::Unsent) => {}
                Err(Attempt::Refused(Refusal::Full)) => full = true,
                // A version 2 provider may take what one of version 1 cannot read.
                Err(Attempt::Refused(Refusal::TooLarge)) => too_large = true,
                Err(Attempt::Deadline) => return Err(CallError::Deadline { url: url(), within }),
                Err(Attempt::Lost(node)) if lost.is_none() && is_idempotent(method) => lost = Some(node),
                Err(Attempt::Lost(node)) => return Err(CallError::Lost { url: url(), node }),
            }
        }
        match (lost, full) {
            (Some(node), _) => Err(CallError::Lost { url: url(), node }),
            (None, true) => Err(CallError::Overloaded { url: url() }),
            (None, false) if too_large => Err(CallError::TooLarge { url: url() }),
            (None, false) => Err(CallError::NoProvider { url: url() }),
        }
    }

    /// The nodes known now, ourselves included once the Distributor has listed us.
    pub fn nodes(&self) -> Vec<Node> {
        self.inner.table.borrow().nodes.clone()
    }

    /// Where the nodes are that offer `url`, such as `GET/members`, as far as is known now.
    pub fn providers(&self, url: &str) -> Vec<SocketAddr> {
        let table = Arc::clone(&self.inner.table.borrow());
        let (method, path) = split_url(url);
        let found = table.router.find(method, path);
        found.map_or_else(Vec::new, |found| found.value.list.iter().map(|provider| provider.link.address).collect())
    }

    /// Completes when every url has a provider. Cancel safe.
    pub async fn wait_for(&self, urls: &[&str]) {
        let offered = |table: &Arc<Table>| {
            urls.iter().all(|url| {
                let (method, path) = split_url(url);
                table.router.find(method, path).is_some_and(|found| !found.value.list.is_empty())
            })
        };
        // The sender lives in `self`.
        let _ = self.inner.table.subscribe().wait_for(offered).await;
    }

    /// Completes when the nodes known fulfil `condition`. Cancel safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&[Node]) -> bool) {
        let _ = self.inner.table.subscribe().wait_for(|table| condition(&table.nodes)).await;
    }

    /// For how long there has been no Distributor to tell what changes; `None` while there is one. What is known stays in use
    /// however long that is.
    pub fn stale_for(&self) -> Option<Duration> {
        self.lock().stale_since.map(|since| since.elapsed())
    }

    /// Changes what we say of ourselves: everybody is told.
    pub(crate) fn advertise(&self, change: impl FnOnce(&mut Advert)) {
        self.inner.advert.send_if_modified(|advert| {
            let before = advert.clone();
            change(advert);
            *advert != before
        });
    }

    /// Completes when so many percent of all version 2 nodes have acknowledged that they know our registration, or `within` is
    /// over. Cancel safe. See [`Node::visible`](crate::Node::visible).
    pub(crate) async fn visible(&self, percent: u8, within: Duration) -> Visibility {
        let milliseconds = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let visible = Visible { percent: percent.clamp(1, 100), within: milliseconds };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.inner.wishes.send(Wish { visible, answer }).await.ok()?;
            answered.await.ok()
        };
        // An old Distributor, or none, does not answer.
        let patience = within.saturating_add(Duration::from_secs(1));
        timeout(patience, asked).await.ok().flatten().unwrap_or_default()
    }

    /// The next provider whose turn it is. Those without a live connection are connected on the side while another has one.
    fn pick<'t>(&self, providers: &'t Providers, tried: &[SocketAddr]) -> Option<&'t Provider> {
        let count = providers.list.len();
        let turn = providers.turn.fetch_add(1, Ordering::Relaxed);
        let turns = providers.schedule.len().max(count).max(1);
        let first = providers.schedule.get(turn % turns).copied().unwrap_or(turn % turns);
        let in_turn = (0..count).map(|step| &providers.list[(first + step) % count]);
        let mut best: Option<(Readiness, &Provider)> = None;
        for provider in in_turn.filter(|provider| !tried.contains(&provider.link.address)) {
            let mut readiness = provider.link.readiness();
            if provider.suspect {
                readiness = readiness.max(Readiness::Suspect);
            }
            if readiness == Readiness::Due {
                self.connect(&provider.link);
            }
            if best.is_none_or(|(so_far, _)| readiness < so_far) {
                best = Some((readiness, provider));
            }
            if readiness == Readiness::Up {
                break;
            }
        }
        let (readiness, provider) = best?;
        if readiness == Readiness::Resting {
            // Nobody better is left: a refused connect costs less than a refused call.
            self.connect(&provider.link);
        }
        Some(provider)
    }

    fn connect(&self, link: &Arc<Link>) {
        let inner = Arc::downgrade(&self.inner);
        link.connect(move |address| {
            if let Some(inner) = inner.upgrade() {
                let peers = Self { inner };
                peers.change(|replica| replica.unreachable(address));
                peers.failed_at(address);
            }
        });
    }

    async fn attempt(
        &self,
        provider: &Provider,
        (method, path): (&str, &str),
        params: &str,
        captured: &[&str],
        deadline: Instant,
    ) -> Result<Bytes, Attempt> {
        let merged = params::merge(params, params::names(&provider.route).zip(captured.iter().copied()));
        let version = provider.link.version;
        let left = deadline.saturating_duration_since(Instant::now());
        let pending: Pending = provider
            .link
            .call(|key, out| write_request(out, version, (method, path), key, &merged, left))
            .map_err(Attempt::Refused)?;
        match timeout_at(deadline, pending.outcome()).await {
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(Lost { written: false })) => Err(Attempt::Unsent),
            Ok(Err(Lost { written: true })) => {
                self.failed(&provider.ids);
                Err(Attempt::Lost(provider.link.address))
            }
            Err(_elapsed) => {
                provider.link.suspect();
                self.failed(&provider.ids);
                Err(Attempt::Deadline)
            }
        }
    }

    /// Starts with what an earlier process knew.
    pub(crate) fn seed(&self, replica: Replica) {
        self.change(|known| {
            *known = replica;
            true
        });
    }

    /// Takes in what the Distributor told.
    pub(crate) fn take(&self, news: &News<'_>) -> Outcome {
        let now = Instant::now().into_std();
        let mut outcome = Outcome::Same;
        self.change(|replica| {
            outcome = replica.take(now, news);
            outcome == Outcome::Changed
        });
        let mut state = self.lock();
        if matches!(outcome, Outcome::Changed | Outcome::Same) {
            state.stale_since = None;
            state.unsaved = true;
        }
        outcome
    }

    pub(crate) fn reconnected(&self) {
        self.lock().replica.connected();
    }

    pub(crate) fn disconnected(&self) {
        let mut state = self.lock();
        state.replica.disconnected();
        state.stale_since.get_or_insert_with(Instant::now);
    }

    /// Removes nodes that a new Distributor has not listed for too long; says when to look again.
    pub(crate) fn expire(&self) -> Option<Instant> {
        self.change(|replica| replica.expire(Instant::now().into_std()));
        self.lock().replica.next_expiry().map(Instant::from_std)
    }

    /// The state that is known.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.lock().replica.revision()
    }

    /// Where an instance stands among all nodes.
    pub(crate) fn rank(&self, id: &str) -> Option<f64> {
        self.lock().replica.rank(id)
    }

    pub(crate) fn with_replica<T>(&self, read: impl FnOnce(&Replica) -> T) -> T {
        read(&self.lock().replica)
    }

    /// Whether the cache file is out of date.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.lock().unsaved
    }

    /// What the cache file should have; it counts as saved from now on.
    pub(crate) fn text_to_save(&self) -> Option<String> {
        let mut state = self.lock();
        std::mem::take(&mut state.unsaved).then(|| cache::text(&state.replica)).flatten()
    }

    /// Whether there are failed calls to report.
    pub(crate) fn has_failures(&self) -> bool {
        !self.lock().failed.is_empty()
    }

    /// Entries whose nodes calls failed to since the last time.
    pub(crate) fn take_failures(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().failed).into_iter().collect()
    }

    fn failed(&self, ids: &[u64]) {
        let mut state = self.lock();
        if state.failed.len() < MAX_FAILED {
            state.failed.extend(ids);
        }
    }

    fn failed_at(&self, address: SocketAddr) {
        let known = self.lock().replica.nodes();
        if let Some(Known { ids, .. }) = known.iter().find(|known| known.address == address) {
            self.failed(ids);
        }
    }

    /// Changes what is known and, if that made a difference, what calls are routed by.
    fn change(&self, change: impl FnOnce(&mut Replica) -> bool) {
        let mut state = self.lock();
        if change(&mut state.replica) {
            let table = Arc::new(state.rebuild());
            // Under the lock, so that tables follow one another in the order of changes.
            self.inner.table.send_replace(table);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Providers {
    /// Turns begin anywhere: tables are rebuilt at every change, and processes start together.
    fn at_any_turn() -> Self {
        Self { turn: AtomicUsize::new(fastrand::usize(..)), ..Self::default() }
    }

    /// Spreads the turns by weight, as evenly as they go.
    fn plan(&mut self) {
        let weights: Vec<u32> = self.list.iter().map(|provider| provider.weight.into()).collect();
        self.schedule = schedule(&weights);
    }
}

/// Most turns of a schedule for each provider; finer weights are rounded.
const MAX_TURNS: u32 = 16;

/// Positions in the order of their turns: each as often as its weight says, and spread out. Empty when all weigh the same.
fn schedule(weights: &[u32]) -> Vec<usize> {
    let most = weights.iter().copied().max().unwrap_or(0);
    if most == 0 || weights.iter().all(|weight| *weight == most) {
        return Vec::new();
    }
    // No more turns than it takes: weights of 100 and 200 are one turn and two.
    let divisor = weights.iter().copied().fold(0, gcd);
    let turns = |weight: u32| {
        if most / divisor <= MAX_TURNS { weight / divisor } else { (weight * MAX_TURNS).div_ceil(most) }
    };
    let mut places = Vec::new();
    for (position, weight) in weights.iter().enumerate() {
        let turns = turns(*weight);
        places.extend((0..turns).map(|turn| ((f64::from(turn) + 0.5) / f64::from(turns), position)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    places.into_iter().map(|(_, position)| position).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl State {
    /// A table of the nodes there are: links of those that stay are kept, links of those that went are retired.
    fn rebuild(&mut self) -> Table {
        let mut table = Table::default();
        let mut links = HashMap::with_capacity(self.links.len());
        let mut planned = Vec::new();
        for Known { address, node, ids } in self.replica.nodes() {
            table.nodes.push(node.clone());
            if node.advert.as_ref().is_some_and(|advert| advert.speaks_http) || node.routes.is_empty() {
                continue;
            }
            let id = node.advert.as_ref().and_then(|advert| advert.id.clone());
            let same = |(link, of): &(Arc<Link>, Option<String>)| link.version == node.version() && *of == id;
            let link = match self.links.remove(&address) {
                Some(known) if same(&known) => known.0,
                other => {
                    // Another process listens there now.
                    if let Some((link, _)) = other {
                        link.retire();
                    }
                    Link::new(address, node.version())
                }
            };
            let weight = node.advert.as_ref().map_or(Advert::USUAL_WEIGHT, |advert| advert.weight);
            let is_picked = weight > 0 && !node.advert.as_ref().is_some_and(|advert| advert.draining);
            let ids: Arc<[u64]> = ids.into();
            for route in &node.routes {
                let providers = table.router.entry(route, Providers::at_any_turn);
                if is_picked {
                    let (link, route, ids) = (Arc::clone(&link), route.clone(), Arc::clone(&ids));
                    providers.list.push(Provider { link, route, weight, suspect: node.suspect, ids });
                    if weight != Advert::USUAL_WEIGHT {
                        planned.push(providers.list[providers.list.len() - 1].route.clone());
                    }
                }
                if self.remembered.len() < MAX_REMEMBERED_ROUTES {
                    self.remembered.insert(route.clone(), ());
                }
            }
            links.insert(address, (link, id));
        }
        for (link, _) in std::mem::replace(&mut self.links, links).into_values() {
            link.retire();
        }
        for route in planned {
            table.router.entry(&route, Providers::default).plan();
        }
        for route in self.remembered.keys() {
            table.remembered.entry(route, Providers::default);
        }
        table
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for (link, _) in self.links.values() {
            link.retire();
        }
    }
}

impl RawAnswer {
    /// The whole packet as it came, without its delimiter.
    pub fn packet(&self) -> &Bytes {
        &self.frame
    }

    /// What the answer means.
    ///
    /// # Errors
    /// When the frame is no packet, as with an old service that answers `null` to a method it does not know.
    pub fn read(&self) -> Result<Answer<'_>, protocol::PacketError> {
        Packet::parse(&self.frame).map(|packet| Answer::from_packet(&packet))
    }
}

/// A call that is about to be made: set what differs from the defaults, then await it.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<'a, T> {
    peers: &'a Peers,
    url: &'a str,
    params: Result<String, serde_json::Error>,
    within: Duration,
    result: PhantomData<fn() -> T>,
}

impl<T> Call<'_, T> {
    /// How long the whole call may take, further attempts included. 5 s unless set.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.within = deadline;
        self
    }
}

impl<'a, T: DeserializeOwned> IntoFuture for Call<'a, T> {
    type Output = Result<T, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Call { peers, url, params, within, result: _ } = self;
        Box::pin(async move {
            let params = params.map_err(|source| CallError::Params { url: url.to_owned(), source })?;
            let (method, path) = split_url(url);
            let answer = peers.call_raw(method, path, &params, within).await?;
            read_result(&answer).map_err(|error| error.of(url))
        })
    }
}

/// What an answer holds instead of a result.
enum NoResult {
    Refused { status: u16, reason: String, message: String },
    Answer(serde_json::Error),
}

impl NoResult {
    fn of(self, url: &str) -> CallError {
        match self {
            Self::Refused { status, reason, message } => CallError::Refused { status, reason, message },
            Self::Answer(source) => CallError::Answer { url: url.to_owned(), source },
        }
    }
}

fn read_result<T: DeserializeOwned>(raw: &RawAnswer) -> Result<T, NoResult> {
    let answer = raw.read().map_err(|_no_packet| NoResult::Refused {
        status: 501,
        reason: "old_error".to_owned(),
        message: "the node does not know the method".to_owned(),
    })?;
    if answer.status >= 400 {
        let reason = answer.reason.map_or_else(|| "old_error".to_owned(), Cow::into_owned);
        let message = answer.message.unwrap_or_default().into_owned();
        return Err(NoResult::Refused { status: answer.status, reason, message });
    }
    let read = match (answer.body, answer.version) {
        (Some(body), _) => serde_json::from_str(body.get()),
        // Old services put data beside the key, where there is no `results`.
        (None, Version::V1) => serde_json::from_slice(&raw.frame),
        (None, Version::V2) => serde_json::from_str("null"),
    };
    read.map_err(NoResult::Answer)
}

fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}

/// Methods that may be carried out twice (RFC 9110, 9.2.2).
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(weights: &[u32], expected: &[usize]) {
        assert_eq!(schedule(weights), expected);
    }

    #[test]
    fn turns_are_spread_by_weight() {
        check(&[], &[]);
        check(&[100, 100, 100], &[]);
        check(&[100, 200], &[1, 0, 1]);
        check(&[50, 100, 150], &[2, 1, 0, 2, 1, 2]);
        let count = |weights: &[u32], position| schedule(weights).iter().filter(|turn| **turn == position).count();
        let weights = [1, 999, 1000];
        assert_eq!([0, 1, 2].map(|position| count(&weights, position)), [1, 16, 16]);
    }
}
