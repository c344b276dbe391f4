//! Nodes that are not listed and stay known for a while, because the Distributor may only not know
//! them yet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Replica, address_of};
use crate::{Node, UpdateHeader};

/// How long a node is retained while a new version 1 Distributor does not list it: two reconnect
/// periods and 5 s. A version 2 Distributor says itself when it has warmed up.
pub const RETENTION: Duration = Duration::from_secs(11);

/// A node that is not listed.
#[derive(Debug)]
pub(super) struct Retained {
    pub(super) node: Arc<Node>,
    until: RetainedUntil,
}

/// How long a node that is not listed is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetainedUntil {
    /// The node is kept until the Distributor says that it has warmed up.
    Warm,
    /// The node is kept until this time.
    At(Instant),
    /// The node is kept until a Distributor is connected again.
    Open,
}

impl Replica {
    /// Records that the connection to the Distributor is lost. Until there is another, no node is
    /// removed.
    pub fn record_disconnect(&mut self) {
        self.awaits_list = false;
        for kept in self.retained.values_mut() {
            kept.until = RetainedUntil::Open;
        }
    }

    /// Records that a connection to this node failed. Removes the node if it is not listed, and
    /// returns whether it did.
    pub fn mark_unreachable(&mut self, address: SocketAddr) -> bool {
        let gone = self.retained.remove(&address);
        self.changed = gone.iter().map(|_| address).collect();
        gone.is_some()
    }

    /// Removes retained nodes whose time is over. Returns whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = |kept: &Retained| matches!(kept.until, RetainedUntil::At(time) if time <= now);
        self.changed = self.retained.iter().filter(|(_, kept)| is_over(kept)).map(|(address, _)| *address).collect();
        self.retained.retain(|_, kept| !is_over(kept));
        !self.changed.is_empty()
    }

    /// When the next retained node will be removed.
    pub fn next_expiry(&self) -> Option<Instant> {
        let times = self.retained.values().filter_map(|kept| match kept.until {
            RetainedUntil::At(time) => Some(time),
            RetainedUntil::Warm | RetainedUntil::Open => None,
        });
        times.min()
    }

    /// Moves to `next` the known nodes that it lacks, if the Distributor may only not know them
    /// yet.
    pub(super) fn retain_missing(&mut self, now: Instant, header: Option<&UpdateHeader>, next: &mut Self) {
        next.warming = header.is_some_and(|header| header.warming);
        let until = match header {
            Some(header) if header.warming => Some(RetainedUntil::Warm),
            Some(_warm) => None,
            None if self.awaits_list => Some(RetainedUntil::At(now + RETENTION)),
            None => None,
        };
        let kept = std::mem::take(&mut self.retained);
        let kept = kept.into_iter().map(|(address, kept)| match (kept.until, until) {
            // A version 1 Distributor does not say when it knows all nodes, and later lists do not
            // extend the time.
            (RetainedUntil::At(time), _) if header.is_none() => (address, kept.node, Some(RetainedUntil::At(time))),
            _ => (address, kept.node, until),
        });
        let listed = self.entries.values().filter_map(|listed| listed.node.clone());
        let listed = listed.map(|node| (address_of(&node), node, until));
        for (address, node, until) in kept.chain(listed) {
            if let Some(until) = until
                && !next.by_address.contains_key(&address)
            {
                next.retained.insert(address, Retained { node, until });
            }
        }
    }
}
