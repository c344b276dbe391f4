//! What one server may be given at a time, and who waits for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::upstream::Upstream;

/// Requests that wait for one server.
pub(crate) const MAX_WAITING: usize = 1024;

/// What one server may be given at a time, of all workers.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
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
    _place: OwnedSemaphorePermit,
}

/// A server has as much to do as it may have, and as many wait for it as may, or have waited for too long.
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
        let free = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let places = Arc::new(Places { free, waiting: AtomicUsize::new(0) });
        known.insert((address, limit), Arc::downgrade(&places));
        places
    }
}

impl Places {
    pub(crate) fn are_taken(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// A place, waited for until `deadline` if it has to be.
    pub(crate) async fn admit(
        &self,
        upstream: &Arc<Upstream>,
        mut now: Instant,
        deadline: Instant,
    ) -> Result<Admitted, Full> {
        let place = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let _waiting = Waiting::among(&self.waiting).ok_or(Full)?;
                let place = timeout_at(deadline, Arc::clone(&self.free).acquire_owned()).await;
                now = Instant::now();
                place.ok().and_then(Result::ok).ok_or(Full)?
            }
        };
        upstream.load.begin(now.into_std());
        Ok(Admitted { upstream: Arc::clone(upstream), at: now, _place: place })
    }
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` when there are as many as may be.
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
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
    }
}
