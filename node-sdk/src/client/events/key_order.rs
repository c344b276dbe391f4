//! Runs the work of one key one after the other, in the order in which it arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Maximum number of waiting tickets of one key. If events of a key come faster than they are
/// handled, the wait grows without end.
pub(crate) const MAX_WAITING_OF_KEY: usize = 256;
/// Maximum number of waiting tickets of all keys: each holds its payload.
pub(crate) const MAX_WAITING: usize = 4096;

/// The running and the waiting tickets of each key. A key without tickets has no queue.
#[derive(Debug, Default)]
struct KeyOrder {
    /// The numbers of the tickets. The first of each queue is running.
    queues: HashMap<Arc<str>, VecDeque<u64>>,
    next: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Ticket {
    key: Arc<str>,
    number: u64,
}

/// The queue of the key, or of all keys, is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyFull;

impl KeyOrder {
    /// Enters the queue of a key. Returns whether it is the ticket's turn.
    fn enter(&mut self, key: &str) -> Result<(Ticket, bool), KeyFull> {
        let known = self.queues.get_key_value(key);
        let waits_behind = known.map_or(0, |(_, queue)| queue.len());
        if waits_behind > MAX_WAITING_OF_KEY || (waits_behind > 0 && self.waiting >= MAX_WAITING) {
            return Err(KeyFull);
        }
        let key = known.map_or_else(|| key.into(), |(key, _)| Arc::clone(key));
        let number = self.next;
        self.next += 1;
        self.waiting += usize::from(waits_behind > 0);
        self.queues.entry(Arc::clone(&key)).or_default().push_back(number);
        Ok((Ticket { key, number }, waits_behind == 0))
    }

    /// Leaves the queue, running or waiting. Returns the number of the ticket whose turn it is now.
    fn leave(&mut self, ticket: &Ticket) -> Option<u64> {
        let queue = self.queues.get_mut(&ticket.key)?;
        let at = queue.iter().position(|number| *number == ticket.number)?;
        queue.remove(at);
        // Either this ticket waited, or the next one stops waiting.
        self.waiting -= usize::from(!queue.is_empty());
        let next = queue.front().copied().filter(|_| at == 0);
        if queue.is_empty() {
            self.queues.remove(&ticket.key);
        }
        next
    }
}

/// The turns of all keys.
#[derive(Debug, Default)]
pub(crate) struct KeyTurns {
    state: Mutex<TurnState>,
}

#[derive(Debug, Default)]
struct TurnState {
    order: KeyOrder,
    /// The senders that wake the waiting tickets.
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

/// A place in the queue of a key. Dropping it lets the next one begin.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<KeyTurns>,
    ticket: Ticket,
    /// Completes at the turn of this ticket; `None` from then on.
    begins: Option<oneshot::Receiver<()>>,
}

impl KeyTurns {
    /// Enters the queue of a key.
    pub(crate) fn enter(self: &Arc<Self>, key: &str) -> Result<Turn, KeyFull> {
        let mut state = self.lock();
        let (ticket, is_turn) = state.order.enter(key)?;
        let begins = (!is_turn).then(|| {
            let (begin, begins) = oneshot::channel();
            state.waiting.insert(ticket.number, begin);
            begins
        });
        drop(state);
        Ok(Turn { turns: Arc::clone(self), ticket, begins })
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether no other ticket of the key is running.
    pub(crate) fn is_now(&self) -> bool {
        self.begins.is_none()
    }

    /// Completes when it is its turn. Cancel safe.
    pub(crate) async fn begin(&mut self) {
        if let Some(begins) = &mut self.begins {
            // The sender is kept until it has sent.
            let _ = begins.await;
            self.begins = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.waiting.remove(&self.ticket.number);
        let next = state.order.leave(&self.ticket);
        if let Some(begin) = next.and_then(|number| state.waiting.remove(&number)) {
            // If its waiter has gone, that is just leaving, and lets the next one begin.
            let _ = begin.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn of_a_key_one_is_at_work_and_the_others_follow_in_order() {
        for seed in 0..200 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let mut order = KeyOrder::default();
            // The tickets of two keys, as they have come.
            let mut model: [Vec<Ticket>; 2] = Default::default();
            for _ in 0..rng.usize(1..200) {
                let at = rng.usize(0..2);
                if rng.bool() {
                    let (ticket, is_turn) = order.enter(["a", "b"][at]).unwrap();
                    assert_eq!(is_turn, model[at].is_empty(), "seed {seed}");
                    model[at].push(ticket);
                } else if !model[at].is_empty() {
                    // It is done, or does not wait any more.
                    let gone = rng.usize(0..model[at].len());
                    let ticket = model[at].remove(gone);
                    let expected = model[at].first().filter(|_| gone == 0).map(|next| next.number);
                    assert_eq!(order.leave(&ticket), expected, "seed {seed}");
                }
                let waiting: usize = model.iter().map(|tickets| tickets.len().saturating_sub(1)).sum();
                assert_eq!(order.waiting, waiting, "seed {seed}");
            }
            for ticket in model.into_iter().flatten() {
                order.leave(&ticket);
            }
            assert!(order.queues.is_empty() && order.waiting == 0);
        }
    }

    #[test]
    fn only_so_many_wait() {
        let mut order = KeyOrder::default();
        let mut tickets: Vec<Ticket> = (0..=MAX_WAITING_OF_KEY).map(|_| order.enter("a").unwrap().0).collect();
        assert_eq!(order.enter("a").map(drop), Err(KeyFull));
        order.leave(&tickets.remove(0));
        assert!(order.enter("a").is_ok());
        for key in 1.. {
            let entered = (0..=MAX_WAITING_OF_KEY).all(|_| order.enter(&key.to_string()).is_ok());
            if !entered {
                break;
            }
        }
        assert_eq!(order.waiting, MAX_WAITING);
        assert!(order.enter("new").is_ok(), "a key of which none is at work does not wait");
        assert_eq!(order.enter("new").map(drop), Err(KeyFull));
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_lets_the_next_one_begin() {
        let turns = Arc::new(KeyTurns::default());
        let [first, second, mut third] = [(); 3].map(|()| turns.enter("a").unwrap());
        assert!(first.is_now() && !second.is_now());
        assert!(turns.enter("b").unwrap().is_now());
        assert!(third.begin().now_or_never().is_none());
        drop(second);
        assert!(third.begin().now_or_never().is_none());
        drop(first);
        third.begin().now_or_never().unwrap();
        assert!(third.is_now());
        drop(third);
        let state = turns.lock();
        assert!(state.order.queues.is_empty() && state.waiting.is_empty());
    }
}
