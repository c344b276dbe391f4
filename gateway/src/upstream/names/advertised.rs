//! The names that servers advertise in their registrations. The Distributor tells one address of a
//! name, as it was when the server registered. The gateway looks the name up itself, tries every
//! address, and uses the one that it was told where it finds none.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use net::{LogThrottle, MAX_ESCAPED_BYTES, connect_any, escaped, look_up, sleep_until_opt};
use node_sdk::gateway::BlockedAddresses;
use protocol::{HostName, HostPort};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{LOOKUP_TIMEOUT, NamedServer};
use crate::upstream::drop_unused;

/// Look-ups at a time, apart from those of the configuration: each has a thread of the system.
const MAX_AT_ONCE: usize = 16;
/// Log lines in ten seconds.
const MAX_LINES: u32 = 20;

/// The names that all workers know: each is looked up once, however many workers use it.
#[derive(Debug)]
pub(crate) struct AdvertisedNames {
    known: Mutex<HashMap<HostPort, Weak<AdvertisedName>>>,
    shared: Arc<LookupShared>,
}

/// The state that all look-ups share.
#[derive(Debug)]
struct LookupShared {
    /// Addresses that are never called, whatever name leads there.
    blocked: BlockedAddresses,
    turns: Semaphore,
    log_throttle: Mutex<LogThrottle>,
}

/// A name, which is looked up until this is dropped.
#[derive(Debug)]
pub(crate) struct AdvertisedName {
    pub(crate) server: HostPort,
    state: Mutex<NameState>,
    /// Wakes the task of the look-ups: one may be due earlier.
    rescheduled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct NameState {
    named: NamedServer,
    /// The address that was reached last.
    reached: Option<SocketAddr>,
}

impl AdvertisedNames {
    pub(crate) fn new(blocked: BlockedAddresses) -> Self {
        let log_throttle = Mutex::new(LogThrottle::with_burst(MAX_LINES, LogThrottle::LOG_PERIOD));
        let shared = LookupShared { blocked, turns: Semaphore::new(MAX_AT_ONCE), log_throttle };
        Self { known: Mutex::default(), shared: Arc::new(shared) }
    }

    /// The name of a server that advertises `server`; `None` if that is an address. A new name is
    /// looked up in the runtime of the first caller.
    pub(crate) fn get(&self, server: &HostPort) -> Option<Arc<AdvertisedName>> {
        let HostName::Name(_) = &server.host else { return None };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(server).and_then(Weak::upgrade) {
            return Some(name);
        }
        drop_unused(&mut known);
        let (state, rescheduled) = (Mutex::default(), Arc::default());
        let name = Arc::new(AdvertisedName { server: server.clone(), state, rescheduled });
        known.insert(server.clone(), Arc::downgrade(&name));
        tokio::spawn(run(Arc::downgrade(&name), Arc::clone(&self.shared)));
        Some(name)
    }
}

impl AdvertisedName {
    /// Connects to one of its addresses, or to the one at which the server is `listed`. Cancel
    /// safe.
    ///
    /// # Errors
    /// The first error when all fail.
    pub(crate) async fn connect(&self, listed: SocketAddr) -> io::Result<TcpStream> {
        let addresses = self.addresses(listed);
        let connected = connect_any(&addresses).await;
        let reached = connected.as_ref().ok().and_then(|stream| stream.peer_addr().ok());
        if reached != addresses.first().copied() {
            self.mark_suspect();
        }
        if reached.is_some() {
            self.lock().reached = reached;
        }
        connected
    }

    /// Records that a server of this name could not be connected to: it may have moved.
    pub(crate) fn mark_suspect(&self) {
        if !std::mem::replace(&mut self.lock().named.is_suspect, true) {
            self.rescheduled.notify_one();
        }
    }

    /// Why the last look-up has found nothing.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().named.failure.clone()
    }

    fn addresses(&self, listed: SocketAddr) -> Vec<SocketAddr> {
        let NameState { named, reached } = &*self.lock();
        in_order(&named.addresses, listed, *reached)
    }

    fn lock(&self) -> MutexGuard<'_, NameState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses to try: those of the name, beginning with one that was reached before. The listed
/// address is the last if it is not among them, because the Distributor may have found an address
/// that we do not. A name must not lead to this machine, unless the list does.
fn in_order(named: &[SocketAddr], listed: SocketAddr, reached: Option<SocketAddr>) -> Vec<SocketAddr> {
    let may_try = |address: &SocketAddr| listed.ip().is_loopback() || !address.ip().is_loopback();
    let mut order: Vec<_> = named.iter().copied().filter(may_try).collect();
    if !order.contains(&listed) {
        order.push(listed);
    }
    let is_named = named.contains(&listed);
    // An address that the name no longer has may belong to another server by now.
    let reached = reached.filter(|reached| named.contains(reached));
    order.sort_by_key(|address| (Some(*address) != reached, is_named && *address != listed));
    order
}

async fn run(name: Weak<AdvertisedName>, shared: Arc<LookupShared>) {
    while let Some(held) = name.upgrade() {
        let HostName::Name(host) = &held.server.host else { return };
        let found = {
            let Ok(_turn) = shared.turns.acquire().await else { return };
            timeout(LOOKUP_TIMEOUT, look_up(host, held.server.port)).await
        };
        let found = match found {
            Ok(Ok(mut found)) => {
                found.retain(|address| shared.blocked.reason(*address).is_none());
                Ok(found)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("the name {host} could not be looked up within {LOOKUP_TIMEOUT:?}")),
        };
        let now = Instant::now();
        let failure = {
            let mut state = held.lock();
            let failed_before = state.named.failure.clone();
            state.named.record(found, now);
            state.named.failure.clone().filter(|_| state.named.failure != failed_before)
        };
        if let Some(why) = failure
            && let Some(suppressed) =
                shared.log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(now.into_std())
        {
            let server = escaped(held.server.to_string(), MAX_ESCAPED_BYTES).to_string();
            warn!(
                server,
                suppressed,
                "this machine cannot look up the name that a server advertises: {why}; the server is called at the address that the Distributor has found"
            );
        }
        let rescheduled = Arc::clone(&held.rescheduled);
        drop(held);
        while let Some(due) = name.upgrade().map(|name| name.lock().named.due())
            && due > Some(Instant::now())
        {
            tokio::select! {
                () = sleep_until_opt(due) => {}
                () = rescheduled.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(named: &[&str], listed: &str, reached: Option<&str>, expected: &[&str]) {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 80);
        let named: Vec<_> = named.iter().copied().map(address).collect();
        let order = in_order(&named, address(listed), reached.map(address));
        assert_eq!(order, expected.iter().copied().map(address).collect::<Vec<_>>(), "{named:?} {listed} {reached:?}");
    }

    #[test]
    fn a11_the_addresses_of_an_advertised_name_are_tried_in_order() {
        check(&[], "10.0.0.1", None, &["10.0.0.1"]);
        check(&["10.0.0.1"], "10.0.0.1", None, &["10.0.0.1"]);
        // One of several, and then the others.
        check(&["10.0.0.1", "10.0.0.2", "fd00::1"], "10.0.0.2", None, &["10.0.0.2", "10.0.0.1", "fd00::1"]);
        // The name has moved.
        check(&["10.0.0.3", "fd00::3"], "10.0.0.2", None, &["10.0.0.3", "fd00::3", "10.0.0.2"]);
        // The address that was reached is the first.
        check(&["10.0.0.1", "10.0.0.2"], "10.0.0.2", Some("10.0.0.1"), &["10.0.0.1", "10.0.0.2"]);
        for left in ["10.0.0.2", "10.0.0.9"] {
            check(&["10.0.0.3"], "10.0.0.2", Some(left), &["10.0.0.3", "10.0.0.2"]);
        }
        // Our own loopback only if the list says so.
        check(&["127.0.0.1", "::1", "10.0.0.3"], "10.0.0.2", None, &["10.0.0.3", "10.0.0.2"]);
        check(&["127.0.0.1", "::1"], "127.0.0.2", None, &["127.0.0.1", "::1", "127.0.0.2"]);
    }

    #[tokio::test]
    async fn a11_a_name_that_leads_to_a_blocked_address_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listed = listener.local_addr().unwrap();
        let server: HostPort = format!("localhost:{}", listed.port()).parse().unwrap();
        for (own, is_known) in [(vec![], true), (vec![listed], false)] {
            let names = AdvertisedNames::new(BlockedAddresses::new(own));
            let name = names.get(&server).unwrap();
            while name.lock().named.due().is_none() {
                tokio::task::yield_now().await;
            }
            assert_eq!(name.lock().named.addresses.contains(&listed), is_known);
            assert!(name.connect(listed).await.is_ok());
            assert!(names.get(&"10.0.0.1:80".parse().unwrap()).is_none(), "an address is not a name");
            assert!(Arc::ptr_eq(&names.get(&server).unwrap(), &name), "it is looked up once");
        }
    }
}
