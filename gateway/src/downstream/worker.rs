//! Accepts clients until told to stop, then lets requests in flight finish.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{pending, select_all};
use net::{Acceptor, LogThrottle, Socket, set_tcp_options_with_timeout, sleep_until_opt};
use node_sdk::Peers;
use node_sdk::gateway::{GatewayPeers, Identity, RetryBudget};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::downstream::clients::ClientTracker;
use crate::downstream::connection::DownstreamConnection;
use crate::downstream::shedding::Shedding;
use crate::downstream::tls::Tls;
use crate::io::stream::limit_unsent;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::process::admin::Admin;
use crate::upstream::WorkerShared;
use crate::upstream::node_checks::check_nodes;
use crate::upstream::table::UpstreamTable;

/// How old gateways register: they pass over entries of this name, so ours must have it too.
const NAME: &str = "gate";

/// After being told to stop, connections are taken for so long that the system has accepted already: they may have asked.
const DRAIN_NOTICE: Duration = Duration::from_millis(50);

/// How long a successor waits for the Distributor before it serves what it knows.
const MAX_REGISTRY_WAIT: Duration = Duration::from_secs(5);

/// Clients that wait for others to make room, of one worker, and how long they do: those have a second for a last request.
const MAX_WAITING: usize = 128;
const MAX_ACCEPT_WAIT: Duration = Duration::from_secs(3);

/// The least time for which the system lets a client take nothing.
const MIN_TCP_TIMEOUT: Duration = Duration::from_secs(300);

/// Where clients come in.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Without TLS.
    pub http: Vec<TcpListener>,
    /// With TLS: there have to be certificates.
    pub https: Vec<TcpListener>,
    /// Where operators ask.
    pub admin: Option<TcpListener>,
    /// Told when clients are served: other processes may have served these listeners until then, so nobody is before it is known
    /// who answers what, or a few seconds are over.
    pub ready: Option<oneshot::Sender<()>>,
}

/// How a gateway is stopped.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No new clients; those there are get their answers.
    pub drain: CancellationToken,
    /// Operators are not answered any more: another process does that.
    pub admin: CancellationToken,
}

/// What all connections of a worker share.
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
    /// One for each client, of all workers.
    free_connections: Arc<Semaphore>,
    clients: Arc<ClientTracker>,
    /// Goes on for as long as there is somebody to serve.
    _checks: Arc<AbortOnDropHandle<()>>,
    pub(crate) stop: CancellationToken,
}

/// Serves HTTP on `listener` until `stop` is cancelled; then leaves the registry, stops accepting, and returns when requests in
/// flight are done or `drain_timeout` is over.
///
/// # Errors
/// Those of the listener's own address.
pub async fn serve(listener: TcpListener, config: Config, stop: CancellationToken) -> io::Result<()> {
    let (_sender, config) = watch::channel(Arc::new(config));
    let address = listener.local_addr()?;
    let worker = Worker::open(address, vec![address], &config, None, stop);
    worker.serve(vec![(listener, false)], config).await;
    if let Some(log) = &worker.access_log {
        log.flush();
    }
    info!("stopped");
    Ok(())
}

/// As [`serve`], with a thread for each listener of a kind: they share an address, and nothing on the way of a request. What
/// `config` changes to holds for connections and requests that come after that; where the registry is, how many clients there may
/// be and how the access log looks stay as they are.
///
/// # Errors
/// Those of the listeners' own address, of certificates, and of the system that gives no threads.
pub async fn serve_all(listeners: Listeners, config: watch::Receiver<Arc<Config>>, stop: Stop) -> io::Result<()> {
    let Listeners { http, https, admin, ready } = listeners;
    let address = http.first().or_else(|| https.first()).ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
    let tls = if https.is_empty() { None } else { Some(Arc::new(Tls::new(&config.borrow().certificates)?)) };
    // Nobody is to be answered by what is behind these because a node has registered them.
    let own = http.iter().chain(&https).chain(&admin).map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    let worker = Worker::open(address, own, &config, tls.clone(), stop.drain.clone());
    let count = http.len().max(https.len());
    let upstreams = || Arc::new(UpstreamTable::new(Arc::clone(&config.borrow()), &worker.shared));
    let upstreams: Arc<[_]> = (0..count).map(|_| upstreams()).collect();
    let metrics: Arc<[_]> = (0..count).map(|_| Arc::new(Metrics::default())).collect();
    let asked = admin.map(|listener| {
        let admin = Admin {
            peers: worker.peers.clone(),
            upstreams: Arc::clone(&upstreams),
            workers: Arc::clone(&metrics),
            stop: stop.drain.clone(),
            config: config.clone(),
            access_log: worker.access_log.clone(),
            shared: Arc::clone(&worker.shared),
        };
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                () = admin.serve(listener) => {}
                () = stop.admin.cancelled() => {}
            }
        }))
    });
    let renewed = tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(renew(tls, config.clone()))));
    if ready.is_some() {
        let known = worker.peers.wait_until(|nodes| !nodes.is_empty());
        let _ = timeout(MAX_REGISTRY_WAIT, known).await;
    }
    let mut acceptors: Vec<Vec<(TcpListener, bool)>> = (0..count).map(|_| Vec::new()).collect();
    for (listeners, is_tls) in [(http, false), (https, true)] {
        for (at, listener) in listeners.into_iter().enumerate() {
            acceptors[at].push((listener, is_tls));
        }
    }
    let mut workers = Vec::new();
    for (number, acceptors) in acceptors.into_iter().enumerate() {
        let acceptors = acceptors.into_iter().map(|(listener, is_tls)| Ok((listener.into_std()?, is_tls)));
        let acceptors = acceptors.collect::<io::Result<Vec<_>>>()?;
        let upstreams = Arc::clone(&upstreams[number]);
        let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
        let metrics = Arc::clone(&metrics[number]);
        let shedding = Arc::default();
        let worker =
            Worker { peers: worker.peers.for_thread(), upstreams, metrics, retries, shedding, ..worker.clone() };
        let config = config.clone();
        let (ends, ended) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().event_interval(15).build()?;
        let work = move || {
            let served = runtime.block_on(async {
                let acceptors = acceptors.into_iter().map(|(one, is_tls)| Ok((TcpListener::from_std(one)?, is_tls)));
                worker.serve(acceptors.collect::<io::Result<_>>()?, config).await;
                Ok(())
            });
            let _ = ends.send(served);
        };
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        workers.push(ended);
    }
    if let Some(ready) = ready {
        let _ = ready.send(());
    }
    for worker in workers {
        worker.await.unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")))?;
    }
    drop((asked, renewed));
    if let Some(log) = &worker.access_log {
        log.flush();
    }
    info!("stopped");
    Ok(())
}

/// Reads certificates anew whenever the configuration is.
async fn renew(tls: Arc<Tls>, mut config: watch::Receiver<Arc<Config>>) {
    while config.changed().await.is_ok() {
        let files = config.borrow_and_update().certificates.clone();
        if let Err(error) = tls.reload(&files) {
            warn!("the certificates stay as they were: {error}");
        }
    }
}

impl Worker {
    /// Registers, and goes on doing so.
    fn open(
        address: SocketAddr,
        own: Vec<SocketAddr>,
        config: &watch::Receiver<Arc<Config>>,
        tls: Option<Arc<Tls>>,
        stop: CancellationToken,
    ) -> Self {
        let changing = config.clone();
        let config = Arc::clone(&config.borrow());
        let identity = Identity { own, cache: config.cache.clone(), ..Identity::new(NAME, address.port(), Vec::new()) };
        info!(%address, distributor = %config.distributor, "listening");
        let peers = Peers::join(identity, config.distributor.clone(), stop.clone());
        let max_connections = config.max_connections.min(Semaphore::MAX_PERMITS);
        let free_connections = Arc::new(Semaphore::new(max_connections));
        let access_log = AccessLog::start(config.access_log).map(Arc::new);
        let shared = Arc::new(WorkerShared::new(config.max_held_bytes));
        let upstreams = Arc::new(UpstreamTable::new(config, &shared));
        let retries = Arc::new(RetryBudget::new(Instant::now().into_std()));
        let clients = Arc::new(ClientTracker::new(max_connections));
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
            free_connections,
            clients,
            _checks: Arc::new(checks),
            stop,
        }
    }

    /// Serves clients until `stop`, and then those that have begun to ask.
    async fn serve(&self, listeners: Vec<(TcpListener, bool)>, config: watch::Receiver<Arc<Config>>) {
        // Asked at every request: of its own, so that workers do not wait for each other.
        let stop = self.stop.child_token();
        let mut acceptors: Vec<_> =
            listeners.into_iter().map(|(listener, is_tls)| (Acceptor::new(listener), is_tls)).collect();
        let updates =
            Arc::clone(&self.upstreams).run_updates(self.peers.clone(), config.clone(), Arc::clone(&self.shared));
        let follows = AbortOnDropHandle::new(tokio::spawn(updates));
        let shedding = Arc::clone(&self.shedding);
        let watches = AbortOnDropHandle::new(tokio::spawn(async move { shedding.run().await }));
        let mut connections = JoinSet::new();
        let mut full = LogThrottle::default();
        let mut accept_until = None;
        // Those who wait for a place count among the connections.
        let most = config.borrow().max_connections.saturating_add(MAX_WAITING);
        loop {
            tokio::select! {
                biased;
                ((socket, client), is_tls) = accept(&mut acceptors) => {
                    let worker = || Self { stop: stop.clone(), ..self.clone() };
                    let free = self.free_connections.available_permits();
                    // Proxies that are believed speak for many clients.
                    let has_share = self.clients.has_share_left(client.ip(), free) || self.is_proxy_for_many(client.ip());
                    let place = if has_share { Arc::clone(&self.free_connections).try_acquire_owned().ok() } else { None };
                    let is_short = place.is_none() || self.clients.is_short(free);
                    let of = (!has_share).then(|| client.ip());
                    let is_evicting = is_short && self.clients.evict_idlest(of, free, Instant::now());
                    let will_be_free = place.is_none() && connections.len() < most && is_evicting;
                    if place.is_none() && let Some(held_back) = full.allow(Instant::now().into_std()) {
                        let limit = config.borrow().max_connections;
                        let what = if will_be_free { "a client that does nothing goes" } else { "connection closed" };
                        warn!(%client, limit, held_back, "{what}: there are as many as allowed (--max-connections)");
                    }
                    match place {
                        Some(place) => drop(connections.spawn(worker().run(socket, client, is_tls, place))),
                        None if will_be_free => drop(connections.spawn(worker().run_when_free(socket, client, is_tls))),
                        None => {}
                    }
                }
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        warn!(%error, "a client's connection panicked");
                    }
                }
                () = sleep_until_opt(accept_until) => break,
                () = self.stop.cancelled(), if accept_until.is_none() => accept_until = Some(Instant::now() + DRAIN_NOTICE),
            }
        }
        // Refused from now on, not left in a backlog that nobody empties.
        drop(acceptors);
        let cut_at = Some(Instant::now() + config.borrow().drain_timeout);
        while !connections.is_empty() {
            tokio::select! {
                _ = connections.join_next() => {}
                () = sleep_until_opt(cut_at) => {
                    warn!(connections = connections.len(), "stopped; requests were cut (--drain-timeout)");
                    return;
                }
            }
        }
        drop((follows, watches));
    }

    /// Connections from there are many clients'.
    fn is_proxy_for_many(&self, peer: IpAddr) -> bool {
        let snapshot = self.upstreams.snapshot();
        let networks = snapshot.config.trusted.iter().chain(&snapshot.config.proxy_protocol);
        let peer = peer.to_canonical();
        networks.into_iter().any(|network| network.contains(&peer))
    }

    /// Somebody has been told to go: that takes a moment.
    async fn run_when_free(self, socket: Socket, address: SocketAddr, is_tls: bool) {
        let place = {
            let _waits = self.clients.wait_guard();
            timeout(MAX_ACCEPT_WAIT, Arc::clone(&self.free_connections).acquire_owned()).await
        };
        if let Ok(Ok(place)) = place {
            self.run(socket, address, is_tls, place).await;
        }
    }

    async fn run(self, socket: Socket, address: SocketAddr, is_tls: bool, _place: OwnedSemaphorePermit) {
        let Some(stream) = socket.into_tcp() else { return };
        // A client that pauses is given up by our own time-outs, or, in a tunnel, by those at its ends.
        set_tcp_options_with_timeout(&stream, self.upstreams.snapshot().config.write_timeout.max(MIN_TCP_TIMEOUT));
        limit_unsent(&stream);
        let _connected = self.metrics.connection();
        let client = self.clients.track(address.ip(), self.stop.child_token());
        let tls = self.tls.as_deref().filter(|_| is_tls);
        let reason = tokio::select! {
            biased;
            reason = DownstreamConnection { worker: &self, address, client: &client, tls }.serve(stream) => reason,
            () = poll_fn(|task| client.poll_evicted(task)) => "made room for others",
        };
        debug!(client = %address, reason, "client's connection ended");
    }
}

/// The next client, with whether it has to speak TLS. Cancel safe.
async fn accept(acceptors: &mut [(Acceptor, bool)]) -> ((Socket, SocketAddr), bool) {
    let accepting = acceptors.iter_mut().map(|(acceptor, is_tls)| {
        Box::pin(async {
            let accepted = acceptor.accept().await;
            (accepted, *is_tls)
        })
    });
    let accepting: Vec<_> = accepting.collect();
    if accepting.is_empty() { pending().await } else { select_all(accepting).await.0 }
}
