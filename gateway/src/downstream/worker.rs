//! The state that all connections of one worker share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use node_sdk::Peers;
use node_sdk::gateway::{GatewayPeers, Identity, RetryBudget};
use protocol::{Advert, HostPort};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::config::Config;
use crate::downstream::clients::ClientTracker;
use crate::downstream::tls::Tls;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::shedding::Shedding;
use crate::upstream::WorkerShared;
use crate::upstream::node_checks::check_nodes;
use crate::upstream::table::UpstreamTable;

/// The name under which old gateways register. They ignore entries of this name, so ours must have
/// it too.
const NAME: &str = "gate";

/// The state that all connections of a worker share.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) peers: Peers,
    pub(crate) upstreams: Arc<UpstreamTable>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) retries: Arc<RetryBudget>,
    pub(crate) shedding: Arc<Shedding>,
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Shared by all workers.
    pub(super) clients: Arc<ClientTracker>,
    /// These run for as long as clients are served: they check nodes, and look up names.
    _tasks: Arc<[AbortOnDropHandle<()>; 2]>,
    pub(crate) stop: CancellationToken,
}

impl Worker {
    /// Registers, and stays registered.
    pub(crate) fn open(
        address: SocketAddr,
        own: Vec<SocketAddr>,
        config: &watch::Receiver<Arc<Config>>,
        tls: Option<Arc<Tls>>,
        stop: CancellationToken,
    ) -> Self {
        let changing = config.clone();
        let config = Arc::clone(&config.borrow());
        let mut own = own;
        // What others take for this gateway is this gateway.
        own.extend(config.advertise.as_ref().and_then(HostPort::socket_address));
        let advert = Advert { advertise: config.advertise.clone(), ..Advert::default() };
        let identity =
            Identity { own, advert, cache: config.cache.clone(), ..Identity::new(NAME, address.port(), Vec::new()) };
        info!(%address, distributor = %config.distributor, "listening");
        let peers = Peers::join(identity, config.distributor.clone(), stop.clone());
        let clients = Arc::new(ClientTracker::new(config.max_connections));
        let access_log = AccessLog::start(config.access_log).map(Arc::new);
        let shared = Arc::new(WorkerShared::new(config.max_held_bytes));
        let upstreams = Arc::new(UpstreamTable::new(config, &shared));
        let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
        let looks_up = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared.names).run(changing.clone())));
        let checks = AbortOnDropHandle::new(tokio::spawn(check_nodes(peers.clone(), changing)));
        Self {
            peers,
            upstreams,
            metrics: Arc::default(),
            retries,
            shedding: Arc::default(),
            shared,
            access_log,
            tls,
            clients,
            _tasks: Arc::new([checks, looks_up]),
            stop,
        }
    }

    /// One of several workers, with its own view of nodes and servers.
    pub(crate) fn for_thread(&self, upstreams: Arc<UpstreamTable>, metrics: Arc<Metrics>) -> Self {
        let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
        let shedding = Arc::default();
        Self { peers: self.peers.for_thread(), upstreams, metrics, retries, shedding, ..self.clone() }
    }

    /// The same worker, stopped by `stop`.
    pub(super) fn with_stop(&self, stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), ..self.clone() }
    }

    /// Whether connections from this address carry many clients.
    pub(super) fn is_proxy_for_many(&self, peer: IpAddr) -> bool {
        let snapshot = self.upstreams.snapshot();
        let networks = snapshot.config.trusted.iter().chain(&snapshot.config.proxy_protocol);
        let peer = peer.to_canonical();
        networks.into_iter().any(|network| network.contains(&peer))
    }
}
