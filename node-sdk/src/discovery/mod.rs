//! The connection to the Distributor: it registers this node and feeds the registry view.
//!
//! It must not make calls, or pick a provider. It must not import `client` or `server`.

pub(crate) mod cache;
mod foreign_server;
mod own_address;
pub(crate) mod registration;
mod session;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use net::{error, info, warn};
use protocol::Secret;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::cache::CachedMesh;
use self::registration::{MAX_VISIBILITY_REQUESTS, NodeDescription, RegistrationHandle, new_secret};
use self::session::RegistryClient;
use crate::routing::local_node::LocalNode;
use crate::routing::registry_view::RegistryView;
use crate::transport::blocked::BlockedAddresses;

/// Period of attempts to connect to the Distributor, the same as that of version 1 nodes.
pub const RECONNECT_PERIOD: Duration = Duration::from_secs(3);
/// Pause after the first panic in a row, and the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Registers `description` at the Distributor at `address` (`host:port`), keeps it registered and
/// informed until `stop` is cancelled. Returns at once. Before the first list, the peers are those
/// of the cache file, if there is one. Without an address no node becomes known.
pub(crate) fn start(
    mut description: NodeDescription,
    address: Option<String>,
    stop: CancellationToken,
) -> (Arc<RegistryView>, Arc<LocalNode>, RegistrationHandle) {
    let secret = new_secret();
    let id = secret.as_ref().map_or_else(|| format!("{:032x}", net::unique_id()), Secret::instance);
    description.advert.id = Some(id.clone());
    let (requests, requested) = mpsc::channel(MAX_VISIBILITY_REQUESTS);
    let (advert, adverts) = watch::channel(description.advert.clone());
    let blocked = BlockedAddresses::new(description.client_addresses.clone());
    let local_node = LocalNode::new(
        id.clone(),
        &description.name,
        description.advert.zone.clone(),
        description.network.clone(),
        blocked,
        description.public_only.clone(),
    );
    let can_ask = description.asks && description.interests.is_none();
    let view = RegistryView::new(Arc::clone(&local_node), can_ask);
    let left = CancellationToken::new();
    let handle = RegistrationHandle { advert, requests, left: left.clone() };
    let Some(address) = address else {
        left.cancel();
        return (view, local_node, handle);
    };
    if let Some(path) = &description.cache {
        match cache::load(path) {
            Ok(Some(CachedMesh { replica, age, uses, is_partial })) => {
                let nodes = replica.entries().count();
                info!(nodes, age_s = age.as_secs(), path = %path.display(), "using nodes from the cache file until the Distributor sends a list");
                view.seed(replica);
                view.needs().seed(&uses, is_partial, Instant::now());
            }
            Ok(None) => {}
            Err(error) => warn!(%error, path = %path.display(), "the cache file is not used"),
        }
    }
    let client = RegistryClient {
        description,
        address,
        id,
        secret,
        view: Arc::clone(&view),
        adverts,
        requested,
        waiting: Vec::new(),
        warned: None,
        translated: None,
        has_logged_loss: true,
        has_logged_old_distributor: false,
    };
    tokio::spawn({
        let view = Arc::clone(&view);
        async move {
            let _left = left.drop_guard();
            run(client, view, stop).await;
        }
    });
    (view, local_node, handle)
}

/// Runs the client until `stop` is cancelled. After a panic it runs again, after a pause.
async fn run(mut client: RegistryClient, view: Arc<RegistryView>, stop: CancellationToken) {
    let mut restarts = RestartBackoff { pause: FIRST_PAUSE };
    loop {
        let started = Instant::now();
        let run = AssertUnwindSafe(client.run(stop.clone())).catch_unwind().await;
        if run.is_ok() || stop.is_cancelled() {
            return;
        }
        // A new session reads everything again.
        view.record_disconnect();
        let pause = restarts.pause_after(started.elapsed());
        error!(
            pause_s = pause.as_secs(),
            "the task that connects to the Distributor panicked, and will be started again"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// The pause before a client that panicked runs again: it doubles from panic to panic. There is no
/// last attempt, since a node that is not registered is useless.
struct RestartBackoff {
    pause: Duration,
}

impl RestartBackoff {
    /// The pause after it has run for this time.
    fn pause_after(&mut self, ran: Duration) -> Duration {
        if ran >= MAX_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_panics_is_restarted_after_growing_pauses() {
        let mut restarts = RestartBackoff { pause: FIRST_PAUSE };
        let ran = [0, 0, 5, 0, 0, 0, 29, 30, 0].map(Duration::from_secs);
        let pauses = ran.map(|ran| restarts.pause_after(ran).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 1, 2]);
    }
}
