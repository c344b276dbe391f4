//! Limits of the requests below a path: at a time, and per period for each client. The table of
//! clients is bounded.

use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use net::address_group;
use tokio::time::Instant;

use crate::io::fair_queue::FairQueue;

/// Maximum number of clients of a route whose rates are tracked: they take a megabyte and a half.
/// With more, those that have been away for longest are forgotten.
const MAX_CLIENTS: usize = 65_536;
/// Cells of a set. Each set is for clients with similar hashes.
const WAYS: usize = 4;
const SETS: usize = MAX_CLIENTS / WAYS;

/// Limits of one route. A copy begins with empty counts.
#[derive(Debug)]
pub struct RouteLimits {
    /// Requests at a time, over all workers.
    pub(crate) max_concurrency: Option<usize>,
    /// Percent of these that one client alone may have.
    client_share: u8,
    /// Requests per period.
    pub(crate) rate: Option<Rate>,
    in_flight: Option<Arc<InFlight>>,
    clients: Mutex<Option<ClientRates>>,
}

/// A number of requests per period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub requests: u32,
    /// The period in which they are counted.
    pub every: Duration,
    /// Requests that may arrive at once.
    pub burst: u32,
    /// Which requests count together.
    pub by: RateBy,
}

/// Which requests count together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateBy {
    /// All requests of the route.
    Route,
    /// Requests from one address; for IPv6, from one /64, which belongs to one customer.
    Address,
    /// Requests with the same value of this header field; those without it count together.
    Header(String),
}

/// Requests of each client at a time. No request waits.
type InFlight = Mutex<FairQueue<Infallible>>;

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// All clients, or this client, have as many requests at a time as allowed.
    Concurrency,
    /// There will be room after this time.
    Rate { wait: Duration },
}

/// Counts a request until it is dropped.
#[derive(Debug)]
pub(crate) struct RouteGuard(Option<(Arc<InFlight>, IpAddr)>);

impl Default for RouteLimits {
    fn default() -> Self {
        Self::new(None, None, 100)
    }
}

impl Clone for RouteLimits {
    fn clone(&self) -> Self {
        Self::new(self.max_concurrency, self.rate.clone(), self.client_share)
    }
}

impl RouteLimits {
    /// Limits of `max_concurrency` requests at a time, of which one client alone may have
    /// `client_share` percent, and of `rate` per period.
    pub fn new(max_concurrency: Option<usize>, rate: Option<Rate>, client_share: u8) -> Self {
        let in_flight = max_concurrency.map(|limit| Arc::new(Mutex::new(FairQueue::new(limit, client_share, 0))));
        Self { max_concurrency, client_share, rate, in_flight, clients: Mutex::default() }
    }

    /// Admits a request, or says why not. `header`: the value of the field that [`RateBy::Header`]
    /// names.
    pub(crate) fn admit(
        &self,
        client: IpAddr,
        header: Option<&[u8]>,
        now: Instant,
    ) -> Result<RouteGuard, LimitExceeded> {
        if let Some(rate) = &self.rate {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let clients = clients.get_or_insert_with(|| ClientRates::new(now));
            let spent = match &rate.by {
                RateBy::Route => clients.try_spend(rate, &(), now),
                RateBy::Address => clients.try_spend(rate, &address_group(client), now),
                RateBy::Header(_) => clients.try_spend(rate, &header, now),
            };
            spent.map_err(|wait| LimitExceeded::Rate { wait })?;
        }
        let Some(in_flight) = &self.in_flight else { return Ok(RouteGuard(None)) };
        let client = address_group(client);
        if !in_flight.lock().unwrap_or_else(PoisonError::into_inner).try_acquire(client) {
            return Err(LimitExceeded::Concurrency);
        }
        Ok(RouteGuard(Some((Arc::clone(in_flight), client))))
    }

    /// The field whose value [`admit`](Self::admit) needs.
    pub(crate) fn header(&self) -> Option<&str> {
        match &self.rate.as_ref()?.by {
            RateBy::Header(name) => Some(name),
            RateBy::Route | RateBy::Address => None,
        }
    }
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        if let Some((in_flight, client)) = &self.0 {
            in_flight.lock().unwrap_or_else(PoisonError::into_inner).release(*client);
        }
    }
}

/// The generic cell rate algorithm: one time for each client, at which it has paid for its
/// requests.
#[derive(Debug)]
struct ClientRates {
    cells: Vec<[RateCell; WAYS]>,
    /// The hasher of clients. Its seed is random, so that a client cannot choose its cell.
    hasher: std::collections::hash_map::RandomState,
    since: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct RateCell {
    tag: u64,
    /// The time until which requests are paid, in nanoseconds since the table began.
    paid_at: u64,
}

impl ClientRates {
    fn new(now: Instant) -> Self {
        Self { cells: vec![Default::default(); SETS], hasher: Default::default(), since: now }
    }

    /// Takes one request of a client, or says when there will be room for it.
    fn try_spend(&mut self, rate: &Rate, client: &impl std::hash::Hash, now: Instant) -> Result<(), Duration> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let hash = self.hasher.hash_one(client);
        // Times begin at 1: 0 is a free cell.
        let now = nanos(now.saturating_duration_since(self.since)) + 1;
        let interval = nanos(rate.every / rate.requests.max(1));
        let ahead = interval.saturating_mul(rate.burst.max(1).into());
        let set = &mut self.cells[usize::try_from(hash).unwrap_or_default() % SETS];
        // Its own cell, or else that of the client that has been away for longest, which has
        // usually paid by now.
        let own = set.iter().position(|cell| cell.tag == hash);
        let at = own.unwrap_or_else(|| (0..WAYS).min_by_key(|at| set[*at].paid_at).unwrap_or(0));
        let paid_at = if own.is_some() { set[at].paid_at.max(now) } else { now };
        let wait = (paid_at + interval).saturating_sub(now + ahead);
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        set[at] = RateCell { tag: hash, paid_at: paid_at + interval };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_concurrency: Option<usize>, requests: u32, burst: u32, by: RateBy) -> RouteLimits {
        let rate = (requests > 0).then(|| Rate { requests, every: Duration::from_secs(1), burst, by });
        RouteLimits::new(max_concurrency, rate, 90)
    }

    fn taken(limits: &RouteLimits, client: &str, header: Option<&[u8]>, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limits.admit(client.parse().unwrap(), header, now).is_ok()).count()
    }

    #[tokio::test]
    async fn ov8_each_client_gets_its_own_rate() {
        let limits = limits(None, 10, 20, RateBy::Address);
        let start = Instant::now();
        assert_eq!(taken(&limits, "10.0.0.1", None, start, 100), 20);
        assert_eq!(taken(&limits, "::ffff:10.0.0.1", None, start, 100), 0, "the same");
        assert_eq!(taken(&limits, "10.0.0.2", None, start, 100), 20, "another");
        assert_eq!(taken(&limits, "10.0.0.1", None, start + Duration::from_millis(500), 100), 5);
        assert_eq!(taken(&limits, "10.0.0.1", None, start + Duration::from_secs(60), 100), 20, "no more is saved");
        assert_eq!(taken(&limits, "2001:db8::1", None, start, 100), 20);
        assert_eq!(taken(&limits, "2001:db8::2:3", None, start, 100), 0, "one /64 is one client");
        assert_eq!(taken(&limits, "2001:db8:0:1::1", None, start, 100), 20);
    }

    #[tokio::test]
    async fn c13_a_client_is_told_when_there_will_be_room() {
        let rate = Rate { requests: 3, every: Duration::from_secs(10), burst: 3, by: RateBy::Address };
        let limits = RouteLimits::new(None, Some(rate), 90);
        let start = Instant::now();
        assert_eq!(taken(&limits, "10.0.0.1", None, start, 9), 3);
        let wait = |after: f64| match limits.admit(
            "10.0.0.1".parse().unwrap(),
            None,
            start + Duration::from_secs_f64(after),
        ) {
            Err(LimitExceeded::Rate { wait }) => Some(wait.as_millis()),
            _ => None,
        };
        assert_eq!(
            [wait(0.0), wait(1.0), wait(3.3), wait(3.34), wait(3.34)],
            [Some(3333), Some(2333), Some(33), None, Some(3326)]
        );
    }

    #[tokio::test]
    async fn rates_count_by_header_and_by_route() {
        let by_header = limits(None, 1, 1, RateBy::Header("x-key".to_owned()));
        let now = Instant::now();
        for key in [Some(&b"a"[..]), Some(b"b"), None] {
            assert_eq!(taken(&by_header, "10.0.0.1", key, now, 3), 1);
        }
        let by_route = limits(None, 5, 1, RateBy::Route);
        assert_eq!(taken(&by_route, "10.0.0.1", None, now, 3) + taken(&by_route, "10.0.0.2", None, now, 3), 1);
    }

    #[tokio::test]
    async fn the_table_keeps_its_size_and_forgets_the_oldest() {
        let limits = limits(None, 1, 1, RateBy::Address);
        let now = Instant::now();
        let clients = u32::try_from(SETS * WAYS * 4).unwrap();
        for client in 0..clients {
            let client = IpAddr::from(client.to_be_bytes());
            assert!(limits.admit(client, None, now + Duration::from_micros(1)).is_ok());
        }
        assert_eq!(limits.clients.lock().unwrap().as_ref().unwrap().cells.len(), SETS);
        let last = IpAddr::from((clients - 1).to_be_bytes());
        assert!(limits.admit(last, None, now + Duration::from_micros(2)).is_err(), "this client was here just before");
    }

    #[tokio::test]
    async fn ov7_requests_at_a_time_are_limited() {
        let limits = limits(Some(2), 0, 0, RateBy::Route);
        let take = || limits.admit([10, 0, 0, 1].into(), None, Instant::now());
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_eq!(take().unwrap_err(), LimitExceeded::Concurrency);
        drop(first);
        let third = take().unwrap();
        assert_eq!(take().unwrap_err(), LimitExceeded::Concurrency);
        drop((second, third));
        assert_eq!(limits.in_flight.as_ref().unwrap().lock().unwrap().free(), 2);
    }

    #[tokio::test]
    async fn ov9_one_client_does_not_take_all_requests_of_a_route() {
        let limits = limits(Some(100), 0, 0, RateBy::Route);
        let take = |last, tries| {
            let client = [10, 0, 0, last].into();
            (0..tries).map_while(|_| limits.admit(client, None, Instant::now()).ok()).collect::<Vec<_>>()
        };
        let first = take(1, 200);
        assert_eq!(first.len(), 90);
        assert_eq!(take(2, 200).len(), 9, "room is left for other clients");
        drop(first);
        assert_eq!(take(2, 200).len(), 90);
    }
}
