//! A worker with everything that its connections use: its place in the registry, servers, limits.

use std::net::SocketAddr;
use std::sync::Arc;

use node_sdk::Peers;
use node_sdk::gateway::{BlockedAddresses, GatewayPeers, NodeDescription, RetryBudget};
use protocol::{Advert, HostPort};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::config::Config;
use crate::downstream::clients::ClientTracker;
use crate::downstream::tls::Tls;
use crate::downstream::worker::Worker;
use crate::observe::access_log::AccessLog;
use crate::proxy::websocket::held::push_links::serve_pushes;
use crate::upstream::WorkerShared;
use crate::upstream::checks::node_checks::check_nodes;
use crate::upstream::table::UpstreamTable;

/// The name under which version 1 gateways register. They ignore entries of this name, so ours must
/// have it too.
const NAME: &str = "gate";

/// Registers this gateway, and keeps it registered. Returns the worker from which each thread makes
/// its own.
pub(super) fn start_worker(
    address: SocketAddr,
    client_addresses: Vec<SocketAddr>,
    config: &watch::Receiver<Arc<Config>>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> Worker {
    let changing = config.clone();
    let config = Arc::clone(&config.borrow());
    let mut client_addresses = client_addresses;
    // A server or node at the advertised address is this gateway, and must not be called.
    client_addresses.extend(config.advertise.as_ref().and_then(HostPort::socket_address));
    let blocked = BlockedAddresses::new(client_addresses.clone());
    let advert = Advert { advertise: config.advertise.clone(), ..Advert::default() };
    let description = NodeDescription {
        client_addresses,
        advert,
        cache: config.cache.clone(),
        public_only: Some(config.old_nodes_public.0.clone()),
        ..NodeDescription::new(NAME, address.port(), Vec::new())
    };
    info!(%address, distributor = %config.distributor, "listening");
    let peers = Peers::join(description, config.distributor.clone(), stop.clone());
    let clients = Arc::new(ClientTracker::new(config.max_connections));
    let access_log = AccessLog::start(config.access_log).map(Arc::new);
    let shared = Arc::new(WorkerShared::new(config.max_held_bytes, config.max_connections, blocked));
    let upstreams = Arc::new(UpstreamTable::new(config, &shared));
    let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
    let looks_up = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared.names).run(changing.clone())));
    let checks = AbortOnDropHandle::new(tokio::spawn(check_nodes(peers.clone(), changing)));
    let pushes = serve_pushes(peers.clone(), Arc::clone(&shared.sessions));
    let pushes = AbortOnDropHandle::new(tokio::spawn(pushes));
    Worker {
        peers,
        upstreams,
        metrics: Arc::default(),
        retries,
        shedding: Arc::default(),
        time: Arc::default(),
        shared,
        access_log,
        tls,
        clients,
        _tasks: Arc::new([checks, looks_up, pushes]),
        stop,
    }
}
