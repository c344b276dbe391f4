//! The permits of one server: how many requests and tunnels it is sent at a time, and the queue of
//! waiting ones.
//!
//! No client has all permits of a server ([`FairQueue`]). While permits are short, clients that
//! make a server wait are evicted ([`Holders`]). Tunnels have permits of their own.
//!
//! It must not know what a request says, or pick the server that it goes to.

pub(crate) mod holders;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use net::{LogThrottle, ServerAddress, address_group};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use self::holders::{Holder, Holders, PermitKind};
use crate::io::fair_queue::FairQueue;
use crate::upstream::drop_unused;
use crate::upstream::endpoint::Endpoint;

/// Maximum number of requests that wait for one server. Beyond this number, a refusal at once is
/// better than a late response.
pub(crate) const MAX_WAITING: usize = 1024;
/// How long permits count as short after a request had to wait. During that time slow clients are
/// evicted, so that some permits stay free.
const CROWDED_PERIOD: Duration = Duration::from_secs(10);
/// How often slow clients are searched for, however many requests arrive.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// One sweep closes at most 1 of 512 tunnels (1 / this), so that waiting tunnels replace the
/// present ones within seconds and not at once. Each new tunnel costs its worker a connection to
/// the server, for which other requests wait.
const TUNNELS_FOR_ONE: usize = 512;
/// A waiting request that has found no slow client searches again after a pause that grows by this
/// factor. After a search that has found some the pause is short again, because the next holders of
/// their permits may be as slow.
const BACKOFF_FACTOR: u32 = 4;

/// The permits of one server, for all workers.
#[derive(Debug)]
pub(crate) struct ServerPermits {
    limit: usize,
    kind: PermitKind,
    /// The free permits of `state`, to be read without the lock.
    free: AtomicUsize,
    /// Requests and tunnels that were evicted, over all servers.
    evicted: Arc<AtomicU64>,
    /// Locked only briefly; nothing waits while it is.
    state: Mutex<PermitState>,
}

#[derive(Debug)]
struct PermitState {
    queue: FairQueue<oneshot::Sender<InnerPermit>>,
    holders: Holders,
    drain_rate: DrainRate,
    /// The time until which permits count as short.
    crowded_until: Option<Instant>,
    next_sweep: Option<Instant>,
    throttle: LogThrottle,
}

/// How fast permits are released while requests wait for them. A request that would wait for too
/// long is refused at once.
#[derive(Debug, Default)]
struct DrainRate {
    /// When the last permit was released, or a request began to wait for the next one.
    last: Option<Instant>,
    /// The mean of the times between releases.
    interval: Duration,
}

/// The key of a server's permits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PermitKey {
    server: ServerAddress,
    limit: usize,
    client_share: u8,
    is_for_tunnels: bool,
}

/// The permits of all servers: two routes may have different limits for one server.
#[derive(Debug, Default)]
pub(crate) struct PermitTable {
    known: Mutex<HashMap<PermitKey, Weak<ServerPermits>>>,
    evicted: Arc<AtomicU64>,
}

/// One permit of a server, until it is dropped.
#[derive(Debug)]
struct InnerPermit {
    permits: Arc<ServerPermits>,
    client: IpAddr,
    /// The holder, once the request has had to wait for its client.
    holder: OnceLock<Arc<Holder>>,
}

/// The right to send a server one request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    endpoint: Arc<Endpoint>,
    /// When it was granted.
    pub(crate) acquired_at: Instant,
    inner: InnerPermit,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// The request would wait for too long, or the queue is full.
    Full,
    /// The request has waited for too long.
    TimedOut,
}

impl PermitTable {
    /// The permits of a server. A different limit or share has permits of its own.
    pub(crate) fn permits_for(
        &self,
        server: ServerAddress,
        kind: PermitKind,
        limit: usize,
        client_share: u8,
    ) -> Arc<ServerPermits> {
        let key = PermitKey { server, limit, client_share, is_for_tunnels: kind == PermitKind::Tunnels };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = known.get(&key).and_then(Weak::upgrade) {
            return permits;
        }
        drop_unused(&mut known);
        let permits = Arc::new(ServerPermits::new(limit, kind, client_share, Arc::clone(&self.evicted)));
        known.insert(key, Arc::downgrade(&permits));
        permits
    }

    /// The number of requests and tunnels that were evicted for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }
}

impl ServerPermits {
    fn new(limit: usize, kind: PermitKind, client_share: u8, evicted: Arc<AtomicU64>) -> Self {
        let state = PermitState {
            queue: FairQueue::new(limit, client_share, MAX_WAITING),
            holders: Holders::default(),
            drain_rate: DrainRate::default(),
            crowded_until: None,
            next_sweep: None,
            throttle: LogThrottle::default(),
        };
        Self { limit, kind, free: AtomicUsize::new(limit), evicted, state: Mutex::new(state) }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.load(Ordering::Relaxed) == 0
    }

    /// Whether more than half of the permits are taken. A request whose body has not arrived then
    /// gets none.
    pub(crate) fn is_half_full(&self) -> bool {
        self.free.load(Ordering::Relaxed) < self.limit / 2
    }

    /// Takes a permit for a request of `client`, if it may have one now.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        client: IpAddr,
        now: Instant,
    ) -> Option<Permit> {
        let client = address_group(client);
        let mut state = self.lock();
        if !state.queue.try_acquire(client) {
            return None;
        }
        let free = state.queue.free();
        self.free.store(free, Ordering::Relaxed);
        if state.crowded_until.is_some() && free < self.limit / 8 {
            self.keep_some_free(&mut state, now);
        }
        drop(state);
        Some(self.issue_permit(endpoint, InnerPermit::new(self, client), now))
    }

    /// Takes a permit for a request of `client`. Waits for one until `deadline`, if it may become
    /// free by then.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        client: IpAddr,
        now: Instant,
        deadline: Instant,
    ) -> Result<Permit, QueueError> {
        if let Some(permit) = self.try_acquire(endpoint, client, now) {
            return Ok(permit);
        }
        let (grant, mut granted) = oneshot::channel();
        let _waiting =
            QueuedRequest::enqueue(self, address_group(client), grant, now, deadline).ok_or(QueueError::Full)?;
        let mut pause = SWEEP_INTERVAL;
        loop {
            let now = Instant::now();
            pause = if self.evict_for_waiters(now) > 0 { SWEEP_INTERVAL } else { pause };
            let next_search = now + pause;
            pause *= BACKOFF_FACTOR;
            match timeout_at(deadline.min(next_search), &mut granted).await {
                Ok(Ok(inner)) => return Ok(self.issue_permit(endpoint, inner, Instant::now())),
                // A request of a client with fewer queued requests has displaced it.
                Ok(Err(_displaced)) => return Err(QueueError::Full),
                Err(_elapsed) if next_search >= deadline => return Err(QueueError::TimedOut),
                Err(_elapsed) => {}
            }
        }
    }

    /// Evicts slow clients if a request waits. Returns how many.
    fn evict_for_waiters(&self, now: Instant) -> usize {
        let mut state = self.lock();
        if state.queue.waiting() == 0 {
            return 0;
        }
        state.crowded_until = Some(now + CROWDED_PERIOD);
        self.evict_slow(&mut state, now)
    }

    /// Keeps a few permits free for others, if a request had to wait recently.
    fn keep_some_free(&self, state: &mut PermitState, now: Instant) {
        if state.crowded_until.is_some_and(|until| now >= until) {
            state.crowded_until = None;
        } else if self.kind == PermitKind::Requests {
            self.evict_slow(state, now);
        }
    }

    fn evict_slow(&self, state: &mut PermitState, now: Instant) -> usize {
        if state.next_sweep.is_some_and(|next| now < next) {
            return 0;
        }
        state.next_sweep = Some(now + SWEEP_INTERVAL);
        let wanted = match self.kind {
            // More than are needed now, so that later requests need not wait.
            PermitKind::Requests => (self.limit / 4).saturating_sub(state.queue.free()).max(1),
            PermitKind::Tunnels => state.queue.waiting().min(self.limit.div_ceil(TUNNELS_FOR_ONE)),
        };
        let wanted = wanted.saturating_sub(state.holders.evicting());
        let evicted = state.holders.evict_slow(self.kind, now, wanted, self.limit / 4 * 3);
        self.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        if evicted > 0
            && let Some(suppressed) = state.throttle.allow(now.into_std())
        {
            let what = match self.kind {
                PermitKind::Requests => "requests of slow clients are evicted",
                PermitKind::Tunnels => "the tunnels that have been silent for longest are evicted",
            };
            warn!(limit = self.limit, evicted, suppressed, "{what}: others wait for their server");
        }
        evicted
    }

    fn issue_permit(self: &Arc<Self>, endpoint: &Arc<Endpoint>, inner: InnerPermit, now: Instant) -> Permit {
        endpoint.load.begin(now.into_std());
        Permit { endpoint: Arc::clone(endpoint), acquired_at: now, inner }
    }

    fn lock(&self) -> MutexGuard<'_, PermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InnerPermit {
    fn new(permits: &Arc<ServerPermits>, client: IpAddr) -> Self {
        Self { permits: Arc::clone(permits), client, holder: OnceLock::new() }
    }
}

impl Drop for InnerPermit {
    fn drop(&mut self) {
        // Dropped last, when the lock is free.
        let mut unwanted = Vec::new();
        let mut state = self.permits.lock();
        if let Some(holder) = self.holder.get() {
            state.holders.remove(holder);
        }
        state.queue.release(self.client);
        if state.queue.waiting() > 0 {
            // The rate matters only while requests wait.
            state.drain_rate.record_release(Instant::now());
            // As many as allowed now: a client that waited because of its share may have room for
            // more than one.
            while let Some((client, waiter)) = state.queue.pop() {
                // A request leaves the queue before it stops listening. If one had not, its permit
                // would be released again.
                unwanted.extend(waiter.send(Self::new(&self.permits, client)).err());
            }
        }
        self.permits.free.store(state.queue.free(), Ordering::Relaxed);
        drop(state);
    }
}

impl Permit {
    /// Records whether the request waits for its client. From the first wait on it may be evicted.
    pub(crate) fn set_waiting_for_client(&self, waits: bool) {
        match self.inner.holder.get() {
            Some(holder) => holder.set_waiting(waits),
            None if waits => drop(self.holder()),
            None => {}
        }
    }

    /// Counts bytes that the client has sent or read.
    pub(crate) fn record_bytes(&self, bytes: usize) {
        if let Some(holder) = self.inner.holder.get() {
            holder.record_bytes(bytes as u64);
        }
    }

    /// Completes when the request is evicted. The task that calls
    /// [`set_waiting_for_client`](Self::set_waiting_for_client) polls it afterwards.
    pub(crate) fn poll_evicted(&self, task: &Context<'_>) -> Poll<()> {
        self.inner.holder.get().map_or(Poll::Pending, |holder| holder.poll_evicted(task))
    }

    /// Lets the request be evicted from now on.
    pub(crate) fn holder(&self) -> &Holder {
        let InnerPermit { permits, client, holder } = &self.inner;
        holder.get_or_init(|| permits.lock().holders.add(*client, Instant::now()))
    }
}

impl DrainRate {
    /// The weight of a sample in the mean: 1 / 32 (1 / this). Permits become free by the dozen.
    const EWMA_DIVISOR: u32 = 32;

    /// Records that a permit is released while a request waits.
    fn record_release(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.interval =
                (self.interval * (Self::EWMA_DIVISOR - 1) + now.saturating_duration_since(last)) / Self::EWMA_DIVISOR;
        }
    }

    /// How long a request that begins to wait at `now` behind `ahead` others will wait. The first
    /// of the queue always waits, and so measures whether the rate has improved.
    fn predicted_wait(&mut self, now: Instant, ahead: usize) -> Duration {
        if ahead == 0 {
            // No request waited for permits that were released earlier.
            self.last = Some(now);
        }
        self.interval.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX))
    }
}

/// A request in the queue, until it is dropped.
struct QueuedRequest<'a> {
    permits: &'a ServerPermits,
    client: IpAddr,
    ticket: u64,
}

impl<'a> QueuedRequest<'a> {
    /// Enqueues a request; `None` when its deadline would be over before its turn, or when the
    /// queue is full.
    fn enqueue(
        permits: &'a ServerPermits,
        client: IpAddr,
        grant: oneshot::Sender<InnerPermit>,
        now: Instant,
        deadline: Instant,
    ) -> Option<Self> {
        let mut state = permits.lock();
        let ahead = state.queue.ahead(client);
        if now + state.drain_rate.predicted_wait(now, ahead) > deadline {
            return None;
        }
        let ticket = state.queue.enqueue(client, grant)?;
        Some(Self { permits, client, ticket })
    }
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        self.permits.lock().queue.cancel(self.client, self.ticket);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.endpoint.load.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ov1_the_predicted_wait_follows_the_drain_rate() {
        let mut now = Instant::now();
        let mut drain_rate = DrainRate::default();
        assert_eq!(drain_rate.predicted_wait(now, usize::MAX), Duration::ZERO, "no rate is known yet");
        // In a queue of `length`, `times` permits are released, one every `each` milliseconds.
        let mut check = |drain_rate: &mut DrainRate, length: usize, times: usize, each: u64, expected: u64| {
            for at in 0..times {
                if at % length == 0 {
                    // A long time in which no request waits does not count.
                    now += Duration::from_secs(1000);
                    assert_eq!(
                        drain_rate.predicted_wait(now, 0),
                        Duration::ZERO,
                        "the first of the queue always waits"
                    );
                }
                now += Duration::from_millis(each);
                drain_rate.record_release(now);
            }
            let (seen, expected) = (drain_rate.predicted_wait(now, 100), Duration::from_millis(expected * 100));
            assert!(seen.abs_diff(expected) < expected / 10, "{seen:?} is not {expected:?}");
        };
        check(&mut drain_rate, 100, 200, 5, 5);
        check(&mut drain_rate, 100, 200, 1, 1);
        check(&mut drain_rate, 1, 200, 7, 7);
        // A request that waits alone notices that the rate has improved.
        check(&mut drain_rate, 1, 200, 2, 2);
    }
}
