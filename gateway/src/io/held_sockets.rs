//! How many WebSockets the process holds for clients, and how many of them for one client.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use net::address_group;

use crate::io::fair_queue::FairQueue;

/// WebSockets may take three quarters of the connections that clients may have, so that requests
/// always find some.
const CONNECTIONS_PERCENT: usize = 75;
/// Percent of the free places that one client may have: half, so that the next one finds as many.
const CLIENT_SHARE: u8 = 50;

/// The places of WebSockets, for all workers.
#[derive(Debug)]
pub(crate) struct HeldSockets(Mutex<FairQueue<Infallible>>);

/// The place of one WebSocket, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldSocket {
    places: Arc<HeldSockets>,
    client: IpAddr,
}

impl HeldSockets {
    /// As many places as a gateway with `max_connections` connections of clients has.
    pub(crate) fn new(max_connections: usize) -> Self {
        let places = (max_connections / 100 * CONNECTIONS_PERCENT).max(1);
        Self(Mutex::new(FairQueue::new(places, CLIENT_SHARE, 0)))
    }

    /// Takes a place for a WebSocket of `client`; `None` if there is none for it.
    pub(crate) fn try_acquire(self: &Arc<Self>, client: IpAddr) -> Option<HeldSocket> {
        let client = address_group(client);
        let is_acquired = self.0.lock().unwrap_or_else(PoisonError::into_inner).try_acquire(client);
        is_acquired.then(|| HeldSocket { places: Arc::clone(self), client })
    }
}

impl Drop for HeldSocket {
    fn drop(&mut self) {
        self.places.0.lock().unwrap_or_else(PoisonError::into_inner).release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_half_and_the_next_finds_room() {
        let places = Arc::new(HeldSockets::new(400));
        let take = |client: [u8; 4]| -> Vec<_> { std::iter::from_fn(|| places.try_acquire(client.into())).collect() };
        let first = take([10, 0, 0, 1]);
        let second = take([10, 0, 0, 2]);
        assert_eq!((first.len(), second.len()), (150, 75));
        drop(first);
        assert_eq!(take([10, 0, 0, 3]).len(), 113);
    }
}
