//! The registration of a process, and changes to it while it lasts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use net::{Network, warn};
use protocol::{Advert, Route, Secret, Visibility, VisibilityTarget};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::balance::Balance;
use crate::routing::local_node::UnstatedRoutes;

/// Random bytes of a secret: too many to guess.
const SECRET_BYTES: usize = 32;

/// How long a node that stops waits until it has left: the time that a Distributor has to read it,
/// and some for the cache file.
const MAX_LEAVE_TIME: Duration = Duration::from_secs(1);

/// Maximum number of visibility requests that wait for a session.
pub(crate) const MAX_VISIBILITY_REQUESTS: usize = 16;

/// What a process registers about itself.
#[derive(Clone, Debug)]
pub struct NodeDescription {
    /// The name of the node, such as `goods`; `gate` for gateways.
    pub name: String,
    /// The port that it listens on.
    pub port: u16,
    /// The local address on which it listens for calls, if it does.
    pub listen: Option<IpAddr>,
    /// Addresses on which it listens for clients that are not nodes. A node that registers one of
    /// these is never called.
    pub client_addresses: Vec<SocketAddr>,
    /// The routes of the node.
    pub routes: Vec<Route>,
    /// The rest of its advert. The instance id is set when it joins.
    pub advert: Advert,
    /// The interests of the node: services, by name, and urls, as registered; `None` for all.
    pub interests: Option<Vec<String>>,
    /// Whether the node asks who offers what it is about to use, and may have a partial view. Means
    /// nothing if it has interests.
    pub asks: bool,
    /// The cache file.
    pub cache: Option<PathBuf>,
    /// Which unstated routes are public, if calls are made for clients: then only public routes are
    /// called. `None` for a node, which calls all routes.
    pub public_only: Option<UnstatedRoutes>,
    /// How one of several providers is picked.
    pub balance: Balance,
    /// The network of its connections.
    pub network: Network,
}

impl NodeDescription {
    /// A description with the defaults, which wants to know all nodes.
    pub fn new(name: impl Into<String>, port: u16, routes: Vec<Route>) -> Self {
        Self {
            name: name.into(),
            port,
            listen: None,
            client_addresses: Vec::new(),
            routes,
            advert: Advert::default(),
            interests: None,
            asks: false,
            cache: None,
            public_only: None,
            balance: Balance::default(),
            network: Network::default(),
        }
    }
}

/// A request to wait until nodes have seen the registration.
#[derive(Debug)]
pub(crate) struct VisibilityRequest {
    pub(crate) target: VisibilityTarget,
    pub(crate) answer: oneshot::Sender<Visibility>,
}

/// Changes a registration while it lasts.
#[derive(Debug)]
pub(crate) struct RegistrationHandle {
    /// The advert of the node; the session passes changes on.
    pub(super) advert: watch::Sender<Advert>,
    pub(super) requests: mpsc::Sender<VisibilityRequest>,
    /// Cancelled when the task that keeps this node registered has ended.
    pub(super) left: CancellationToken,
}

impl RegistrationHandle {
    /// Completes when the Distributor has been told that this node leaves, and the cache file is
    /// written; a slow disk may hold that up, so it is waited for [`MAX_LEAVE_TIME`] at most.
    /// Cancel safe.
    pub(crate) async fn wait_left(&self) {
        let _ = timeout(MAX_LEAVE_TIME, self.left.cancelled()).await;
    }

    /// Changes the advert of the node. All other nodes are told.
    pub(crate) fn advertise(&self, change: impl FnOnce(&mut Advert)) {
        self.advert.send_if_modified(|advert| {
            let before = advert.clone();
            change(advert);
            *advert != before
        });
    }

    /// Completes when this percentage of all version 2 nodes has acknowledged that it knows the
    /// registration, or `within` is over. Cancel safe. See
    /// [`Node::wait_visible`](crate::Node::wait_visible).
    pub(crate) async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        let milliseconds = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let target = VisibilityTarget { percent: percent.clamp(1, 100), within: milliseconds };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(VisibilityRequest { target, answer }).await.ok()?;
            answered.await.ok()
        };
        // A version 1 Distributor, or none, does not answer.
        let timeout_after = within.saturating_add(Duration::from_secs(1));
        timeout(timeout_after, asked).await.ok().flatten().unwrap_or_default()
    }
}

/// A secret from the system's random numbers. Without a secret the id proves nothing, but the node
/// still works.
pub(super) fn new_secret() -> Option<Secret> {
    let mut bytes = [0; SECRET_BYTES];
    if let Err(error) = getrandom::fill(&mut bytes) {
        warn!(%error, "the system has no random numbers; this node cannot prove its identity");
        return None;
    }
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_make_ids() {
        let secrets = [(); 100].map(|()| new_secret().unwrap());
        assert!(secrets.iter().all(|secret| secret.reveal().len() == 2 * SECRET_BYTES));
        let ids: std::collections::HashSet<_> = secrets.iter().map(Secret::instance).collect();
        assert!(ids.len() == secrets.len() && ids.iter().all(|id| Secret::guards(id)));
    }
}
