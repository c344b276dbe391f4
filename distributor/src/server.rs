//! Accepts connections until told to stop.

use std::sync::Arc;

use daemon::{Acceptor, Throttle, tune};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::connection;
use crate::membership::Membership;

/// Serves all `listeners` as one registry until `stop` is cancelled; then closes every connection and returns.
///
/// Dropping the future stops at once as well.
pub async fn serve(listeners: Vec<TcpListener>, config: Config, stop: CancellationToken) {
    let membership = Membership::new(config);
    // Aborts its tasks when dropped.
    let mut tasks = JoinSet::new();
    for listener in listeners {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "listening");
        }
        tasks.spawn(accept(Acceptor::new(listener), Arc::clone(&membership), stop.clone()));
    }
    let publisher = Arc::clone(&membership);
    tasks.spawn(async move { publisher.publish().await });
    tokio::select! {
        () = stop.cancelled() => {}
        // None of them ends by itself. A registry that accepts but does not publish is worse than none.
        Some(Err(ended)) = tasks.join_next() => if ended.is_panic() { std::panic::resume_unwind(ended.into_panic()) },
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    info!("stopped");
}

async fn accept(mut acceptor: Acceptor, membership: Arc<Membership>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut full = Throttle::default();
    loop {
        tokio::select! {
            (stream, peer) = acceptor.accept() => {
                tune(&stream);
                match membership.open(stream, peer) {
                    Ok(attendance) => drop(connections.spawn(connection::run(attendance, stop.clone()))),
                    Err(refused) => {
                        drop(refused);
                        if let Some(held_back) = full.pass(Instant::now().into_std()) {
                            let limit = membership.config.max_connections;
                            warn!(%peer, limit, held_back, "connection closed: there are as many as allowed (--max-connections)");
                        }
                    }
                }
            }
            // A panic in a connection has ended that connection only; the membership has seen it leave.
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(%error, "a connection's task panicked; its node has left");
                } else {
                    debug!(open = connections.len(), "connection ended");
                }
            }
        }
    }
}
