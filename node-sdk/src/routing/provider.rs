//! A node as a provider of one route, as balancing sees it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use protocol::Route;
use tokio::time::Instant;

use crate::balance::{Load, Member, Pool, Readiness};
use crate::transport::connection::Connection;

/// The nodes that offer one route and take calls. A pool does not change while a call picks from
/// it.
pub(crate) type Providers = Pool<Provider>;

#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) connection: Arc<Connection>,
    pub(crate) route: Route,
    pub(super) weight: u16,
    /// Whether the Distributor has listed it as suspect.
    pub(super) suspect: bool,
    /// Whether the provider runs in this process's zone.
    pub(super) same_zone: bool,
    /// Whether the provider is this very node, which calls itself without a connection.
    pub(crate) is_local: bool,
}

impl Member for Provider {
    type Address = SocketAddr;

    fn address(&self) -> &SocketAddr {
        &self.connection.address
    }

    fn candidate_address(&self) -> (SocketAddr, Option<&Path>) {
        (self.connection.address, None)
    }

    fn load(&self) -> &Load {
        &self.connection.load
    }

    fn readiness(&self, now: Instant) -> Readiness {
        let readiness = self.connection.readiness(now);
        if self.suspect { readiness.max(Readiness::Ejected) } else { readiness }
    }

    /// A key stays with its provider while the connection is made: other nodes, which are
    /// connected, would call that provider.
    fn sticky_readiness(&self, readiness: Readiness) -> Readiness {
        match readiness {
            Readiness::Connecting | Readiness::Reconnect => Readiness::Ready,
            Readiness::Ready | Readiness::Ejected | Readiness::CoolingDown if self.is_local => Readiness::Ready,
            Readiness::Ready | Readiness::Ejected | Readiness::CoolingDown => readiness,
        }
    }

    fn weight(&self) -> u16 {
        self.weight
    }

    fn same_zone(&self) -> bool {
        self.same_zone
    }

    fn instance(&self) -> Option<&str> {
        self.connection.instance()
    }

    fn rendezvous_score(&self) -> u64 {
        self.connection.target.rendezvous_score
    }
}
