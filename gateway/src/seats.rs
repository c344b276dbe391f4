//! Who is connected, and who of them does nothing: when there are as many clients as may be, whoever has done nothing for longest
//! makes room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The clients of all workers.
#[derive(Debug)]
pub(crate) struct Seats {
    since: Instant,
    taken: Mutex<Vec<Arc<Seat>>>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Cancelled when the client is to go after what it has asked for.
    pub(crate) leave: CancellationToken,
    since: Instant,
    /// In milliseconds after `since`; 0 while it has something under way.
    idle: AtomicU64,
    /// Where it stands in the list.
    place: AtomicU64,
}

/// A client's seat, until it goes.
#[derive(Debug)]
pub(crate) struct Seated {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

impl Seats {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), taken: Mutex::default() }
    }

    pub(crate) fn take(self: &Arc<Self>, leave: CancellationToken) -> Seated {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let seat =
            Seat { leave, since: self.since, idle: AtomicU64::new(0), place: AtomicU64::new(taken.len() as u64) };
        let seat = Arc::new(seat);
        taken.push(Arc::clone(&seat));
        Seated { seats: Arc::clone(self), seat }
    }

    /// Tells whoever has done nothing for longest to go. False when all have something under way, or have been told already.
    pub(crate) fn make_room(&self) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = taken.iter().filter_map(|seat| match seat.idle.load(Ordering::Relaxed) {
            0 => None,
            since => (!seat.leave.is_cancelled()).then_some((since, seat)),
        });
        let longest = idle.min_by_key(|(since, _)| *since);
        longest.map(|(_, seat)| seat.leave.cancel()).is_some()
    }
}

impl Seat {
    /// For a client that is never asked to make room.
    pub(crate) fn apart(leave: CancellationToken) -> Self {
        Self { leave, since: Instant::now(), idle: AtomicU64::new(0), place: AtomicU64::new(0) }
    }

    /// It has nothing under way.
    pub(crate) fn idles(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        self.idle.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    /// It has asked for something.
    pub(crate) fn works(&self) {
        self.idle.store(0, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Seated {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(self.seat.place.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        // The last one moves to where this one was.
        taken.swap_remove(place);
        if let Some(moved) = taken.get(place) {
            moved.place.store(place as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_has_done_nothing_for_longest_goes_first() {
        let seats = Arc::new(Seats::new());
        let take = || seats.take(CancellationToken::new());
        let (a, b, c) = (take(), take(), take());
        assert!(!seats.make_room(), "all have something under way");
        for seat in [&b, &c, &a] {
            tokio::time::advance(Duration::from_millis(5)).await;
            seat.idles(Instant::now());
        }
        b.works();
        let gone = || [&a, &b, &c].map(|seat| seat.leave.is_cancelled());
        assert!(seats.make_room());
        assert_eq!(gone(), [false, false, true]);
        assert!(seats.make_room());
        assert_eq!(gone(), [true, false, true]);
        assert!(!seats.make_room());
        drop(a);
        b.idles(Instant::now());
        assert!(seats.make_room());
        drop((c, b));
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
