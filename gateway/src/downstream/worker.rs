//! The state that all connections of one worker share.

use std::net::IpAddr;
use std::sync::Arc;

use node_sdk::Peers;
use node_sdk::gateway::{GatewayPeers, RetryBudget};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::downstream::clients::ClientTracker;
use crate::downstream::tls::Tls;
use crate::io::worker_time::WorkerTime;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proxy::shedding::Shedding;
use crate::upstream::WorkerShared;
use crate::upstream::table::UpstreamTable;

/// The state that all connections of a worker share.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) peers: Peers,
    pub(crate) upstreams: Arc<UpstreamTable>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) retries: Arc<RetryBudget>,
    pub(crate) shedding: Arc<Shedding>,
    pub(crate) time: Arc<WorkerTime>,
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Shared by all workers.
    pub(crate) clients: Arc<ClientTracker>,
    /// The tasks that run as long as clients are served: they check nodes, look up
    /// names, and take pushes.
    pub(crate) _tasks: Arc<[AbortOnDropHandle<()>; 3]>,
    pub(crate) stop: CancellationToken,
}

impl Worker {
    /// Makes the worker of one thread, with its own view of nodes and servers.
    pub(crate) fn for_thread(&self, upstreams: Arc<UpstreamTable>, metrics: Arc<Metrics>) -> Self {
        let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
        let (shedding, time) = (Arc::default(), Arc::default());
        Self { peers: self.peers.for_thread(), upstreams, metrics, retries, shedding, time, ..self.clone() }
    }

    /// A copy of the worker that `stop` stops.
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
