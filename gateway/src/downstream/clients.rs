//! The connected clients, and which of them are idle. When connections are short, some are evicted:
//! first clients that have not finished a head, a handshake or a body for a while, or read their
//! response very slowly; then the connections of one client beyond its share; then those that have
//! been idle for longest. A client with a request under way stays, unless the gateway waits for it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use net::address_group;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::tracked_client::{ClientActivity, TrackedClient, millis_after};

/// How long a client may take to finish a head, a handshake or a body before it is among the first
/// to be evicted.
const UNFINISHED_AFTER: Duration = Duration::from_secs(1);
/// The tracker is crowded with more clients than a twentieth (1 / this) of all connections.
const CROWDED_DIVISOR: usize = 20;
/// Some clients are evicted when fewer than a fiftieth (1 / this) of the connections are free, so
/// that others need not wait.
const KEPT_FREE_DIVISOR: usize = 50;
/// Percent of all connections that one client alone may have, as for the permits of a server.
const CLIENT_SHARE: usize = 90;
/// A client with more than a twentieth (1 / this) of all connections is evicted before clients that
/// have been idle for longer.
const SURPLUS_DIVISOR: usize = 20;
/// How long a client waits for another one to be evicted: the other one has a second for a last
/// request.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// How often all clients are examined, if there are more than a few: searching must not cost more
/// than a flood of new clients does.
const SEARCH_INTERVAL: Duration = Duration::from_millis(20);
const SEARCH_ALWAYS_UP_TO: usize = 500;

/// The clients of all workers.
#[derive(Debug)]
pub(crate) struct ClientTracker {
    since: Instant,
    limit: usize,
    /// Connections that are still free.
    free: Arc<Semaphore>,
    clients: Mutex<TrackedClients>,
    /// Clients that wait for others to be evicted.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct TrackedClients {
    list: Vec<(Arc<TrackedClient>, IpAddr)>,
    /// How many connections each client has.
    connections: HashMap<IpAddr, usize>,
    /// Clients that are being evicted and have not gone yet.
    evicting: usize,
    next_search: Option<Instant>,
}

/// A tracked client. Dropping it ends the tracking.
#[derive(Debug)]
pub(crate) struct ClientGuard {
    tracker: Arc<ClientTracker>,
    tracked: Arc<TrackedClient>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The decision about a new client.
#[derive(Debug)]
pub(crate) enum ClientAdmission {
    /// The client is served, and counts until this permit is dropped.
    Admitted(OwnedSemaphorePermit),
    /// Another client is being evicted: see [`ClientTracker::wait`].
    Waits,
    Refused,
}

/// Which clients are evicted first: those of the highest rank, and of a rank those that have been
/// in it for longest. Clients with the most `connections` go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    /// The client has just connected, and may be about to send a request.
    JustStarted,
    Idle,
    /// The address of the client has more connections than its share.
    Surplus {
        connections: usize,
    },
    /// The client has not finished a message, or has read very slowly, for a while.
    Unfinished {
        connections: usize,
    },
}

/// A client that waits for a connection. Dropping it ends the wait.
#[derive(Debug)]
struct AcceptWait<'a>(&'a ClientTracker);

impl ClientTracker {
    /// A tracker for `limit` clients.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(limit));
        Self { since: Instant::now(), limit, free, clients: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Admits a new client if there is room for it. When room is short, another client is evicted.
    /// If `is_proxy`, the client stands for many others, and the share of its address does not
    /// limit it. With `may_wait`, one more client may wait.
    pub(crate) fn admit(
        &self,
        client: IpAddr,
        is_proxy: impl FnOnce() -> bool,
        may_wait: bool,
        now: Instant,
    ) -> ClientAdmission {
        let free = self.free.available_permits();
        let has_share = self.has_share_left(client, free) || is_proxy();
        let permit = if has_share { Arc::clone(&self.free).try_acquire_owned().ok() } else { None };
        let is_short = permit.is_none() || self.is_short(free);
        let is_evicting = is_short && self.evict_idlest((!has_share).then_some(client), free, now);
        match permit {
            Some(permit) => ClientAdmission::Admitted(permit),
            None if may_wait && is_evicting => ClientAdmission::Waits,
            None => ClientAdmission::Refused,
        }
    }

    /// Waits until another client has gone; `None` when that takes too long. Cancel safe.
    pub(crate) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let _waits = self.wait_guard();
        timeout(MAX_WAIT, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()
    }

    /// Tracks an admitted client, which may then be evicted.
    pub(crate) fn track(
        self: &Arc<Self>,
        client: IpAddr,
        stop: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> ClientGuard {
        self.insert(client, stop, Some(permit))
    }

    fn insert(
        self: &Arc<Self>,
        client: IpAddr,
        stop: CancellationToken,
        permit: Option<OwnedSemaphorePermit>,
    ) -> ClientGuard {
        let client = address_group(client);
        let mut clients = self.lock();
        let is_crowded = clients.list.len() > self.limit / CROWDED_DIVISOR;
        let tracked = TrackedClient::new(stop, self.since, is_crowded);
        tracked.mark_started(Instant::now());
        tracked.index.store(clients.list.len(), Ordering::Relaxed);
        let tracked = Arc::new(tracked);
        clients.list.push((Arc::clone(&tracked), client));
        *clients.connections.entry(client).or_default() += 1;
        ClientGuard { tracker: Arc::clone(self), tracked, _permit: permit }
    }

    /// Whether `client` may have one more connection while `free` are left: no client takes the
    /// last ones from all others. If it may not, only its own connections are evicted for it.
    fn has_share_left(&self, client: IpAddr, free: usize) -> bool {
        let connections = self.lock().connections.get(&address_group(client)).copied().unwrap_or(0);
        connections * (100 - CLIENT_SHARE) < free.max(1) * CLIENT_SHARE
    }

    /// Whether so few connections are free that clients should be evicted.
    fn is_short(&self, free: usize) -> bool {
        free == 0 || free < self.limit / KEPT_FREE_DIVISOR
    }

    /// Evicts some clients, so that waiting ones get a connection and some are free; with `only`,
    /// connections of that client. Returns whether one is being evicted for one more waiting
    /// client.
    fn evict_idlest(&self, only: Option<IpAddr>, free: usize, now: Instant) -> bool {
        let (waiting, only) = (self.waiting.load(Ordering::Relaxed), only.map(address_group));
        let mut clients = self.lock();
        let wanted = (self.limit / KEPT_FREE_DIVISOR).saturating_sub(free).max(1) + waiting;
        let wanted = wanted.saturating_sub(clients.evicting);
        let is_time = clients.list.len() <= SEARCH_ALWAYS_UP_TO || clients.next_search.is_none_or(|next| now >= next);
        if wanted > 0 && is_time {
            clients.next_search = Some(now + SEARCH_INTERVAL);
            self.evict(&mut clients, only, wanted, now);
        }
        clients.evicting > waiting
    }

    /// Counts a client that waits for others to be evicted.
    fn wait_guard(&self) -> AcceptWait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        AcceptWait(self)
    }

    fn evict(&self, clients: &mut TrackedClients, only: Option<IpAddr>, wanted: usize, now: Instant) {
        let now = millis_after(self.since, now);
        let mut all = Vec::new();
        for (at, (tracked, client)) in clients.list.iter().enumerate() {
            let is_wanted = only.is_none_or(|only| only == *client);
            if !is_wanted || tracked.is_notified.load(Ordering::Relaxed) {
                continue;
            }
            let (has_begun, age) = match tracked.activity() {
                ClientActivity::Idle { since } => (false, now.saturating_sub(since)),
                ClientActivity::Started { since } => (true, now.saturating_sub(since)),
                // This one is evicted only if it hardly reads its response.
                ClientActivity::Busy => match tracked.pace.slow_for(now) {
                    Some(age) => (true, age),
                    None => continue,
                },
            };
            let connections = clients.connections.get(client).copied().unwrap_or(0);
            let rank = match has_begun {
                true if Duration::from_millis(age) >= UNFINISHED_AFTER => EvictionRank::Unfinished { connections },
                _ if connections > self.limit / SURPLUS_DIVISOR => EvictionRank::Surplus { connections },
                false => EvictionRank::Idle,
                true => EvictionRank::JustStarted,
            };
            all.push((rank, age, at));
        }
        all.sort_unstable_by(|one, other| other.cmp(one));
        for (.., at) in all.into_iter().take(wanted) {
            clients.list[at].0.evict();
            clients.evicting += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, TrackedClients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientGuard {
    /// Changes the client, because the balancer in front of us has named another one.
    pub(crate) fn set_client(&self, client: IpAddr) {
        let (mut clients, client) = (self.tracker.lock(), address_group(client));
        let index = self.tracked.index.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut clients.list[index].1, client);
        clients.remove(before);
        *clients.connections.entry(client).or_default() += 1;
    }
}

impl TrackedClients {
    fn remove(&mut self, client: IpAddr) {
        if let Some(connections) = self.connections.get_mut(&client) {
            *connections -= 1;
            if *connections == 0 {
                self.connections.remove(&client);
            }
        }
    }
}

impl std::ops::Deref for ClientGuard {
    type Target = TrackedClient;

    fn deref(&self) -> &TrackedClient {
        &self.tracked
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        let mut clients = self.tracker.lock();
        let index = self.tracked.index.load(Ordering::Relaxed);
        // The last client moves to this one's position.
        let (_, client) = clients.list.swap_remove(index);
        if let Some((moved, _)) = clients.list.get(index) {
            moved.index.store(index, Ordering::Relaxed);
        }
        clients.remove(client);
        clients.evicting -= usize::from(self.tracked.is_notified.load(Ordering::Relaxed));
    }
}

impl Drop for AcceptWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::client_pace::JUDGED_AFTER;

    /// A tracker with a limit, and its clients.
    struct TrackerScene {
        tracker: Arc<ClientTracker>,
        clients: Vec<ClientGuard>,
    }

    impl TrackerScene {
        fn new(limit: usize) -> Self {
            Self { tracker: Arc::new(ClientTracker::new(limit)), clients: Vec::new() }
        }

        async fn come(&mut self, client: u8) {
            tokio::time::advance(Duration::from_millis(5)).await;
            self.clients.push(self.tracker.insert([10, 0, 0, client].into(), CancellationToken::new(), None));
        }

        /// The clients that are evicted while `free` connections are left.
        fn evict_idlest(&self, free: usize) -> Vec<usize> {
            let told = |tracked: &ClientGuard| tracked.is_notified.load(Ordering::Relaxed);
            let before: Vec<_> = self.clients.iter().map(told).collect();
            self.tracker.evict_idlest(None, free, Instant::now());
            (0..before.len()).filter(|at| told(&self.clients[*at]) && !before[*at]).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_the_client_idle_for_longest_is_evicted_first() {
        let mut scene = TrackerScene::new(3);
        for client in 0..3 {
            scene.come(client).await;
        }
        scene.clients.iter().for_each(|tracked| tracked.mark_busy());
        assert_eq!(scene.evict_idlest(0), [0; 0], "all have a request under way");
        for at in [1, 2, 0] {
            tokio::time::advance(Duration::from_millis(5)).await;
            scene.clients[at].mark_idle(Instant::now());
        }
        scene.clients[1].mark_busy();
        assert_eq!(scene.evict_idlest(0), [2]);
        assert!(scene.clients[2].stop.is_cancelled());
        assert_eq!(scene.evict_idlest(0), [0; 0], "one is already being evicted");
        let tracker = Arc::clone(&scene.tracker);
        let waits = tracker.wait_guard();
        assert_eq!(scene.evict_idlest(0), [0]);
        drop((scene.clients.pop(), waits));
        scene.clients[1].mark_idle(Instant::now());
        let _all: Vec<_> = scene.clients.drain(..).collect();
        drop(_all);
        let clients = scene.tracker.lock();
        assert!(clients.list.is_empty() && clients.connections.is_empty() && clients.evicting == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_a_client_that_hardly_reads_makes_room() {
        let mut scene = TrackerScene::new(3);
        for client in 0..3 {
            scene.come(client).await;
        }
        scene.clients.iter().for_each(|client| client.mark_busy());
        let paces: Vec<_> = scene.clients.iter().map(|client| Arc::clone(&client.pace)).collect();
        let (_slow, _quick) = (paces[0].wait(), paces[1].wait());
        assert_eq!(scene.evict_idlest(0), [0; 0], "no client is judged that early");
        for _ in 0..4 {
            tokio::time::advance(JUDGED_AFTER / 2).await;
            paces[0].record_bytes(10);
            paces[1].record_bytes(20_000);
        }
        assert_eq!(scene.evict_idlest(0), [0], "one is quick, and one waits for its server");
        tokio::time::advance(9 * JUDGED_AFTER).await;
        drop(scene.clients.remove(0));
        assert_eq!(scene.evict_idlest(0), [0], "it does not read any more");
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_a_client_with_an_unfinished_head_goes_first() {
        let mut scene = TrackerScene::new(40);
        for client in [1, 2, 3] {
            scene.come(client).await;
        }
        scene.clients[0].mark_idle(Instant::now());
        scene.clients[2].mark_busy();
        assert_eq!(scene.evict_idlest(0), [0], "a new client stays while another is idle");
        tokio::time::advance(UNFINISHED_AFTER).await;
        let tracker = Arc::clone(&scene.tracker);
        let _waits = tracker.wait_guard();
        scene.come(4).await;
        assert_eq!(scene.evict_idlest(0), [1]);
        assert!(scene.clients[1].is_evicted.load(Ordering::Relaxed), "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_connections_beyond_a_share_go_before_others() {
        let mut scene = TrackerScene::new(20);
        for client in [1, 2, 2, 3] {
            scene.come(client).await;
            scene.clients.last().unwrap().mark_idle(Instant::now());
        }
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!(scene.evict_idlest(0), [1], "though the first has been idle for longer");
        scene.clients[1].tracked.is_notified.store(false, Ordering::Relaxed);
        scene.clients[1].set_client([10, 0, 0, 9].into());
        scene.clients[2].set_client([10, 0, 0, 8].into());
        scene.tracker.lock().evicting = 0;
        assert_eq!(scene.evict_idlest(0), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_one_client_does_not_get_the_last_connections() {
        let mut scene = TrackerScene::new(100);
        for _ in 0..90 {
            scene.come(1).await;
        }
        let has_share = |client: u8, free| scene.tracker.has_share_left([10, 0, 0, client].into(), free);
        assert!(!has_share(1, 10) && has_share(2, 10) && has_share(1, 11) && has_share(2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn gh9_some_are_evicted_before_a_client_waits_at_little_cost() {
        let mut scene = TrackerScene::new(1000);
        for client in 0..=255 {
            for _ in 0..4 {
                scene.come(client).await;
            }
        }
        scene.clients.iter().for_each(|tracked| tracked.mark_idle(Instant::now()));
        assert!(scene.tracker.is_short(19) && !scene.tracker.is_short(20));
        assert_eq!(scene.evict_idlest(15).len(), 5);
        let _waits: Vec<_> = (0..10).map(|_| scene.tracker.wait_guard()).collect();
        assert_eq!(scene.evict_idlest(15).len(), 0, "not that early");
        tokio::time::advance(SEARCH_INTERVAL).await;
        assert_eq!(scene.evict_idlest(15).len(), 10);
    }
}
