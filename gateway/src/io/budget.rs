//! Bytes that the gateway holds for its clients. Bodies on their way to nodes, and responses of
//! nodes, are held whole. Without a budget, a client that sends slowly or does not read could have
//! any number of them held.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use net::address_group;
use tokio::time::Instant;

use crate::io::fair_queue::FairQueue;
use crate::io::recent_table::RecentTable;

/// The bytes that each connection may hold without a reservation: nearly all responses are smaller.
/// Ten thousand connections have 160 MiB of these.
pub(crate) const OWN_BYTES: usize = 16 * 1024;
/// Beyond that, bytes are taken from the budget in pieces of this size.
const GRANT_BYTES: usize = 64 * 1024;
/// Room is short once more than an eighth of the budget is held, and until less than a sixteenth
/// is.
const SHORT_FROM_DIVISOR: usize = 8;
const SHORT_UNTIL_DIVISOR: usize = 16;
/// How long an unread response of a client, and its size, are remembered. This is longer than the
/// usual `write_timeout`, so that a client that does it again and again is recognised.
const UNREAD_MEMORY_TIME: Duration = Duration::from_secs(60);
/// Such a client may hold an eighth (1 / this) of the free bytes.
const UNREAD_DIVISOR: usize = 8;
/// Maximum number of calls of unknown response size that such a client may make at a time.
const UNREAD_CALLS: usize = 4;
/// Calls at a time, while room is short, whose responses may turn out to be large: as many as there
/// are clients. One client may have as many as are free: alone half.
const MAX_UNSIZED_CALLS: usize = 10_000;
const UNSIZED_CALLS_SHARE: u8 = 50;

/// The bytes that all connections of the process may hold beyond their own. One client may hold at
/// most as much as is free: a single client half of the budget, two clients a third each.
#[derive(Debug)]
pub(crate) struct HeldBudget {
    limit: usize,
    /// Whether room is short. Changes rarely, and is read for each call.
    is_short: AtomicBool,
    /// Locked only briefly; nothing waits while it is.
    state: Mutex<BudgetState>,
    refused: AtomicU64,
    /// Responses that clients have left unread.
    unread: AtomicU64,
    hasher: std::collections::hash_map::RandomState,
}

#[derive(Debug)]
struct BudgetState {
    free: usize,
    held: HashMap<IpAddr, usize>,
    /// Clients that have left a response unread.
    unread: RecentTable,
    /// The sizes of nodes' last large responses, by method and path.
    sizes: RecentTable,
    /// Calls that were made while room was short, and nothing was known of their responses.
    unsized_calls: FairQueue<std::convert::Infallible>,
}

/// The bytes that one connection holds.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionBudget {
    budget: Arc<HeldBudget>,
    /// Bytes of its own allowance that are in use.
    own: Arc<AtomicUsize>,
}

/// A reservation of bytes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    connection: ConnectionBudget,
    client: IpAddr,
    own: usize,
    granted: usize,
    /// Whether the bytes are those of a response that its client is to read.
    is_response: bool,
}

/// The budget has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget;

/// How much is held, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BudgetUsage {
    /// Bytes that are held now, rounded up.
    pub(crate) held: usize,
    /// How often a reservation, or a call whose response would have needed one, was refused.
    pub(crate) refused: u64,
    /// Responses that clients have left unread.
    pub(crate) unread: u64,
}

impl HeldBudget {
    pub(crate) fn new(limit: usize) -> Self {
        let state = BudgetState {
            free: limit,
            held: HashMap::default(),
            unread: RecentTable::default(),
            sizes: RecentTable::default(),
            unsized_calls: FairQueue::new(MAX_UNSIZED_CALLS, UNSIZED_CALLS_SHARE, 0),
        };
        Self {
            limit,
            is_short: AtomicBool::new(false),
            state: Mutex::new(state),
            refused: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            hasher: Default::default(),
        }
    }

    pub(crate) fn usage(&self) -> BudgetUsage {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BudgetUsage { held: self.limit - self.lock().free, refused: count(&self.refused), unread: count(&self.unread) }
    }

    fn try_reserve(&self, client: IpAddr, bytes: usize) -> bool {
        let mut state = self.lock();
        let divisor = if self.has_left_unread(&state, client) { UNREAD_DIVISOR } else { 1 };
        let BudgetState { free, held, .. } = &mut *state;
        let held_by_client = held.get(&client).copied().unwrap_or(0);
        let fits = free.checked_sub(bytes).is_some_and(|left| held_by_client + bytes <= left / divisor);
        if fits {
            *free -= bytes;
            *held.entry(client).or_default() += bytes;
            if self.limit - *free > self.limit / SHORT_FROM_DIVISOR {
                self.is_short.store(true, Ordering::Relaxed);
            }
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn release(&self, client: IpAddr, bytes: usize) {
        let mut state = self.lock();
        state.free += bytes;
        if self.limit - state.free < self.limit / SHORT_UNTIL_DIVISOR {
            self.is_short.store(false, Ordering::Relaxed);
        }
        if let Some(held) = state.held.get_mut(&client) {
            *held -= bytes;
            if *held == 0 {
                state.held.remove(&client);
            }
        }
    }

    /// Whether room is short, so that calls need room for their responses before they are made.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// The size of the last response to this request, if it was large and recent.
    pub(super) fn last_size(&self, method: &str, path: &str) -> Option<usize> {
        self.lock().sizes.find(self.hasher.hash_one((method, path)), Instant::now())
    }

    /// Records the size of a response to this request.
    pub(super) fn record_size(&self, method: &str, path: &str, bytes: usize) {
        let (hash, until) = (self.hasher.hash_one((method, path)), Instant::now() + UNREAD_MEMORY_TIME);
        let mut state = self.lock();
        if bytes > OWN_BYTES { state.sizes.record(hash, bytes, until) } else { state.sizes.remove(hash) }
    }

    /// Counts a call of whose response nothing is known, if `client` may have one more.
    pub(super) fn try_count_unsized(&self, client: IpAddr) -> Result<(), OverBudget> {
        let client = address_group(client);
        let mut state = self.lock();
        let has_enough = self.has_left_unread(&state, client) && state.unsized_calls.held_by(client) >= UNREAD_CALLS;
        if has_enough || !state.unsized_calls.try_acquire(client) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(OverBudget);
        }
        Ok(())
    }

    /// Records that such a call is over.
    pub(super) fn release_unsized(&self, client: IpAddr) {
        self.lock().unsized_calls.release(address_group(client));
    }

    /// Records that a client has left a response unread.
    fn record_unread(&self, client: IpAddr) {
        self.unread.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + UNREAD_MEMORY_TIME;
        self.lock().unread.record(self.hasher.hash_one(client), 0, until);
    }

    /// Whether a client has left a response unread recently. Mostly no client has, and the clock is
    /// not read then.
    fn has_left_unread(&self, state: &BudgetState, client: IpAddr) -> bool {
        !state.unread.is_empty() && state.unread.find(self.hasher.hash_one(client), Instant::now()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionBudget {
    /// The account of a connection that holds nothing yet.
    pub(crate) fn new(budget: &Arc<HeldBudget>) -> Self {
        Self { budget: Arc::clone(budget), own: Arc::new(AtomicUsize::new(0)) }
    }

    /// The budget of all connections.
    pub(super) fn shared(&self) -> &Arc<HeldBudget> {
        &self.budget
    }

    /// Reserves `bytes` for `client`.
    ///
    /// # Errors
    /// [`OverBudget`] when the client, or all clients together, hold as much as they may.
    pub(crate) fn reserve(&self, client: IpAddr, bytes: usize) -> Result<Reservation, OverBudget> {
        let mut held = Reservation { connection: self.clone(), client, own: 0, granted: 0, is_response: false };
        held.grow_to(bytes)?;
        Ok(held)
    }
}

impl Reservation {
    /// Whether bytes of the shared budget are reserved.
    pub(crate) fn is_large(&self) -> bool {
        self.granted > 0
    }

    /// Records that the client has read the response.
    pub(crate) fn complete(mut self) {
        self.is_response = false;
    }

    /// Makes it a reservation for a response of `bytes` bytes, which its client has to read.
    ///
    /// # Errors
    /// As [`ConnectionBudget::reserve`]. Bytes that were held before stay reserved.
    pub(super) fn resize_for_response(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let is_own = self.connection.own.load(Ordering::Relaxed) + bytes <= OWN_BYTES;
        let wanted = if is_own { 0 } else { bytes.saturating_sub(self.own).next_multiple_of(GRANT_BYTES) };
        let surplus = self.granted.saturating_sub(wanted);
        if surplus > 0 {
            self.granted -= surplus;
            self.connection.budget.release(self.client, surplus);
        }
        self.grow_to(bytes)?;
        self.is_response = true;
        Ok(())
    }

    /// Raises the reservation to `bytes`, if that is more.
    ///
    /// # Errors
    /// As [`ConnectionBudget::reserve`]. Bytes that were held before stay reserved.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let more = bytes.saturating_sub(self.own + self.granted);
        if more == 0 {
            return Ok(());
        }
        // Written by one task alone.
        let used = self.connection.own.load(Ordering::Relaxed);
        if self.granted == 0 && used + more <= OWN_BYTES {
            self.connection.own.store(used + more, Ordering::Relaxed);
            self.own += more;
            return Ok(());
        }
        self.grant(more)
    }

    /// As [`grow_to`](Self::grow_to), but leaves the connection's own allowance to its other
    /// reservations. A reservation uses either the allowance or the budget.
    pub(crate) fn grow_shared_to(&mut self, bytes: usize) -> Result<(), OverBudget> {
        match bytes.saturating_sub(self.granted) {
            0 => Ok(()),
            more => self.grant(more),
        }
    }

    fn grant(&mut self, more: usize) -> Result<(), OverBudget> {
        let client = address_group(self.client);
        let grant = more.next_multiple_of(GRANT_BYTES);
        if !self.connection.budget.try_reserve(client, grant) {
            return Err(OverBudget);
        }
        (self.client, self.granted) = (client, self.granted + grant);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.own > 0 {
            self.connection.own.fetch_sub(self.own, Ordering::Relaxed);
        }
        if self.granted > 0 {
            self.connection.budget.release(self.client, self.granted);
            if self.is_response {
                self.connection.budget.record_unread(self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn used(budget: &HeldBudget) -> (usize, u64) {
        let usage = budget.usage();
        (usage.held, usage.refused)
    }

    #[test]
    fn small_answers_are_free_and_large_ones_take_whole_pieces() {
        let budget = Arc::new(HeldBudget::new(1 << 20));
        let account = ConnectionBudget::new(&budget);
        let small = account.reserve(client(1), OWN_BYTES - 1).unwrap();
        assert_eq!(used(&budget), (0, 0));
        let large = account.reserve(client(1), 2).unwrap();
        assert_eq!(used(&budget), (GRANT_BYTES, 0), "one byte of its own allowance is left");
        drop((small, large));
        assert_eq!((used(&budget), account.own.load(Ordering::Relaxed)), ((0, 0), 0));
        let mut grows = account.reserve(client(1), 1).unwrap();
        for bytes in [OWN_BYTES, OWN_BYTES + 1, 2 * GRANT_BYTES, 3] {
            grows.grow_to(bytes).unwrap();
        }
        assert_eq!(used(&budget), (2 * GRANT_BYTES, 0));
        drop(grows);
        assert!(used(&budget) == (0, 0) && budget.lock().held.is_empty());
    }

    #[test]
    fn one_client_has_half_and_others_have_a_share() {
        let budget = Arc::new(HeldBudget::new(64 * GRANT_BYTES));
        let mut held = Vec::new();
        let mut take = |number: u8| {
            let before = held.len();
            // Each with a connection of its own.
            while let Ok(one) = ConnectionBudget::new(&budget).reserve(client(number), OWN_BYTES + 1) {
                held.push(one);
            }
            held.len() - before
        };
        assert_eq!([take(1), take(2), take(3), take(1)], [32, 16, 8, 0]);
        assert_eq!(used(&budget), (56 * GRANT_BYTES, 4));
        drop(held);
        assert_eq!(used(&budget).0, 0);
        let account = ConnectionBudget::new(&budget);
        assert!(account.reserve(client(1), 33 * GRANT_BYTES).is_err());
        assert!(account.reserve(client(1), usize::MAX / 2).is_err(), "more than any budget has");
    }
}
