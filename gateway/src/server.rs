//! Accepts clients until told to stop, then lets requests in flight finish.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::{Acceptor, Throttle, at, tune};
use node_sdk::{Identity, Peers};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::config::Config;
use crate::http1::connection;
use crate::http1::headers::Origin;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::upstreams::Upstreams;

/// How old gateways register: they pass over entries of this name, so ours must have it too.
const NAME: &str = "gate";

/// After being told to stop, connections are taken for so long that the system has accepted already: they may have asked.
const LAST_CALL: Duration = Duration::from_millis(50);

/// What all connections share.
#[derive(Clone, Debug)]
struct Door {
    peers: Peers,
    /// Of one worker, like `peers`.
    upstreams: Arc<Upstreams>,
    config: Arc<Config>,
    /// Of one worker.
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    /// One for each client.
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves HTTP/1.1 on `listener` until `stop` is cancelled; then leaves the registry, stops accepting, and returns when
/// requests in flight are done or `drain_timeout` is over.
///
/// # Errors
/// Those of the listener's own address.
pub async fn serve(listener: TcpListener, config: Config, stop: CancellationToken) -> io::Result<()> {
    let door = Door::open(listener.local_addr()?, config, stop);
    door.serve(listener).await;
    if let Some(log) = &door.access_log {
        log.flush();
    }
    info!("stopped");
    Ok(())
}

/// As [`serve`], with a thread for each listener: they share an address, and nothing on the way of a request. `admin` answers
/// `/health`, `/ready` and `/metrics`.
///
/// # Errors
/// Those of the listeners' own address, and of the system that gives no threads.
pub async fn serve_all(
    listeners: Vec<TcpListener>,
    admin: Option<TcpListener>,
    config: Config,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listeners.first().ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
    let door = Door::open(address, config, stop.clone());
    let metrics: Arc<[_]> = listeners.iter().map(|_| Arc::new(Metrics::default())).collect();
    let asked = admin.map(|listener| {
        let workers = Arc::clone(&metrics);
        let (peers, config, access_log) = (door.peers.clone(), Arc::clone(&door.config), door.access_log.clone());
        AbortOnDropHandle::new(tokio::spawn(Admin { peers, workers, stop, config, access_log }.serve(listener)))
    });
    let flushed = door.access_log.clone();
    let mut workers = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let listener = listener.into_std()?;
        let upstreams = Arc::new(Upstreams::new(door.config.upstreams.clone()));
        let metrics = Arc::clone(&metrics[number]);
        let door = Door { peers: door.peers.follow(), upstreams, metrics, ..door.clone() };
        let (ends, ended) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            let served = runtime.block_on(async {
                door.serve(TcpListener::from_std(listener)?).await;
                Ok(())
            });
            let _ = ends.send(served);
        };
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        workers.push(ended);
    }
    for worker in workers {
        worker.await.unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")))?;
    }
    drop(asked);
    if let Some(log) = &flushed {
        log.flush();
    }
    info!("stopped");
    Ok(())
}

impl Door {
    /// Registers, and goes on doing so.
    fn open(address: SocketAddr, config: Config, stop: CancellationToken) -> Self {
        let identity = Identity { cache: config.cache.clone(), ..Identity::new(NAME, address.port(), Vec::new()) };
        info!(%address, distributor = %config.distributor, "listening");
        let peers = Peers::join(identity, config.distributor.clone(), stop.clone());
        let places = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let upstreams = Arc::new(Upstreams::new(config.upstreams.clone()));
        let access_log = AccessLog::start(config.access_log).map(Arc::new);
        Self { peers, upstreams, config: Arc::new(config), metrics: Arc::default(), access_log, places, stop }
    }

    /// Serves clients until `stop`, and then those that have begun to ask.
    async fn serve(&self, listener: TcpListener) {
        // Asked at every request: of its own, so that workers do not wait for each other.
        let stop = self.stop.child_token();
        let mut acceptor = Acceptor::new(listener);
        let follows = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self.upstreams).follow(self.peers.clone())));
        let mut connections = JoinSet::new();
        let mut full = Throttle::default();
        let mut last_call = None;
        loop {
            tokio::select! {
                biased;
                (socket, client) = acceptor.accept() => {
                    tune(&socket);
                    let Some(stream) = socket.into_tcp() else { continue };
                    if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                        connections.spawn(run(stream, client, Self { stop: stop.clone(), ..self.clone() }, place));
                    } else if let Some(held_back) = full.pass(Instant::now().into_std()) {
                        let limit = self.config.max_connections;
                        warn!(%client, limit, held_back, "connection closed: there are as many as allowed (--max-connections)");
                    }
                }
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        warn!(%error, "a client's connection panicked");
                    }
                }
                () = at(last_call) => break,
                () = self.stop.cancelled(), if last_call.is_none() => last_call = Some(Instant::now() + LAST_CALL),
            }
        }
        // Refused from now on, not left in a backlog that nobody empties.
        drop(acceptor);
        let cut_at = Some(Instant::now() + self.config.drain_timeout);
        while !connections.is_empty() {
            tokio::select! {
                _ = connections.join_next() => {}
                () = at(cut_at) => {
                    warn!(connections = connections.len(), "stopped; requests were cut (--drain-timeout)");
                    return;
                }
            }
        }
        drop(follows);
    }
}

async fn run(stream: TcpStream, client: SocketAddr, door: Door, _place: OwnedSemaphorePermit) {
    let origin = Origin::new(client.ip(), false);
    let _connected = door.metrics.connection();
    let Door { peers, upstreams, config, metrics, access_log, .. } = &door;
    let client = client.ip().to_canonical();
    let proxy = Proxy { peers, upstreams, config, origin, client, metrics, access_log: access_log.as_deref() };
    let reason = connection::run(stream, &door.config, door.stop.clone(), proxy).await;
    debug!(%client, reason, "client's connection ended");
}
