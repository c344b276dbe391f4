//! The node to which a routing table belongs, as far as routing needs to know it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use net::Network;
use protocol::write_hello;

use crate::routing::blocked::BlockedAddresses;
use crate::transport::budget::Budget;

/// The node to which the table belongs.
#[derive(Debug)]
pub(crate) struct LocalNode {
    /// The id of this instance.
    pub(crate) instance: String,
    /// The first packet on each connection: it names this instance.
    pub(crate) hello: Bytes,
    /// The zone of this node.
    pub(crate) zone: Option<String>,
    pub(crate) network: Network,
    /// Addresses that are never called.
    pub(crate) blocked: BlockedAddresses,
    /// Bytes that are held for the nodes that are called.
    pub(crate) buffer_budget: Arc<Budget>,
}

impl LocalNode {
    pub(crate) fn new(
        instance: String,
        name: &str,
        zone: Option<String>,
        network: Network,
        blocked: BlockedAddresses,
    ) -> Arc<Self> {
        let mut hello = BytesMut::new();
        write_hello(&mut hello, &instance, name);
        let (hello, buffer_budget) = (hello.freeze(), Budget::for_connections());
        Arc::new(Self { instance, hello, zone, network, blocked, buffer_budget })
    }
}
