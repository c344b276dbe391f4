//! What a process says of itself, and how it changes that while it is registered.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use net::{Network, warn};
use protocol::{Advert, Route, Secret, Visibility, VisibilityTarget};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::balance::Balance;

/// Random bytes of a secret: more than anybody can try.
const SECRET_BYTES: usize = 32;

/// Wishes to know who has seen us that wait for a connection.
pub(crate) const MAX_VISIBILITY_REQUESTS: usize = 16;

/// What a process tells the Distributor about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name, such as `goods`; `gate` for gateways.
    pub name: String,
    /// Where it listens.
    pub port: u16,
    /// On which of its machine's addresses it listens for calls, if for any.
    pub listen: Option<IpAddr>,
    /// Where it listens for others than nodes: what registers one of these is never called.
    pub own: Vec<SocketAddr>,
    /// What it offers.
    pub routes: Vec<Route>,
    /// What else it says of itself. The instance id is set when it joins.
    pub advert: Advert,
    /// The services, by name, and the urls, as registered, that it wants to be told of; `None`: all.
    pub interests: Option<Vec<String>>,
    /// Where to keep what is known, for the next start.
    pub cache: Option<PathBuf>,
    /// How one of several providers is picked.
    pub balance: Balance,
    /// Where its connections go.
    pub network: Network,
}

impl Identity {
    /// A process that wants to be told of everybody, and says nothing out of the ordinary.
    pub fn new(name: impl Into<String>, port: u16, routes: Vec<Route>) -> Self {
        Self {
            name: name.into(),
            port,
            listen: None,
            own: Vec::new(),
            routes,
            advert: Advert::default(),
            interests: None,
            cache: None,
            balance: Balance::default(),
            network: Network::default(),
        }
    }
}

/// A wish to know who has seen our registration.
#[derive(Debug)]
pub(crate) struct VisibilityRequest {
    pub(crate) target: VisibilityTarget,
    pub(crate) answer: oneshot::Sender<Visibility>,
}

/// Changes a registration while it lasts.
#[derive(Debug)]
pub(crate) struct RegistrationHandle {
    /// What the node says of itself; the session with the Distributor passes it on.
    pub(super) advert: watch::Sender<Advert>,
    pub(super) requests: mpsc::Sender<VisibilityRequest>,
}

impl RegistrationHandle {
    /// Changes what the node says of itself: all other nodes are told.
    pub(crate) fn advertise(&self, change: impl FnOnce(&mut Advert)) {
        self.advert.send_if_modified(|advert| {
            let before = advert.clone();
            change(advert);
            *advert != before
        });
    }

    /// Completes when this percentage of all version 2 nodes has acknowledged that it knows the registration, or `within` is
    /// over. Cancel safe. See [`Node::wait_visible`](crate::Node::wait_visible).
    pub(crate) async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        let milliseconds = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let target = VisibilityTarget { percent: percent.clamp(1, 100), within: milliseconds };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(VisibilityRequest { target, answer }).await.ok()?;
            answered.await.ok()
        };
        // An old Distributor, or none, does not answer.
        let patience = within.saturating_add(Duration::from_secs(1));
        timeout(patience, asked).await.ok().flatten().unwrap_or_default()
    }
}

/// A secret of this process, of the system's generator. Without one the id proves nothing, and the node works all the same.
pub(super) fn new_secret() -> Option<Secret> {
    let mut bytes = [0; SECRET_BYTES];
    if let Err(error) = getrandom::fill(&mut bytes) {
        warn!(%error, "the system has no random numbers; this node cannot prove that it is itself");
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
