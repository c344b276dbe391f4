//! What a routing table has to know of the node that it belongs to.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use net::Network;
use protocol::write_hello;

use crate::routing::blocked::BlockedAddresses;
use crate::transport::budget::Budget;

/// The node that the table is of.
#[derive(Debug)]
pub(crate) struct LocalNode {
    /// The id of this very instance.
    pub(crate) instance: String,
    /// What a connection says first.
    pub(crate) hello: Bytes,
    /// Where we run.
    pub(crate) zone: Option<String>,
    pub(crate) network: Network,
    /// Who is never called.
    pub(crate) blocked: BlockedAddresses,
    /// Bytes of those who are.
    pub(crate) buffer_budget: Arc<Budget>,
}

impl LocalNode {
    pub(crate) fn new(
        instance: String,
        zone: Option<String>,
        network: Network,
        blocked: BlockedAddresses,
    ) -> Arc<Self> {
        let mut hello = BytesMut::new();
        write_hello(&mut hello, &instance);
        let (hello, buffer_budget) = (hello.freeze(), Budget::for_connections());
        Arc::new(Self { instance, hello, zone, network, blocked, buffer_budget })
    }
}
