//! Accepts clients until told to stop, then lets requests in flight finish.

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::{Acceptor, Throttle, at, tune};
use node_sdk::{Identity, Peers};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::http1::connection;
use crate::proxy::Proxy;

/// How old gateways register: they pass over entries of this name, so ours must have it too.
const NAME: &str = "gate";

/// Serves HTTP/1.1 on `listener` until `stop` is cancelled; then leaves the registry, stops accepting, and returns when
/// requests in flight are done or `drain_timeout` is over.
///
/// # Errors
/// Those of the listener's own address.
pub async fn serve(listener: TcpListener, config: Config, stop: CancellationToken) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let peers = join(address, &config, stop.clone());
    serve_clients(listener, peers, Arc::new(config), stop).await;
    info!("stopped");
    Ok(())
}

/// Registers, and goes on doing so.
pub(crate) fn join(address: SocketAddr, config: &Config, stop: CancellationToken) -> Peers {
    let identity = Identity { cache: config.cache.clone(), ..Identity::new(NAME, address.port(), Vec::new()) };
    info!(%address, distributor = %config.distributor, "listening");
    Peers::join(identity, config.distributor.clone(), stop)
}

/// Serves clients until `stop`, and then those that have begun to ask.
pub(crate) async fn serve_clients(listener: TcpListener, peers: Peers, config: Arc<Config>, stop: CancellationToken) {
    let mut acceptor = Acceptor::new(listener);
    let mut connections = JoinSet::new();
    let mut full = Throttle::default();
    let mut last_call = None;
    loop {
        tokio::select! {
            biased;
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
            () = at(last_call) => break,
            () = stop.cancelled(), if last_call.is_none() => last_call = Some(Instant::now() + LAST_CALL),
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
}

/// After being told to stop, connections are taken for so long that the system has accepted already: they may have asked.
const LAST_CALL: tokio::time::Duration = tokio::time::Duration::from_millis(50);

async fn run(stream: TcpStream, client: SocketAddr, peers: Peers, config: Arc<Config>, stop: CancellationToken) {
    let proxy = Proxy { peers: &peers, config: &config };
    let reason = connection::run(stream, &config, stop, proxy).await;
    debug!(%client, reason, "client's connection ended");
}
