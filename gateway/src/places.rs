//! What one server may be given at a time, and who waits for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout_at};

use crate::upstream::Upstream;

/// Requests that wait for one server.
pub(crate) const MAX_WAITING: usize = 1024;

/// What one server may be given at a time, of all workers.
#[derive(Debug)]
pub(crate) struct Places {
    free: Semaphore,
    waiting: AtomicUsize,
    pace: Mutex<Pace>,
}

/// How fast places become free while somebody waits for one: who would wait for too long is told at once.
#[derive(Debug, Default)]
struct Pace {
    /// When the last one did, if somebody was waiting.
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

/// A server has as much to do as it may have, and who waits for it has waited for too long, or would; or as many wait as may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

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

    /// A place, waited for until `deadline` if it has to be, and if there may be one by then.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        mut now: Instant,
        deadline: Instant,
    ) -> Result<Admitted, Full> {
        let place = match self.free.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                let (_waiting, ahead) = Waiting::among(&self.waiting).ok_or(Full)?;
                if now + self.pace().wait(ahead) > deadline {
                    return Err(Full);
                }
                let place = timeout_at(deadline, self.free.acquire()).await;
                now = Instant::now();
                place.ok().and_then(Result::ok).ok_or(Full)?
            }
        };
        // Given back by whoever is admitted.
        place.forget();
        upstream.load.begin(now.into_std());
        Ok(Admitted { upstream: Arc::clone(upstream), at: now, places: Arc::clone(self) })
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

    /// How long it takes until so many have had their turn, for somebody who begins to wait. Whoever is next waits in any case, and
    /// finds out whether it has become better.
    fn wait(&mut self, ahead: usize) -> Duration {
        if ahead == 0 {
            // What became free before that was not waited for.
            self.last = None;
        }
        self.interval.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX))
    }
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// With how many there are before. `None` when there are as many as may be.
    fn among(waiting: &'a AtomicUsize) -> Option<(Self, usize)> {
        let (place, ahead) = (Self(waiting), waiting.fetch_add(1, Ordering::Relaxed));
        (ahead < MAX_WAITING).then_some((place, ahead))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.upstream.load.end();
        let Places { free, waiting, .. } = &*self.places;
        // Nobody has to know how fast it goes until somebody waits.
        if waiting.load(Ordering::Relaxed) > 0 {
            self.places.pace().freed(Instant::now());
        }
        free.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ov1_how_long_there_is_to_wait_follows_how_fast_it_goes() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let mut now = begin;
        let mut check = |pace: &mut Pace, times: u32, each: u64, expected: u64| {
            // A long time in which nobody waits counts for nothing.
            now += Duration::from_secs(1000);
            assert_eq!(pace.wait(0), Duration::ZERO, "whoever is next waits in any case");
            for _ in 0..times {
                now += Duration::from_millis(each);
                pace.freed(now);
            }
            let (seen, expected) = (pace.wait(100), Duration::from_millis(expected * 100));
            assert!(seen.abs_diff(expected) < expected / 10, "{seen:?} is not {expected:?}");
        };
        assert_eq!(pace.wait(usize::MAX), Duration::ZERO, "nothing is known yet");
        check(&mut pace, 100, 5, 5);
        check(&mut pace, 200, 1, 1);
    }
}
