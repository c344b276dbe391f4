//! The turns of the members of a pool, shared by all threads of a process. If each thread counted
//! for itself and calls were few, several threads would often call the same member in a row.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Turns of pools that no longer exist are removed when the number of pools has doubled, and is at
/// least this.
const MIN_SWEPT: usize = 64;

/// The position of a pool in its schedule. Clones share it.
#[derive(Clone, Debug)]
pub struct Turns(Arc<AtomicUsize>);

/// The turns of all pools of a process.
#[derive(Debug, Default)]
pub struct SharedTurns {
    state: Mutex<TurnsState>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct TurnsState {
    /// The turns by a hash of the key of the pool, such as its route.
    turns: HashMap<u64, Weak<AtomicUsize>>,
    /// The size at which the turns of pools that no longer exist are removed.
    sweep_at: usize,
}

impl Default for Turns {
    /// Turns that begin at a random position, because many processes start together.
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(fastrand::usize(..))))
    }
}

impl Turns {
    /// The position whose turn it is. The turn is over then if `step` is 1, and not if it is 0.
    pub(super) fn take(&self, step: usize) -> usize {
        self.0.fetch_add(step, Ordering::Relaxed)
    }

    /// Gives back a turn that the member could not use.
    pub(super) fn return_turn(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedTurns {
    /// The turns of the pools with this key, such as a route, in all threads.
    pub fn of(&self, what: impl Hash) -> Turns {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.turns.len() >= state.sweep_at.max(MIN_SWEPT) {
            state.turns.retain(|_, turns| turns.strong_count() > 0);
            state.sweep_at = 2 * state.turns.len();
        }
        let known = state.turns.entry(self.hasher.hash_one(what)).or_default();
        if let Some(turns) = known.upgrade() {
            return Turns(turns);
        }
        let turns = Turns::default();
        *known = Arc::downgrade(&turns.0);
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_for_the_same_share_their_turns_and_are_forgotten() {
        let shared = SharedTurns::default();
        let (one, same, other) = (shared.of("GET/a"), shared.of("GET/a"), shared.of("GET/b"));
        let (at, before) = (one.take(1), other.take(0));
        assert_eq!(same.take(1), at.wrapping_add(1));
        same.return_turn();
        assert_eq!((one.take(0), other.take(0)), (at.wrapping_add(1), before));
        for route in 0..10 * MIN_SWEPT {
            shared.of(route);
            let known = shared.state.lock().unwrap().turns.len();
            assert!(known <= MIN_SWEPT, "{known}");
        }
        assert_eq!(shared.of("GET/a").take(0), one.take(0), "it is in use");
    }
}
