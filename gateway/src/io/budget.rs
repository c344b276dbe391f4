//! Bytes that the gateway holds for its clients: bodies on their way to nodes and answers of nodes
//! are held whole, and a client that sends slowly, or does not read, would have as many of them as
//! it likes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use net::address_group;

/// What each connection may hold without a word: nearly all answers are smaller. Ten thousand
/// connections have 160 MiB of these.
const OWN_BYTES: usize = 16 * 1024;
/// What is beyond that comes from the budget in pieces of this size.
const GRANT_BYTES: usize = 64 * 1024;

/// The bytes that all connections of the process may hold beyond their own. One client may hold at
/// most as much as is free: a single client half of the budget, two clients a third each.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    /// Held for moments only; nothing waits inside.
    state: Mutex<BudgetState>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct BudgetState {
    free: usize,
    held: HashMap<IpAddr, usize>,
}

/// The bytes that one connection holds.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionBudget {
    budget: Arc<Budget>,
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
}

/// The budget has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget;

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        let state = BudgetState { free: limit, held: HashMap::default() };
        Self { limit, state: Mutex::new(state), refused: AtomicU64::new(0) }
    }

    /// Bytes that are held now, rounded up, and how often a reservation was refused.
    pub(crate) fn usage(&self) -> (usize, u64) {
        (self.limit - self.lock().free, self.refused.load(Ordering::Relaxed))
    }

    fn try_reserve(&self, client: IpAddr, bytes: usize) -> bool {
        let mut state = self.lock();
        let BudgetState { free, held } = &mut *state;
        let has = held.get(&client).copied().unwrap_or(0);
        let may = free.checked_sub(bytes).is_some_and(|left| has + bytes <= left);
        if may {
            *free -= bytes;
            *held.entry(client).or_default() += bytes;
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    fn release(&self, client: IpAddr, bytes: usize) {
        let mut state = self.lock();
        state.free += bytes;
        if let Some(held) = state.held.get_mut(&client) {
            *held -= bytes;
            if *held == 0 {
                state.held.remove(&client);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionBudget {
    /// The account of a connection that holds nothing yet.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), own: Arc::new(AtomicUsize::new(0)) }
    }

    /// Reserves `bytes` for `client`.
    ///
    /// # Errors
    /// [`OverBudget`] when the client, or all clients together, hold as much as they may.
    pub(crate) fn reserve(&self, client: IpAddr, bytes: usize) -> Result<Reservation, OverBudget> {
        let mut held = Reservation { connection: self.clone(), client, own: 0, granted: 0 };
        held.grow_to(bytes)?;
        Ok(held)
    }
}

impl Reservation {
    /// Whether bytes of the shared budget are reserved.
    pub(crate) fn is_large(&self) -> bool {
        self.granted > 0
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn small_answers_are_free_and_large_ones_take_whole_pieces() {
        let budget = Arc::new(Budget::new(1 << 20));
        let account = ConnectionBudget::new(&budget);
        let small = account.reserve(client(1), OWN_BYTES - 1).unwrap();
        assert_eq!(budget.usage(), (0, 0));
        let large = account.reserve(client(1), 2).unwrap();
        assert_eq!(budget.usage(), (GRANT_BYTES, 0), "there is one byte of its own left");
        drop((small, large));
        assert_eq!((budget.usage(), account.own.load(Ordering::Relaxed)), ((0, 0), 0));
        let mut grows = account.reserve(client(1), 1).unwrap();
        for bytes in [OWN_BYTES, OWN_BYTES + 1, 2 * GRANT_BYTES, 3] {
            grows.grow_to(bytes).unwrap();
        }
        assert_eq!(budget.usage(), (2 * GRANT_BYTES, 0));
        drop(grows);
        assert!(budget.usage() == (0, 0) && budget.lock().held.is_empty());
    }

    #[test]
    fn one_client_has_half_and_others_have_a_share() {
        let budget = Arc::new(Budget::new(64 * GRANT_BYTES));
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
        assert_eq!(budget.usage(), (56 * GRANT_BYTES, 4));
        drop(held);
        assert_eq!(budget.usage().0, 0);
        let account = ConnectionBudget::new(&budget);
        assert!(account.reserve(client(1), 33 * GRANT_BYTES).is_err());
        assert!(account.reserve(client(1), usize::MAX / 2).is_err(), "more than any budget has");
    }
}
