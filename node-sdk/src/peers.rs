//! The other nodes, and calls to them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use protocol::{Answer, Node, NodeList, Packet, Route, Version, write_request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::directory::Directory;
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
    state: Mutex<Known>,
    /// What calls are routed by; replaced as a whole at every change.
    table: watch::Sender<Arc<Table>>,
}

/// What changes come in through.
#[derive(Debug, Default)]
struct Known {
    directory: Directory,
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

/// The nodes that offer one route.
#[derive(Debug, Default)]
struct Providers {
    list: Vec<Provider>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Provider {
    link: Arc<Link>,
    route: Route,
}

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
    pub(crate) fn new() -> Self {
        let inner = Inner { state: Mutex::default(), table: watch::Sender::default() };
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

    /// The next provider whose turn it is. Those without a live connection are connected on the side while another has one.
    fn pick<'t>(&self, providers: &'t Providers, tried: &[SocketAddr]) -> Option<&'t Provider> {
        let count = providers.list.len();
        let turn = providers.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|step| &providers.list[turn.wrapping_add(step) % count]);
        let mut best: Option<(Readiness, &Provider)> = None;
        for provider in in_turn.filter(|provider| !tried.contains(&provider.link.address)) {
            let readiness = provider.link.readiness();
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
                Self { inner }.change(|directory| directory.unreachable(address));
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
            Ok(Err(Lost { written: true })) => Err(Attempt::Lost(provider.link.address)),
            Err(_elapsed) => {
                provider.link.suspect();
                Err(Attempt::Deadline)
            }
        }
    }

    pub(crate) fn apply(&self, list: NodeList) {
        let now = Instant::now().into_std();
        self.change(|directory| directory.apply(now, list));
    }

    pub(crate) fn reconnected(&self) {
        self.lock().directory.reconnected();
    }

    pub(crate) fn disconnected(&self) {
        self.lock().directory.disconnected();
    }

    /// Removes nodes that a new Distributor has not listed for too long; says when to look again.
    pub(crate) fn expire(&self) -> Option<Instant> {
        self.change(|directory| directory.expire(Instant::now().into_std()));
        self.lock().directory.next_expiry().map(Instant::from_std)
    }

    /// Changes the directory and, if that made a difference, what calls are routed by.
    fn change(&self, change: impl FnOnce(&mut Directory) -> bool) {
        let mut known = self.lock();
        if change(&mut known.directory) {
            let table = Arc::new(known.rebuild());
            // Under the lock, so that tables follow one another in the order of changes.
            self.inner.table.send_replace(table);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Providers {
    /// Turns begin anywhere: tables are rebuilt at every change, and processes start together.
    fn at_any_turn() -> Self {
        Self { list: Vec::new(), turn: AtomicUsize::new(fastrand::usize(..)) }
    }
}

impl Known {
    /// A table of the nodes there are: links of those that stay are kept, links of those that went are retired.
    fn rebuild(&mut self) -> Table {
        let mut table = Table::default();
        let mut links = HashMap::with_capacity(self.links.len());
        for (address, node) in self.directory.nodes() {
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
            for route in &node.routes {
                let provider = Provider { link: Arc::clone(&link), route: route.clone() };
                table.router.entry(route, Providers::at_any_turn).list.push(provider);
                if self.remembered.len() < MAX_REMEMBERED_ROUTES {
                    self.remembered.insert(route.clone(), ());
                }
            }
            links.insert(address, (link, id));
        }
        for (link, _) in std::mem::replace(&mut self.links, links).into_values() {
            link.retire();
        }
        for route in self.remembered.keys() {
            table.remembered.entry(route, Providers::default);
        }
        table
    }
}

impl Drop for Known {
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
