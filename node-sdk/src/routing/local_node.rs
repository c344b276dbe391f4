//! The node to which a routing table belongs, as far as routing needs to know it.

use std::net::SocketAddr;
use std::sync::Arc;

use net::Network;

use crate::balance::SharedTurns;
use crate::transport::blocked::BlockedAddresses;
use crate::transport::budget::Budget;
use crate::transport::target::Connector;

/// The node to which the table belongs.
#[derive(Debug)]
pub(crate) struct LocalNode {
    /// The id of this instance.
    pub(crate) instance: String,
    /// The zone of this node.
    pub(crate) zone: Option<String>,
    /// How connections are made.
    pub(crate) connector: Connector,
    /// Bytes that are held for the nodes that are called.
    pub(crate) buffer_budget: Arc<Budget>,
    /// The turns among the providers of each route, in all threads.
    pub(crate) turns: SharedTurns,
}

impl LocalNode {
    pub(crate) fn new(
        instance: String,
        name: &str,
        zone: Option<String>,
        network: Network,
        blocked: BlockedAddresses,
    ) -> Arc<Self> {
        let connector = Connector {
            network,
            instance: instance.as_str().into(),
            name: name.into(),
            blocked: Arc::new(blocked),
            lost: Arc::default(),
            malformed: Arc::default(),
        };
        Arc::new(Self {
            instance,
            zone,
            connector,
            buffer_budget: Budget::for_connections(),
            turns: SharedTurns::default(),
        })
    }

    /// Why an address is never called, if it is not.
    pub(crate) fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.connector.blocked.reason(address)
    }
}
