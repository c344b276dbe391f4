//! The other nodes, and calls to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use bytes::BytesMut;
use net::Network;
use protocol::{Advert, ListUpdate, Node, Replica, Route, UpdateOutcome, Visibility, VisibilityTarget, write_hello};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::balance::Balance;
use crate::balance::RetryBudget;
use crate::client::CallArguments;
use crate::client::call::Call;
use crate::client::events::SubscriberGroups;
use crate::client::raw_call::RawCall;
use crate::client::stream::StreamCall;
use crate::discovery::cache;
use crate::discovery::session::VisibilityRequest;
use crate::error::CallError;
use crate::routing::blocked::BlockedAddresses;
use crate::routing::table::{LocalNode, Lookup, NodeChange, RoutingTable};
use crate::server::dispatch::LocalService;
use crate::transport::budget::{Budget, BufferUsage};
use crate::transport::connection::Connection;

/// The other nodes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Mesh>,
}

#[derive(Debug)]
struct Mesh {
    state: Mutex<RegistryView>,
    /// What we say of ourselves; the link to the Distributor passes it on.
    advert: watch::Sender<Advert>,
    requests: mpsc::Sender<VisibilityRequest>,
    local_node: Arc<LocalNode>,
    /// What calls are routed by. Changed under the lock of `state`, so that changes come in their order.
    table: RwLock<RoutingTable>,
    /// Said after every change.
    changed: watch::Sender<()>,
    retries: RetryBudget,
    balance: Balance,
    /// What this node offers itself, if it is one that does.
    local: OnceLock<Weak<LocalService>>,
    /// Who knows what we are to know, if not we.
    leader: Option<Peers>,
}

/// What changes come in through.
#[derive(Debug, Default)]
struct RegistryView {
    replica: Replica,
    /// Since when no Distributor is there to tell what changes.
    stale_since: Option<Instant>,
    /// Entries whose nodes calls failed to; the Distributor is told.
    failed: BTreeSet<u64>,
    /// The cache file does not have what is known.
    unsaved: bool,
    /// Those who know what we know.
    followers: Vec<Weak<Mesh>>,
}

/// Entries that are reported at a time; calls to others are reported when they fail again.
const MAX_FAILED: usize = 64;

impl Peers {
    pub(crate) fn new(
        advert: watch::Sender<Advert>,
        requests: mpsc::Sender<VisibilityRequest>,
        balance: Balance,
        network: Network,
        blocked: BlockedAddresses,
    ) -> Self {
        let Advert { id, zone, .. } = advert.borrow().clone();
        let instance = id.unwrap_or_default();
        let mut hello = BytesMut::new();
        write_hello(&mut hello, &instance);
        let local_node = Arc::new(LocalNode {
            instance,
            hello: hello.freeze(),
            zone,
            network,
            blocked,
            buffer_budget: Budget::for_connections(),
        });
        let inner = Mesh {
            state: Mutex::new(RegistryView { stale_since: Some(Instant::now()), ..RegistryView::default() }),
            advert,
            requests,
            local_node: Arc::clone(&local_node),
            table: RwLock::new(RoutingTable::new(local_node)),
            changed: watch::Sender::default(),
            retries: RetryBudget::new(Instant::now().into_std()),
            balance,
            local: OnceLock::new(),
            leader: None,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same nodes over connections of their own, for another runtime: a connection belongs to the runtime of the task that first
    /// calls over it. It knows what this one knows, in the same moment, for as long as this one is there.
    pub fn for_thread(&self) -> Self {
        let mut state = self.lock();
        let inner = Mesh {
            state: Mutex::default(),
            advert: self.inner.advert.clone(),
            requests: self.inner.requests.clone(),
            local_node: Arc::clone(&self.inner.local_node),
            table: RwLock::new(self.table().for_thread(Instant::now())),
            changed: watch::Sender::default(),
            retries: RetryBudget::new(Instant::now().into_std()),
            balance: self.inner.balance,
            local: self.inner.local.clone(),
            leader: Some(self.clone()),
        };
        let follower = Self { inner: Arc::new(inner) };
        state.followers.push(Arc::downgrade(&follower.inner));
        follower
    }

    /// Calls what offers `url`, such as `GET/members` or `GET/members/7`, and reads its result as a `T`.
    ///
    /// Providers are picked as [`Balance`] says; whoever offers the url itself answers itself. A provider that cannot be reached is
    /// passed over; a call that was lost on the way is tried once more elsewhere if its method is idempotent by HTTP's rules
    /// (RFC 9110, 9.2.2), or [`Call::idempotent`] says so. A call made while another is handled has no more time than that one.
    /// Await the returned value to run the call; dropping that future takes the call back, and tells its node.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use std::time::Duration;
    ///
    /// let name: String = peers.call("GET/members/7/name", &()).timeout(Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn call<'a, T>(&'a self, url: &'a str, params: &'a (impl Serialize + Sync)) -> Call<'a, T> {
        let (method, path) = split_url(url);
        Call::new(RawCall::new(self, method, path, CallArguments::Value(params)))
    }

    /// Opens a stream with what offers `url`: what comes is read as `T`s, and more can be sent than `params`. Providers are picked,
    /// and tried, as [`call`](Self::call) does until one has opened it. Who answers in one piece, as nodes of version 1 do, gives a
    /// stream of one. Await the returned value to open it; dropping that future takes it back.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use futures::StreamExt;
    ///
    /// let mut ticks = peers.stream::<u64>("GET/ticks", &()).await?;
    /// while let Some(tick) = ticks.next().await {
    ///     println!("{}", tick?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stream<'a, T>(&'a self, url: &'a str, params: &'a (impl Serialize + Sync)) -> StreamCall<'a, T> {
        let (method, path) = split_url(url);
        StreamCall::new(RawCall::new(self, method, path, CallArguments::Value(params)))
    }

    /// Calls with JSON text in and a packet out, unread: for gateways. `params` must be a JSON object if any provider may
    /// be of version 1. Fails as [`call`](Self::call) does, but never with `Refused` or `Answer`: what the node answered is in
    /// the [`RawResponse`](crate::RawResponse).
    pub fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a> {
        RawCall::new(self, method, path, CallArguments::Text(params))
    }

    /// Calls every node that offers `url`, all at once, and gives what each of them answered.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) {
    /// for (address, answer) in peers.gather::<u64>("GET/queue/length", &()).await {
    ///     println!("{address}: {answer:?}");
    /// }
    /// # }
    /// ```
    pub async fn gather<T: DeserializeOwned>(
        &self,
        url: &str,
        params: &(impl Serialize + Sync),
    ) -> Vec<(SocketAddr, Result<T, CallError>)> {
        let (method, path) = split_url(url);
        let calls = self.providers(url).into_iter().map(|address| async move {
            let call = Call::new(RawCall::new(self, method, path, CallArguments::Value(params)).to_address(address));
            (address, call.await)
        });
        futures::future::join_all(calls).await
    }

    /// Sends to one node that offers `url` what needs no answer, such as a line for a log: returns when it is on its way.
    ///
    /// # Errors
    /// [`CallError`] when nobody can be reached. That it arrives, nobody says.
    pub async fn send(&self, url: &str, params: &(impl Serialize + Sync)) -> Result<(), CallError> {
        let (method, path) = split_url(url);
        RawCall::new(self, method, path, CallArguments::Value(params)).one_way().await.map(drop)
    }

    /// The nodes known now, ourselves included once the Distributor has listed us; by address.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.table().nodes().cloned().collect()
    }

    /// The name of the node whose instance id this is.
    pub(crate) fn name_of(&self, instance: &str) -> Option<String> {
        let is_it = |node: &&Arc<Node>| node.advert.as_ref().and_then(|advert| advert.id.as_deref()) == Some(instance);
        self.table().nodes().find(is_it).map(|node| node.name.clone())
    }

    /// Whether some node offers this now, as far as is known.
    pub fn offers(&self, method: &str, path: &str) -> bool {
        self.table().offers(method, path)
    }

    /// Whether some node offers this, or has offered it once.
    pub fn has_known(&self, method: &str, path: &str) -> bool {
        !matches!(self.lookup(method, path), Lookup::Unknown)
    }

    /// Calls `url` of the node at `address` and of nobody else, to find out how it does; with JSON text in and a packet out, as
    /// [`call_raw`](Self::call_raw). What comes of it is for the caller to judge: no other call goes elsewhere for it.
    pub fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a> {
        let (method, path) = split_url(url);
        RawCall::new(self, method, path, CallArguments::Text("{}")).to_address(address).without_health_effect()
    }

    /// Which of the nodes that offer `url` calls of it go to: where they are, and which process of those that were there it is, if
    /// they say. Of very many they are some, others for each caller.
    pub fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)> {
        let (method, path) = split_url(url);
        let Lookup::Available(providers, _) = self.lookup(method, path) else { return Vec::new() };
        providers
            .members()
            .map(|provider| (provider.connection.address, provider.connection.instance.clone()))
            .collect()
    }

    /// Says how the node at this address does: one that is not healthy is called only if most others are no better, as it is with
    /// nodes that calls are lost at. That holds for all who [follow](Self::for_thread) the same news, until the opposite is said or
    /// another process is there. Returns whether it is a change. For whoever looks after nodes beside calling them, as
    /// gateways do.
    pub fn set_health(&self, address: SocketAddr, healthy: bool) -> bool {
        let leader = self.leader();
        let state = leader.lock();
        let set =
            |peers: &Self| peers.table().connection(address).is_some_and(|connection| connection.set_health(healthy));
        for follower in state.followers.iter().filter_map(Weak::upgrade) {
            set(&Self { inner: follower });
        }
        set(leader)
    }

    /// Whether nobody has [said](Self::set_health) otherwise.
    pub fn is_healthy(&self, address: SocketAddr) -> bool {
        self.table().connection(address).is_none_or(|connection| connection.is_healthy())
    }

    /// Where the nodes are that offer `url`, such as `GET/members`, as far as is known now; in order.
    pub fn providers(&self, url: &str) -> Vec<SocketAddr> {
        let (method, path) = split_url(url);
        match self.lookup(method, path) {
            Lookup::Available(providers, _) => {
                let addresses: BTreeSet<_> =
                    providers.list().iter().map(|provider| provider.connection.address).collect();
                addresses.into_iter().collect()
            }
            Lookup::Unavailable | Lookup::Unknown => Vec::new(),
        }
    }

    /// Why the node at this address is never called, whatever it registers, if it is not: what it listens on is ours, of no host,
    /// or of the link only. For whoever calls nodes by other means.
    pub fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.table().blocked_reason(address)
    }

    /// Whether the node at this address registers `route`, and is not called for it, because there are too many routes like it with
    /// parameters elsewhere: looking for one of them would take too long.
    pub fn is_refused(&self, address: SocketAddr, route: &Route) -> bool {
        self.table().is_refused(address, route)
    }

    /// Completes when every url has a provider. Cancel safe.
    ///
    /// ```no_run
    /// # async fn example(node: node_sdk::Node) {
    /// node.peers().wait_for(&["GET/members/7", "GET/goods"]).await;
    /// # }
    /// ```
    pub async fn wait_for(&self, urls: &[&str]) {
        let is_offered = |url: &&str| {
            let (method, path) = split_url(url);
            self.offers(method, path)
        };
        self.wait(|| urls.iter().all(is_offered)).await;
    }

    /// Completes when the nodes known fulfil `condition`. Cancel safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&[Arc<Node>]) -> bool) {
        self.wait(|| condition(&self.nodes())).await;
    }

    async fn wait(&self, mut is_fulfilled: impl FnMut() -> bool) {
        let mut changed = self.inner.changed.subscribe();
        while !is_fulfilled() {
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    /// What is known now, and whenever it changes after that.
    pub fn changes(&self) -> Changes {
        let mut changed = self.inner.changed.subscribe();
        changed.mark_changed();
        Changes { changed, peers: Arc::downgrade(&self.inner) }
    }

    /// For how long there has been no Distributor to tell what changes; `None` while there is one. What is known stays in use
    /// however long that is.
    pub fn stale_for(&self) -> Option<Duration> {
        self.leader().lock().stale_since.map(|since| since.elapsed())
    }

    /// How many bytes are kept of the nodes that are called, by all who follow the same nodes: packets that have come in part, and parts
    /// of streams that nobody has taken. What was ended for want of room counts as refused.
    pub fn buffer_usage(&self) -> BufferUsage {
        self.inner.local_node.buffer_budget.usage()
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
    /// over. Cancel safe. See [`Node::wait_visible`](crate::Node::wait_visible).
    pub(crate) async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        let milliseconds = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let target = VisibilityTarget { percent: percent.clamp(1, 100), within: milliseconds };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.inner.requests.send(VisibilityRequest { target, answer }).await.ok()?;
            answered.await.ok()
        };
        // An old Distributor, or none, does not answer.
        let patience = within.saturating_add(Duration::from_secs(1));
        timeout(patience, asked).await.ok().flatten().unwrap_or_default()
    }

    pub(crate) fn connect(&self, connection: &Arc<Connection>) {
        let inner = Arc::downgrade(&self.inner);
        connection.connect(move |address| {
            if let Some(inner) = inner.upgrade() {
                let peers = Self { inner };
                let peers = peers.leader();
                peers.change(|replica| replica.mark_unreachable(address));
                peers.record_failed(address);
            }
        });
    }

    pub(crate) fn lookup<'p>(&self, method: &str, path: &'p str) -> Lookup<'p> {
        self.table().lookup(method, path)
    }

    /// Who has subscribed to an event.
    pub(crate) fn subscribers(&self, path: &str) -> Option<Arc<SubscriberGroups>> {
        self.table().subscribers(path)
    }

    /// What calls are routed by; to be let go of before anything is done that could change it.
    fn table(&self) -> RwLockReadGuard<'_, RoutingTable> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.inner.retries
    }

    /// The id of this very instance.
    pub(crate) fn instance(&self) -> &str {
        &self.inner.local_node.instance
    }

    pub(crate) fn balance(&self) -> Balance {
        self.inner.balance
    }

    /// The service of this very node, as long as it runs.
    pub(crate) fn local(&self) -> Option<Arc<LocalService>> {
        self.inner.local.get()?.upgrade()
    }

    /// From now on calls to what this node offers itself are handled here.
    pub(crate) fn set_local(&self, service: &Arc<LocalService>) {
        let _ = self.inner.local.set(Arc::downgrade(service));
    }

    /// Starts with what an earlier process knew; nothing is known before.
    pub(crate) fn seed(&self, replica: Replica) {
        self.change(|known| {
            *known = replica;
            true
        });
    }

    /// Takes in what the Distributor told.
    pub(crate) fn apply_update(&self, update: &ListUpdate<'_>) -> UpdateOutcome {
        let now = Instant::now().into_std();
        let mut outcome = UpdateOutcome::Same;
        self.change(|replica| {
            outcome = replica.apply(now, update);
            outcome == UpdateOutcome::Changed
        });
        let mut state = self.lock();
        if matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same) {
            state.stale_since = None;
            state.unsaved = true;
        }
        outcome
    }

    /// There is a new connection to a Distributor, which is at that address if not on this machine.
    pub(crate) fn reconnected(&self, far: Option<IpAddr>) {
        let mut state = self.lock();
        state.replica.connected();
        state.replica.set_registry_host(far);
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
    pub(crate) fn cache_text(&self) -> Option<String> {
        let mut state = self.lock();
        std::mem::take(&mut state.unsaved).then(|| cache::text(&state.replica)).flatten()
    }

    /// Whether there are failed calls to report.
    pub(crate) fn has_failures(&self) -> bool {
        !self.lock().failed.is_empty()
    }

    /// Entries whose nodes calls failed to since the last time.
    pub(crate) fn drain_failed(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().failed).into_iter().collect()
    }

    /// Calls to the node at this address fail: the Distributor is told.
    pub(crate) fn record_failed(&self, address: SocketAddr) {
        let leader = self.leader();
        let mut state = leader.lock();
        if state.failed.len() < MAX_FAILED {
            state.failed.extend(leader.table().entries_at(address));
        }
    }

    /// Changes what is known and, if that made a difference, what calls are routed by.
    fn change(&self, change: impl FnOnce(&mut Replica) -> bool) {
        let mut state = self.lock();
        if change(&mut state.replica) {
            let changes: Vec<NodeChange> = state.replica.last_changes().collect();
            self.apply_to_tables(&changes);
            state.followers.retain(|follower| {
                let follower = follower.upgrade().map(|inner| Self { inner });
                follower.inspect(|follower| follower.apply_to_tables(&changes)).is_some()
            });
        }
    }

    fn apply_to_tables(&self, changes: &[NodeChange]) {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner).apply(changes, Instant::now());
        self.inner.changed.send_replace(());
    }

    /// Who is told by the Distributor, and tells it.
    fn leader(&self) -> &Self {
        self.inner.leader.as_ref().unwrap_or(self)
    }

    fn lock(&self) -> MutexGuard<'_, RegistryView> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes known, as they come and go.
#[derive(Debug)]
pub struct Changes {
    changed: watch::Receiver<()>,
    peers: Weak<Mesh>,
}

impl Changes {
    /// All nodes that are known, by address, once there is something new; changes that come faster than they are asked for are one.
    /// Who has not changed is the very same [`Arc`] as before. `None` when nobody is there any more who would know. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Node>>> {
        self.changed.changed().await.ok()?;
        let peers = Peers { inner: self.peers.upgrade()? };
        Some(peers.nodes())
    }
}

pub(crate) fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}
