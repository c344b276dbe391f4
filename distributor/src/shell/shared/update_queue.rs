//! The queue of peers that wait for packets of their own.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queue of address groups. Each group is a queue of its connections. Packets for a single peer
/// are encoded at a pace, and as memory allows. Only the first connection looks at the clock, and
/// thousands that wait behind it cost nothing. An address group with thousands of connections is
/// served as often as one with a single connection.
#[derive(Debug)]
pub(crate) struct UpdateQueue {
    all: Arc<Semaphore>,
}

/// The queue of one address group's connections.
#[derive(Clone, Debug)]
pub(crate) struct AddressQueue(Arc<Semaphore>);

/// Holds the first position of the queue until it is dropped.
pub(crate) type QueueHead = (OwnedSemaphorePermit, OwnedSemaphorePermit);
/// Waits until the connection is first. Dropping it leaves the queue.
pub(crate) type PendingHead = Pin<Box<dyn Future<Output = QueueHead> + Send>>;

impl Default for UpdateQueue {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(1)) }
    }
}

impl Default for AddressQueue {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl UpdateQueue {
    /// Enters the queue of an address group, at its end.
    pub(crate) fn enter(&self, group: &AddressQueue) -> PendingHead {
        let (own, all) = (Arc::clone(&group.0), Arc::clone(&self.all));
        Box::pin(async move {
            let own = own.acquire_owned().await.expect("the address's semaphore is never closed");
            (own, all.acquire_owned().await.expect("the common semaphore is never closed"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn address_groups_alternate_and_so_do_the_connections_of_each() {
        let polled = |pending: &mut PendingHead| {
            matches!(pending.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
        };
        let (queue, crowd, other) = (UpdateQueue::default(), AddressQueue::default(), AddressQueue::default());
        // Three connections of one address group, and then one of another. A future that is not
        // ready keeps its position in the queue.
        let mut waiting: Vec<_> = [&crowd, &crowd, &crowd, &other].map(|group| Some(queue.enter(group))).into();
        let mut order = Vec::new();
        let mut now = waiting[0].as_mut().unwrap().as_mut();
        let Poll::Ready(mut position) = now.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it is first in the queue")
        };
        waiting[0] = None;
        for _ in 0..3 {
            assert!(!waiting.iter_mut().flatten().any(polled), "one connection at a time is first");
            drop(position);
            let next = waiting.iter_mut().enumerate().find_map(|(number, pending)| {
                match pending.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(position) => Some((number, position)),
                    Poll::Pending => None,
                }
            });
            let number;
            (number, position) = next.expect("the queue goes on");
            waiting[number] = None;
            order.push(number);
        }
        assert_eq!(order, [3, 1, 2]);
    }
}
