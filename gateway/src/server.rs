//! Accepts clients until told to stop, then lets requests in flight finish.

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::{Acceptor, Throttle, at, tune};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use node_sdk::{Identity, Peers};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::proxy;
use crate::watch::{Watch, Watched};

/// How old gateways register: they pass over entries of this name, so ours must have it too.
const NAME: &str = "gate";

/// Serves HTTP/1.1 on `listener` until `stop` is cancelled; then leaves the registry, stops accepting, and returns when
/// requests in flight are done or `drain_timeout` is over.
///
/// # Errors
/// Those of the listener's own address.
pub async fn serve(listener: TcpListener, config: Config, stop: CancellationToken) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let identity = Identity { cache: config.cache.clone(), ..Identity::new(NAME, address.port(), Vec::new()) };
    let peers = Peers::join(identity, config.distributor.clone(), stop.clone());
    info!(%address, distributor = %config.distributor, "listening");
    serve_peers(listener, peers, Arc::new(config), stop).await;
    Ok(())
}

async fn serve_peers(listener: TcpListener, peers: Peers, config: Arc<Config>, stop: CancellationToken) {
    let mut acceptor = Acceptor::new(listener);
    let mut connections = JoinSet::new();
    let mut full = Throttle::default();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            (socket, client) = acceptor.accept() => {
                tune(&socket);
                let Some(stream) = socket.into_tcp() else { continue };
                if connections.len() < config.max_connections {
                    connections.spawn(run(stream, client, peers.clone(), Arc::clone(&config), stop.clone()));
                } else if let Some(held_back) = full.pass(Instant::now().into_std()) {
                    let limit = config.max_connections;
                    warn!(%client, limit, held_back, "connection closed: there are as many as allowed (--max-connections)");
                }
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(%error, "a client's connection panicked");
                }
            }
        }
    }
    // Refused from now on, not left in a backlog that nobody empties.
    drop(acceptor);
    let cut_at = Some(Instant::now() + config.drain_timeout);
    while !connections.is_empty() {
        tokio::select! {
            _ = connections.join_next() => {}
            () = at(cut_at) => {
                warn!(connections = connections.len(), "stopped; requests were cut (--drain-timeout)");
                return;
            }
        }
    }
    info!("stopped");
}

async fn run(stream: TcpStream, client: SocketAddr, peers: Peers, config: Arc<Config>, stop: CancellationToken) {
    let watch = Watch::new();
    let service = service_fn(|request| {
        let busy = watch.request();
        let (peers, config) = (&peers, &config);
        async move {
            let _busy = busy;
            proxy::handle(request, peers, config).await
        }
    });
    let socket = Watched { socket: TokioIo::new(stream), watch: watch.clone() };
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // The watch tells a slow head from an idle client; hyper's own timer does not.
            .header_read_timeout(None)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(socket, service)
    );
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%client, %error, "client's connection ended");
                }
                return;
            }
            what = watch.expired(&config) => {
                debug!(%client, what, "client's connection closed");
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Headers of one request.
const MAX_HEADERS: usize = 100;
/// Bytes of a request's head, and of what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 * 1024;
