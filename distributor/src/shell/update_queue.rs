//! Who is next, of the peers for which packets of their own have to be made.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A queue of networks, each of which is a queue of connections. Packets that only one peer is sent are made at a pace, and as memory allows:
/// the connection that is first looks again and again whether it is time, and thousands that wait behind it cost nothing. A network with
/// thousands of them has one turn where another has one.
#[derive(Debug)]
pub(crate) struct UpdateQueue {
    all: Arc<Semaphore>,
}

/// The queue of one network's connections.
#[derive(Clone, Debug)]
pub(crate) struct NetworkQueue(Arc<Semaphore>);

/// It is a connection's turn until this is dropped.
pub(crate) type QueueHead = (OwnedSemaphorePermit, OwnedSemaphorePermit);
/// Waits for the turn. Dropped, it leaves the queue.
pub(crate) type AwaitedHead = Pin<Box<dyn Future<Output = QueueHead> + Send>>;

impl Default for UpdateQueue {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(1)) }
    }
}

impl Default for NetworkQueue {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl UpdateQueue {
    /// Enters the queue of a network, at its end.
    pub(crate) fn enter(&self, network: &NetworkQueue) -> AwaitedHead {
        let (own, all) = (Arc::clone(&network.0), Arc::clone(&self.all));
        Box::pin(async move {
            let own = own.acquire_owned().await.expect("it is never closed");
            (own, all.acquire_owned().await.expect("it is never closed"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn networks_take_turns_and_so_do_the_connections_of_each() {
        let polled = |awaited: &mut AwaitedHead| {
            matches!(awaited.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
        };
        let (turns, crowd, other) = (UpdateQueue::default(), NetworkQueue::default(), NetworkQueue::default());
        // Three of a crowd, and then one of another network; what is asked in vain holds its place in the queue.
        let mut waiting: Vec<_> = [&crowd, &crowd, &crowd, &other].map(|network| Some(turns.enter(network))).into();
        let mut order = Vec::new();
        let mut now = waiting[0].as_mut().unwrap().as_mut();
        let Poll::Ready(mut places) = now.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nobody is before it")
        };
        waiting[0] = None;
        for _ in 0..3 {
            assert!(!waiting.iter_mut().flatten().any(polled), "it is one's turn at a time");
            drop(places);
            let next = waiting.iter_mut().enumerate().find_map(|(number, awaited)| {
                match awaited.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(places) => Some((number, places)),
                    Poll::Pending => None,
                }
            });
            let number;
            (number, places) = next.expect("the queue goes on");
            waiting[number] = None;
            order.push(number);
        }
        assert_eq!(order, [3, 1, 2]);
    }
}
