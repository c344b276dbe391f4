//! Serves until told to stop: workers, each with a thread, and the address for operators.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use node_sdk::gateway::GatewayPeers;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::config::Config;
use crate::downstream::tls::Tls;
use crate::downstream::worker::Worker;
use crate::observe::metrics::Metrics;
use crate::process::admin::Admin;
use crate::process::start::start_worker;
use crate::upstream::table::UpstreamTable;

/// How long a successor waits for the Distributor before it serves with the nodes that it knows.
const MAX_REGISTRY_WAIT: Duration = Duration::from_secs(5);

/// The listeners of a gateway.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The listeners for clients without TLS.
    pub http: Vec<TcpListener>,
    /// The listeners for clients with TLS, which needs certificates.
    pub https: Vec<TcpListener>,
    /// The listener for operators.
    pub admin: Option<TcpListener>,
    /// Notified when clients are served. Another process may have served these listeners until
    /// then, so serving begins only when the registry is known, or after a few seconds.
    pub ready: Option<oneshot::Sender<()>>,
}

/// How a gateway is stopped.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Accept no new clients; those that are connected get their answers.
    pub drain: CancellationToken,
    /// Do not answer operators any more: another process does.
    pub admin: CancellationToken,
}

/// Serves HTTP on `listener` until `stop` is cancelled; then leaves the registry, stops accepting,
/// and returns when requests in flight are done or `drain_timeout` is over.
///
/// # Errors
/// Those of the listener's own address.
pub async fn serve(listener: TcpListener, config: Config, stop: CancellationToken) -> io::Result<()> {
    let (_sender, config) = watch::channel(Arc::new(config));
    let address = listener.local_addr()?;
    let worker = start_worker(address, vec![address], &config, None, stop);
    let prepared = Arc::clone(&config.borrow());
    worker.shared.names.prepare(&prepared).await;
    worker.upstreams.refresh(&worker.shared);
    worker.serve(vec![(listener, false)], config, &CancellationToken::new()).await;
    finish(&worker).await;
    Ok(())
}

/// As [`serve`], with a thread for each listener of a kind. The threads share an address, and no
/// state on the path of a request. A change of `config` applies to later connections and requests.
/// The address of the registry, the limit of clients and the form of the access log do not change.
/// Dropping the future does not stop the threads: cancel the token.
///
/// # Errors
/// Those of the listeners' addresses, of certificates, and of a system that refuses threads.
pub async fn serve_all(listeners: Listeners, config: watch::Receiver<Arc<Config>>, stop: Stop) -> io::Result<()> {
    let Listeners { http, https, admin, ready } = listeners;
    let address = http.first().or_else(|| https.first()).ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
    let tls = if https.is_empty() { None } else { Some(Arc::new(Tls::new(&config.borrow().certificates)?)) };
    // A node that registers one of these addresses is never called.
    let own = http.iter().chain(&https).chain(&admin).map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    let worker = start_worker(address, own, &config, tls.clone(), stop.drain.clone());
    let prepared = Arc::clone(&config.borrow());
    worker.shared.names.prepare(&prepared).await;
    if let Some(address) = https.first().and_then(|listener| listener.local_addr().ok()) {
        info!(%address, "listening, with TLS");
    }
    if let Some(address) = admin.as_ref().and_then(|listener| listener.local_addr().ok()) {
        info!(%address, "listening, for operators");
    }
    let count = http.len().max(https.len());
    let upstreams = || Arc::new(UpstreamTable::new(Arc::clone(&config.borrow()), &worker.shared));
    let upstreams: Arc<[_]> = (0..count).map(|_| upstreams()).collect();
    let metrics: Arc<[_]> = (0..count).map(|_| Arc::new(Metrics::default())).collect();
    let operators = admin.map(|listener| {
        let admin = Admin {
            peers: worker.peers.clone(),
            upstreams: Arc::clone(&upstreams),
            workers: Arc::clone(&metrics),
            stop: stop.drain.clone(),
            config: config.clone(),
            access_log: worker.access_log.clone(),
            shared: Arc::clone(&worker.shared),
        };
        let successor = stop.admin.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                () = admin.serve(listener) => {}
                () = successor.cancelled() => {}
            }
        }))
    });
    let renewed = tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(renew(tls, config.clone()))));
    if ready.is_some() {
        let known = worker.peers.wait_until(|nodes| !nodes.is_empty());
        let _ = timeout(MAX_REGISTRY_WAIT, known).await;
    }
    let mut threads = Vec::new();
    for (number, listeners) in listeners_of_workers(http, https).into_iter().enumerate() {
        let worker = worker.for_thread(Arc::clone(&upstreams[number]), Arc::clone(&metrics[number]));
        threads.push(start_thread(number, worker, listeners, config.clone(), stop.admin.clone())?);
    }
    if let Some(ready) = ready {
        let _ = ready.send(());
    }
    for thread in threads {
        thread.await.unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")))?;
    }
    drop((operators, renewed));
    finish(&worker).await;
    Ok(())
}

/// The listeners of each worker, one of a kind at most, and whether its clients have to speak TLS.
fn listeners_of_workers(http: Vec<TcpListener>, https: Vec<TcpListener>) -> Vec<Vec<(TcpListener, bool)>> {
    let count = http.len().max(https.len());
    let mut workers: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for (listeners, is_tls) in [(http, false), (https, true)] {
        for (worker, listener) in workers.iter_mut().zip(listeners) {
            worker.push((listener, is_tls));
        }
    }
    workers
}

/// Starts the thread of a worker, with a runtime of its own. The receiver gets the result when the
/// worker has ended.
fn start_thread(
    number: usize,
    worker: Worker,
    listeners: Vec<(TcpListener, bool)>,
    config: watch::Receiver<Arc<Config>>,
    successor: CancellationToken,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    // A listener belongs to the runtime that it was made in.
    let listeners = listeners.into_iter().map(|(listener, is_tls)| Ok((listener.into_std()?, is_tls)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let (ends, ended) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().event_interval(15).build()?;
    let work = move || {
        let served = runtime.block_on(async {
            let listeners = listeners.into_iter().map(|(one, is_tls)| Ok((TcpListener::from_std(one)?, is_tls)));
            worker.serve(listeners.collect::<io::Result<_>>()?, config, &successor).await;
            Ok(())
        });
        let _ = ends.send(served);
    };
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
    Ok(ended)
}

/// Waits until the registry has been left and the access log is written.
async fn finish(worker: &Worker) {
    worker.peers.wait_left().await;
    if let Some(log) = &worker.access_log {
        log.flush();
    }
    info!("stopped");
}

/// Reads certificates again whenever the configuration changes.
async fn renew(tls: Arc<Tls>, mut config: watch::Receiver<Arc<Config>>) {
    while config.changed().await.is_ok() {
        let (files, tls) = (config.borrow_and_update().certificates.clone(), Arc::clone(&tls));
        // A disk that does not answer must not keep the gateway from stopping.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || tls.reload(&files)).await {
            warn!("the earlier certificates stay in use: {error}");
        }
    }
}
