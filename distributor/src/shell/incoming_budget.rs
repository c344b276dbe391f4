//! Memory for packets that have begun to arrive, for all connections together.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Memory for packets that have begun to arrive. A limit in bytes says for how many at a time. When
/// it is used up, connections wait in the order of their requests and are woken one by one, so that
/// thousands of waiting connections cost nothing.
#[derive(Debug)]
pub(crate) struct IncomingBudget {
    free: Arc<Semaphore>,
    /// How many connections wait.
    waiting: Arc<AtomicUsize>,
    limit: usize,
    /// Bytes reserved for one packet: the most that it may have. A packet that has begun must not
    /// wait for the rest of its memory.
    packet_bytes: u32,
}

/// However many connections wait, a packet has at least a quarter (1 / this) of the usual time:
/// cutting connections and accepting them again costs time for all.
const MAX_SPEEDUP: u32 = 4;

/// Memory for one packet, until it is dropped.
pub(crate) type PacketReservation = OwnedSemaphorePermit;
/// Waits for a reservation. Dropping it leaves the queue.
pub(crate) type PendingReservation = Pin<Box<dyn Future<Output = PacketReservation> + Send>>;

impl IncomingBudget {
    /// A budget of `limit` bytes, for packets of `packet_bytes`; at least for one packet.
    pub(crate) fn new(limit: usize, packet_bytes: usize) -> Self {
        let packet_bytes = u32::try_from(packet_bytes).unwrap_or(u32::MAX);
        let limit = limit.clamp(usize::try_from(packet_bytes).unwrap_or(usize::MAX), Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), waiting: Arc::default(), limit, packet_bytes }
    }

    /// Bytes that are reserved now.
    pub(crate) fn used(&self) -> usize {
        self.limit - self.free.available_permits()
    }

    /// Bytes that may be reserved.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many connections wait for a reservation.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long a packet may keep its reservation while memory is short: `usual` when few
    /// connections wait, and less when many do, so that the last one still waits for about `usual`.
    /// The packet of an honest peer is already in its socket when it gets one.
    pub(crate) fn packet_timeout(&self, usual: Duration) -> Duration {
        let reservations = u64::try_from(self.limit).unwrap_or(u64::MAX) / u64::from(self.packet_bytes.max(1));
        let rounds = 1.0 + self.waiting() as f64 / reservations.max(1) as f64;
        usual.div_f64(rounds).max(usual / MAX_SPEEDUP)
    }

    /// Whether more than half is used. Packets that have memory should then end soon.
    pub(crate) fn is_short(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Memory for a packet, at once or after earlier requests.
    pub(crate) fn acquire(&self) -> Result<PacketReservation, PendingReservation> {
        match Arc::clone(&self.free).try_acquire_many_owned(self.packet_bytes) {
            Ok(reservation) => Ok(reservation),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let (free, packet_bytes, waits) =
                    (Arc::clone(&self.free), self.packet_bytes, WaitingCount::among(&self.waiting));
                Err(Box::pin(async move {
                    let reservation =
                        free.acquire_many_owned(packet_bytes).await.expect("the semaphore is never closed");
                    drop(waits);
                    reservation
                }))
            }
        }
    }
}

/// Counts one more waiting connection until it is dropped.
struct WaitingCount(Arc<AtomicUsize>);

impl WaitingCount {
    fn among(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for WaitingCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn waiting_connections_get_reservations_in_order() {
        let polled =
            |pending: &mut PendingReservation| match pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(reservation) => Some(reservation),
                Poll::Pending => None,
            };
        let budget = IncomingBudget::new(250, 100);
        let [first, second] = [(); 2].map(|()| budget.acquire().ok().unwrap());
        assert!(budget.used() == 200 && budget.is_short());
        let [mut third, mut fourth, mut fifth] = [(); 3].map(|()| budget.acquire().unwrap_err());
        assert!([&mut third, &mut fourth, &mut fifth].into_iter().all(|pending| polled(pending).is_none()));
        assert_eq!((budget.waiting(), budget.packet_timeout(Duration::from_secs(10))), (3, Duration::from_secs(4)));
        drop(first);
        assert!(polled(&mut fourth).is_none(), "another one was first");
        let third = polled(&mut third).unwrap();
        // A request that was dropped is skipped.
        drop((fourth, second));
        let fifth = polled(&mut fifth).unwrap();
        assert!(budget.acquire().is_err(), "a later request has to wait");
        drop((third, fifth));
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
        assert_eq!(budget.packet_timeout(Duration::from_secs(10)), Duration::from_secs(10));
        assert!(IncomingBudget::new(0, 100).acquire().is_ok(), "there is always room for one packet");
    }
}
