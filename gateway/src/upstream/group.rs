//! All servers of one prefix, and how one of them is picked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use net::ServerAddress;
use node_sdk::gateway::{Load, Member, PickOptions, Pool, Readiness};
use protocol::Node;
use tokio::time::Instant;

use crate::route::cookie::CookieSigner;
use crate::upstream::checks::server_checks::ServerCheck;
use crate::upstream::concurrency::holders::PermitKind;
use crate::upstream::concurrency::{Permit, QueueError, ServerPermits};
use crate::upstream::endpoint::Endpoint;

/// All servers of one prefix; none when they have gone.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamGroup {
    pub(super) pool: Pool<GroupMember>,
    /// How many nodes register the prefix, including those that want no requests now.
    pub(super) registered: usize,
    /// Whether the configuration names servers for it, even if they have no address now.
    pub(super) is_fixed: bool,
    /// When and with which node the last registered server has gone, if it has.
    pub(super) gone: Option<GroupGone>,
}

/// When the last server of a prefix went, and its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupGone {
    pub(super) since: Instant,
    pub(super) node: SocketAddr,
}

#[derive(Clone, Debug)]
pub(super) struct GroupMember {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u16,
    pub(super) strip: bool,
    /// `None` for a fixed server.
    pub(super) node: Option<Arc<Node>>,
    pub(super) requests: Arc<ServerPermits>,
    pub(super) tunnels: Arc<ServerPermits>,
    pub(super) check: Option<Arc<ServerCheck>>,
}

/// The group of servers that answers a request.
#[derive(Debug)]
pub(crate) struct UpstreamMatch {
    pub(crate) group: Arc<UpstreamGroup>,
    /// Bytes of the prefix in the path.
    pub(crate) prefix_bytes: usize,
}

/// A server that was picked.
#[derive(Debug)]
pub(crate) struct PickedEndpoint {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Whether requests are sent to it without the prefix.
    pub(crate) strip: bool,
    pub(super) requests: Arc<ServerPermits>,
    pub(super) tunnels: Arc<ServerPermits>,
}

impl UpstreamGroup {
    /// Picks the next endpoint; `None` when all were tried.
    pub(crate) fn pick(&self, options: &PickOptions<'_, ServerAddress>, now: Instant) -> Option<PickedEndpoint> {
        self.pool.pick(options, now, |_| {}).map(GroupMember::picked)
    }

    /// The server with this id, if it is healthy.
    pub(crate) fn pick_by_cookie(
        &self,
        cookies: &CookieSigner,
        id: u64,
        tried: &[ServerAddress],
        now: Instant,
    ) -> Option<PickedEndpoint> {
        let is_it = |member: &&GroupMember| {
            let address = &member.endpoint.address;
            cookies.id(address) == id && !tried.contains(address)
        };
        let member = self.pool.members().iter().find(is_it)?;
        // A busy server is waited for: it has the client's session.
        (member.readiness(now) <= Readiness::Connecting).then(|| member.picked())
    }
}

impl GroupMember {
    pub(super) fn is_suspect(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.suspect)
    }

    pub(super) fn picked(&self) -> PickedEndpoint {
        let Self { endpoint, strip, requests, tunnels, .. } = self;
        let [requests, tunnels] = [requests, tunnels].map(Arc::clone);
        PickedEndpoint { endpoint: Arc::clone(endpoint), strip: *strip, requests, tunnels }
    }
}

impl Member for GroupMember {
    type Address = ServerAddress;

    fn address(&self) -> &ServerAddress {
        &self.endpoint.address
    }

    fn candidate_address(&self) -> (SocketAddr, Option<&Path>) {
        match &self.endpoint.address {
            ServerAddress::Tcp(address) => (*address, None),
            ServerAddress::Unix(path) => (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Some(path.as_path())),
        }
    }

    fn load(&self) -> &Load {
        &self.endpoint.load
    }

    fn readiness(&self, now: Instant) -> Readiness {
        if self.endpoint.is_unreachable(now) || self.check.as_ref().is_some_and(|check| !check.is_alive()) {
            Readiness::CoolingDown
        } else if self.is_suspect() || self.endpoint.load.is_ejected(now.into_std()) {
            Readiness::Ejected
        } else if self.requests.is_full() {
            Readiness::Connecting
        } else {
            Readiness::Ready
        }
    }

    fn weight(&self) -> u16 {
        self.weight
    }
}

impl PickedEndpoint {
    /// Takes a permit of the server for a request of `client`, if it may have one now.
    pub(crate) fn try_acquire(&self, kind: PermitKind, client: IpAddr, now: Instant) -> Option<Permit> {
        self.permits(kind).try_acquire(&self.endpoint, client, now)
    }

    /// Takes a permit of the server for a request of `client`. Waits for one until `deadline`.
    pub(crate) async fn acquire(
        &self,
        kind: PermitKind,
        client: IpAddr,
        now: Instant,
        deadline: Instant,
    ) -> Result<Permit, QueueError> {
        self.permits(kind).acquire(&self.endpoint, client, now, deadline).await
    }

    /// Whether more than half of the server's permits are taken.
    pub(crate) fn is_half_full(&self) -> bool {
        self.requests.is_half_full()
    }

    pub(super) fn permits(&self, kind: PermitKind) -> &Arc<ServerPermits> {
        match kind {
            PermitKind::Requests => &self.requests,
            PermitKind::Tunnels => &self.tunnels,
        }
    }
}
