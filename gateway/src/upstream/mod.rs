//! The side of servers: which of them answer which prefix, their health, and how many requests each
//! may be sent at a time.
//!
//! It must not see requests of clients, or responses to them: the only HTTP here is that of its own
//! checks. It must not import `proxy` or `downstream`.

pub(crate) mod checks;
pub(crate) mod concurrency;
mod connector;
pub(crate) mod endpoint;
pub(crate) mod group;
pub(crate) mod names;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod unix_socket;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Weak};

use net::LogThrottles;
use node_sdk::gateway::{BlockedAddresses, SharedTurns};

use crate::io::budget::HeldBudget;
use crate::io::held_sockets::HeldSockets;
use crate::sessions::HeldSessions;
use crate::upstream::checks::server_checks::ServerChecks;
use crate::upstream::concurrency::PermitTable;
use crate::upstream::names::ServerNames;
use crate::upstream::names::advertised::AdvertisedNames;
use crate::upstream::unix_socket::UnixSockets;

/// The state that all workers share: the limits of servers, their health, and the secret that signs
/// cookies.
#[derive(Debug)]
pub(crate) struct WorkerShared {
    permits: PermitTable,
    checks: ServerChecks,
    /// The turns among the servers of each prefix.
    turns: SharedTurns,
    pub(crate) names: Arc<ServerNames>,
    advertised: AdvertisedNames,
    unix: UnixSockets,
    secret: String,
    /// Throttles of the log: all workers see the same servers.
    pub(crate) log_throttles: LogThrottles,
    pub(crate) budget: Arc<HeldBudget>,
    pub(crate) held_sockets: Arc<HeldSockets>,
    pub(crate) sessions: Arc<HeldSessions>,
}

impl WorkerShared {
    /// A state with a budget of `max_held_bytes` for clients, which may have `max_connections`
    /// connections. Servers are never called at `blocked` addresses.
    pub(crate) fn new(max_held_bytes: usize, max_connections: usize, blocked: BlockedAddresses) -> Self {
        let secret = format!("{:032x}", net::unique_id());
        let budget = Arc::new(HeldBudget::new(max_held_bytes));
        Self {
            permits: PermitTable::default(),
            checks: ServerChecks::default(),
            turns: SharedTurns::default(),
            names: Arc::default(),
            advertised: AdvertisedNames::new(blocked),
            unix: UnixSockets::default(),
            secret,
            log_throttles: LogThrottles::default(),
            budget,
            held_sockets: Arc::new(HeldSockets::new(max_connections)),
            sessions: Arc::new(HeldSessions::new()),
        }
    }

    /// The number of requests and tunnels that were evicted for others.
    pub(crate) fn evicted(&self) -> u64 {
        self.permits.evicted()
    }
}

/// Drops values that are not used any more, if the map would have to grow for one more.
fn drop_unused<K: Eq + Hash, V, S: BuildHasher>(known: &mut HashMap<K, Weak<V>, S>) {
    if known.len() == known.capacity() {
        known.retain(|_, value| value.strong_count() > 0);
    }
}

#[cfg(test)]
impl Default for WorkerShared {
    fn default() -> Self {
        let config = crate::config::Config::default();
        Self::new(config.max_held_bytes, config.max_connections, BlockedAddresses::default())
    }
}
