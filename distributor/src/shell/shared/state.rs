//! The state behind the lock: the registry, the followers, and the connections of each address
//! group.

use std::collections::hash_map;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net::address_group;
use tokio::time::Instant;

use super::update_queue::AddressQueue;
use crate::entries::SessionId;
use crate::registry::Registry;
use crate::shell::session::Session;

/// How long a connection has to register before it may be evicted to make room for others: several
/// round trips over a slow line.
const REGISTER_GRACE: Duration = Duration::from_millis(500);

/// What the lock of [`Shared`](super::Shared) guards.
#[derive(Debug)]
pub(in crate::shell) struct SharedState {
    pub(in crate::shell) registry: Registry,
    /// The sessions that are sent changes. Version 1 and version 2 are separate, because each has
    /// its own pace.
    pub(in crate::shell) followers: [Followers; 2],
    /// The connections of each [address group](address_group).
    pub(in crate::shell) by_address_group: HashMap<IpAddr, AddressCounts>,
    /// Connections that have registered nothing, the oldest first. They are evicted when there is
    /// no room for others.
    pub(in crate::shell) unregistered: BTreeMap<SessionId, Arc<Session>>,
    pub(in crate::shell) next_session: u64,
    pub(in crate::shell) open_sessions: usize,
    pub(in crate::shell) warned_of_size: bool,
}

/// The connections of one [address group](address_group).
#[derive(Debug, Default)]
pub(in crate::shell) struct AddressCounts {
    pub(in crate::shell) open: usize,
    /// Connections that have registered nothing.
    pub(in crate::shell) unregistered: usize,
    pub(in crate::shell) queue: AddressQueue,
}

#[derive(Debug, Default)]
pub(in crate::shell) struct Followers {
    /// The sessions in order of their registration, so that a round walks through our memory and
    /// the system's in order.
    pub(in crate::shell) all: BTreeMap<SessionId, Arc<Session>>,
    /// Sessions that have registered since the last round.
    pub(in crate::shell) new: Vec<Arc<Session>>,
}

impl Followers {
    /// Takes the new sessions that have ended before a round. Without a round they would stay, and
    /// their sockets with them.
    pub(in crate::shell) fn take_gone(&mut self) -> Vec<Arc<Session>> {
        let all = &self.all;
        self.new.extract_if(.., |session| !all.contains_key(&session.id)).collect()
    }
}

impl SharedState {
    /// Counts a connection that has not registered, or is no longer registered.
    pub(in crate::shell) fn await_registration(&mut self, session: &Arc<Session>) {
        if session.is_evicted.load(Ordering::Relaxed) {
            return;
        }
        if self.unregistered.insert(session.id, Arc::clone(session)).is_none() {
            self.by_address_group.entry(address_group(session.peer.ip())).or_default().unregistered += 1;
        }
    }

    /// Stops counting a connection that has registered, or is closed.
    pub(in crate::shell) fn uncount_unregistered(&mut self, session: SessionId) {
        if let Some(session) = self.unregistered.remove(&session)
            && let Some(counts) = self.by_address_group.get_mut(&address_group(session.peer.ip()))
        {
            counts.unregistered -= 1;
        }
    }

    /// Removes a connection that is closed, or about to be.
    pub(in crate::shell) fn close(&mut self, session: &Session) {
        self.open_sessions -= 1;
        if let hash_map::Entry::Occupied(mut counts) = self.by_address_group.entry(address_group(session.peer.ip())) {
            counts.get_mut().open -= 1;
            if counts.get().open == 0 {
                counts.remove();
            }
        }
    }

    /// Evicts a connection to make room for a new one. It is the oldest without a registration, in
    /// the address group that has most of these. It stays if it is too young to have registered.
    pub(super) fn evict_unregistered(&mut self, now: Instant) -> Option<Arc<Session>> {
        let (group, _) = self.by_address_group.iter().max_by_key(|(_, counts)| counts.unregistered)?;
        let oldest = self.unregistered.values().find(|session| address_group(session.peer.ip()) == *group)?;
        if now < oldest.opened_at + REGISTER_GRACE {
            return None;
        }
        let session = Arc::clone(oldest);
        self.uncount_unregistered(session.id);
        session.is_evicted.store(true, Ordering::Relaxed);
        self.close(&session);
        session.wake.notify_one();
        Some(session)
    }
}
