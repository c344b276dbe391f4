//! Room for packets that have begun to come, all connections together.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Memory for packets that have begun to come, for as many at a time as a limit in bytes allows.
/// When there is none, connections wait in the order in which they asked, and are woken one by one.
/// Thousands that wait cost nothing until then.
#[derive(Debug)]
pub(crate) struct IncomingBudget {
    free: Arc<Semaphore>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
    limit: usize,
    /// Bytes reserved for one packet: the most that it may have. A packet that has begun must not
    /// wait for the rest of its room.
    each: u32,
}

/// However many wait, a packet has at least this part of the usual time: cutting connections and
/// accepting them again takes time from all.
const MOST_HASTE: u32 = 4;

/// Room for one packet, until it is dropped.
pub(crate) type Room = OwnedSemaphorePermit;
/// Waits for room. Dropped, it loses its place in the queue.
pub(crate) type AwaitedRoom = Pin<Box<dyn Future<Output = Room> + Send>>;

impl IncomingBudget {
    /// Room of `each` bytes, in so many together; for one packet at the least.
    pub(crate) fn new(limit: usize, each: usize) -> Self {
        let each = u32::try_from(each).unwrap_or(u32::MAX);
        let limit = limit.clamp(usize::try_from(each).unwrap_or(usize::MAX), Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), waiting: Arc::default(), limit, each }
    }

    /// Bytes that are set aside now.
    pub(crate) fn used(&self) -> usize {
        self.limit - self.free.available_permits()
    }

    /// Bytes that may be.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many wait for some.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long a packet may have room while room is short: `usual` when few wait, and less when
    /// many do, so that the last one waits for about as long. The packet of an honest peer is in
    /// its socket by the time it has room.
    pub(crate) fn patience(&self, usual: Duration) -> Duration {
        let rooms = u64::try_from(self.limit).unwrap_or(u64::MAX) / u64::from(self.each.max(1));
        let turns = 1.0 + self.waiting() as f64 / rooms.max(1) as f64;
        usual.div_f64(turns).max(usual / MOST_HASTE)
    }

    /// Whether more than half is used. Packets that have room should end soon then.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Room for a packet, at once or after earlier requests.
    pub(crate) fn acquire(&self) -> Result<Room, AwaitedRoom> {
        match Arc::clone(&self.free).try_acquire_many_owned(self.each) {
            Ok(room) => Ok(room),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let (free, each, waits) = (Arc::clone(&self.free), self.each, Waits::among(&self.waiting));
                Err(Box::pin(async move {
                    let room = free.acquire_many_owned(each).await.expect("it is never closed");
                    drop(waits);
                    room
                }))
            }
        }
    }
}

/// One more waits until this is dropped.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn among(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn those_who_wait_for_room_have_it_in_their_order() {
        let polled = |awaited: &mut AwaitedRoom| match awaited.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        };
        let rooms = IncomingBudget::new(250, 100);
        let [first, second] = [(); 2].map(|()| rooms.acquire().ok().unwrap());
        assert!(rooms.used() == 200 && rooms.is_short());
        let [mut third, mut fourth, mut fifth] = [(); 3].map(|()| rooms.acquire().unwrap_err());
        assert!([&mut third, &mut fourth, &mut fifth].into_iter().all(|awaited| polled(awaited).is_none()));
        assert_eq!((rooms.waiting(), rooms.patience(Duration::from_secs(10))), (3, Duration::from_secs(4)));
        drop(first);
        assert!(polled(&mut fourth).is_none(), "another one was first");
        let third = polled(&mut third).unwrap();
        // One that has gone is passed over.
        drop((fourth, second));
        let fifth = polled(&mut fifth).unwrap();
        assert!(rooms.acquire().is_err(), "and one that comes now has to wait");
        drop((third, fifth));
        assert_eq!((rooms.used(), rooms.waiting()), (0, 0));
        assert_eq!(rooms.patience(Duration::from_secs(10)), Duration::from_secs(10));
        assert!(IncomingBudget::new(0, 100).acquire().is_ok(), "there is always room for one");
    }
}
