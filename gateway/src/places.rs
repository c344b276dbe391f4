//! What one server may be given at a time, and who waits for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant, timeout_at};

use crate::upstream::Upstream;

/// Requests that wait for one server.
pub(crate) const MAX_WAITING: usize = 1024;

/// What one server may be given at a time, of all workers.
#[derive(Debug)]
pub(crate) struct Places {
    free: Semaphore,
    /// Changed under the lock of `pace`.
    waiting: AtomicUsize,
    pace: Mutex<Pace>,
}

/// How fast places become free while somebody waits for one: who would wait for too long is told at once.
#[derive(Debug, Default)]
struct Pace {
    /// When the last one did, or somebody began to wait for the next.
    last: Option<Instant>,
    /// The mean of the times between them.
    interval: Duration,
}

/// The places of all servers, by address and how many there are: two routes may have different limits for one server.
#[derive(Debug, Default)]
pub(crate) struct PlacesOfAll {
    known: Mutex<HashMap<(SocketAddr, usize), Weak<Places>>>,
}

/// A request that a server may be given. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    upstream: Arc<Upstream>,
    /// When it was.
    pub(crate) at: Instant,
    places: Arc<Places>,
}

/// A server has as much to do as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// Who waited for it would do so for too long, or as many wait as may.
    AtOnce,
    /// Who waited for it has done so for too long.
    AfterWaiting,
}

impl PlacesOfAll {
    /// The places of a server, of which there are `limit`; those of another limit are others.
    pub(crate) fn of(&self, address: SocketAddr, limit: usize) -> Arc<Places> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known.get(&(address, limit)).and_then(Weak::upgrade) {
            return places;
        }
        if known.len() == known.capacity() {
            // It would grow: a good time to see what nobody needs.
            known.retain(|_, places| places.strong_count() > 0);
        }
        let free = Semaphore::new(limit.min(Semaphore::MAX_PERMITS));
        let places = Arc::new(Places { free, waiting: AtomicUsize::new(0), pace: Mutex::default() });
        known.insert((address, limit), Arc::downgrade(&places));
        places
    }
}

impl Places {
    pub(crate) fn are_taken(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// A place, if one is free.
    pub(crate) fn try_admit(self: &Arc<Self>, upstream: &Arc<Upstream>, now: Instant) -> Option<Admitted> {
        Some(self.taken_by(upstream, self.free.try_acquire().ok()?, now))
    }

    /// A place, waited for until `deadline` if it has to be, and if there may be one by then.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        now: Instant,
        deadline: Instant,
    ) -> Result<Admitted, Busy> {
        if let Some(admitted) = self.try_admit(upstream, now) {
            return Ok(admitted);
        }
        let _waiting = Waiting::among(self, now, deadline).ok_or(Busy::AtOnce)?;
        let place = timeout_at(deadline, self.free.acquire()).await;
        let place = place.ok().and_then(Result::ok).ok_or(Busy::AfterWaiting)?;
        Ok(self.taken_by(upstream, place, Instant::now()))
    }

    fn taken_by(self: &Arc<Self>, upstream: &Arc<Upstream>, place: SemaphorePermit<'_>, now: Instant) -> Admitted {
        // Given back by whoever is admitted.
        place.forget();
        upstream.load.begin(now.into_std());
        Admitted { upstream: Arc::clone(upstream), at: now, places: Arc::clone(self) }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace {
    /// Part of a sample in the mean. Places become free by the dozen.
    const SHARE: u32 = 32;

    /// A place becomes free, and somebody waits.
    fn freed(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.interval = (self.interval * (Self::SHARE - 1) + now.saturating_duration_since(last)) / Self::SHARE;
        }
    }

    /// How long it takes until so many have had their turn, for somebody who begins to wait at `now`. Whoever is next waits in any
    /// case, and finds out whether it has become better.
    fn wait(&mut self, now: Instant, ahead: usize) -> Duration {
        if ahead == 0 {
            // What became free before that was not waited for.
            self.last = Some(now);
        }
        self.interval.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX))
    }
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    /// `None` for who would wait in vain, and when as many wait as may.
    fn among(places: &'a Places, now: Instant, deadline: Instant) -> Option<Self> {
        let mut pace = places.pace();
        let ahead = places.waiting.load(Ordering::Relaxed);
        if ahead >= MAX_WAITING || now + pace.wait(now, ahead) > deadline {
            return None;
        }
        places.waiting.store(ahead + 1, Ordering::Relaxed);
        drop(pace);
        Some(Self(places))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let _pace = self.0.pace();
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.upstream.load.end();
        let Places { free, waiting, .. } = &*self.places;
        let is_waited_for = || waiting.load(Ordering::Relaxed) > 0;
        // Nobody has to know how fast it goes until somebody waits.
        if is_waited_for() {
            let mut pace = self.places.pace();
            if is_waited_for() {
                pace.freed(Instant::now());
            }
        }
        free.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ov1_how_long_there_is_to_wait_follows_how_fast_it_goes() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.wait(now, usize::MAX), Duration::ZERO, "nothing is known yet");
        // In queues of this length, so many places become free, one after so many milliseconds.
        let mut check = |pace: &mut Pace, length: usize, times: usize, each: u64, expected: u64| {
            for at in 0..times {
                if at % length == 0 {
                    // A long time in which nobody waits counts for nothing.
                    now += Duration::from_secs(1000);
                    assert_eq!(pace.wait(now, 0), Duration::ZERO, "whoever is next waits in any case");
                }
                now += Duration::from_millis(each);
                pace.freed(now);
            }
            let (seen, expected) = (pace.wait(now, 100), Duration::from_millis(expected * 100));
            assert!(seen.abs_diff(expected) < expected / 10, "{seen:?} is not {expected:?}");
        };
        check(&mut pace, 100, 200, 5, 5);
        check(&mut pace, 100, 200, 1, 1);
        check(&mut pace, 1, 200, 7, 7);
        // Who waits alone sees that it has become better.
        check(&mut pace, 1, 200, 2, 2);
    }
}
