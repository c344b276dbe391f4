//! Accepts connections until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::{Acceptor, KeyedThrottle, Listener, LogThrottle, address_group, set_socket_options};
use protocol::Version;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::shell::admin;
use crate::shell::connection;
use crate::shell::publisher::Publisher;
use crate::shell::shared::{ConnectionLimit, Shared};

/// While stopping, the Distributor tells peers that register to come back later, for this time.
/// Then all connections are closed.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// Serves all `listeners` as one registry until `stop` is cancelled. Then tells peers that register
/// to come back later, closes every connection and returns.
///
/// Dropping the future stops at once too.
pub async fn serve(listeners: Vec<impl Into<Listener>>, config: Config, stop: CancellationToken) {
    serve_with_admin(listeners, None, config, stop).await;
}

/// As [`serve`], and answers operators' requests for `/health` and `/metrics` over HTTP at `admin`.
/// Dropping the future stops at once too.
pub async fn serve_with_admin(
    listeners: Vec<impl Into<Listener>>,
    admin: Option<TcpListener>,
    config: Config,
    stop: CancellationToken,
) {
    let shared = Shared::new(config);
    let closing = CancellationToken::new();
    // Aborts its tasks when dropped.
    let mut tasks = JoinSet::new();
    for listener in listeners.into_iter().map(Into::into) {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "listening");
        }
        tasks.spawn(accept(Acceptor::new(listener), Arc::clone(&shared), closing.clone()));
    }
    for version in [Version::V1, Version::V2] {
        tasks.spawn(Publisher::new(Arc::clone(&shared), version).run());
    }
    if let Some(listener) = admin {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "serving /health and /metrics to operators");
        }
        tasks.spawn(admin::serve(listener, Arc::clone(&shared)));
    }
    let time_keeper = Arc::clone(&shared);
    tasks.spawn(async move { time_keeper.run_timers().await });
    tokio::select! {
        () = stop.cancelled() => {
            shared.drain();
            sleep(DRAIN_TIME).await;
        }
        // No task ends by itself, so one that ends has panicked. A registry that accepts nodes but
        // does not publish them is worse than none.
        Some(Err(ended)) = tasks.join_next() => if ended.is_panic() { std::panic::resume_unwind(ended.into_panic()) },
    }
    closing.cancel();
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    info!("stopped");
}

/// Throttles of warnings that a connection was not accepted.
#[derive(Debug, Default)]
struct LimitWarnings {
    total: LogThrottle,
    per_address: KeyedThrottle,
}

impl LimitWarnings {
    /// Warns that a connection of `peer` was closed, and names the limit.
    fn warn_of_limit(&mut self, config: &Config, reason: ConnectionLimit, peer: SocketAddr) {
        let now = Instant::now().into_std();
        let (allowed, limit, what) = match reason {
            ConnectionLimit::Total => {
                let what = "as many connections as allowed (--max-connections)";
                (self.total.allow(now), config.max_connections, what)
            }
            ConnectionLimit::PerAddress => {
                let what = "as many connections from its address as allowed (--max-connections-per-address)";
                let allowed = self.per_address.allow(address_group(peer.ip()), now);
                (allowed, config.max_connections_per_address, what)
            }
        };
        if let Some(suppressed) = allowed {
            warn!(%peer, limit, suppressed, "connection closed: there are {what}");
        }
    }
}

async fn accept(mut acceptor: Acceptor, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut warnings = LimitWarnings::default();
    loop {
        tokio::select! {
            (socket, peer) = acceptor.accept() => {
                set_socket_options(&socket);
                let (reason, refused) = match shared.open(socket, peer) {
                    Ok(guard) => {
                        connections.spawn(connection::run(guard, stop.clone()));
                        continue;
                    }
                    Err(refused) => refused,
                };
                drop(refused);
                warnings.warn_of_limit(&shared.config, reason, peer);
            }
            // A panic in a connection has ended that connection only, and its guard has removed the
            // session.
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(%error, "the task of a connection panicked; its node has left");
                } else {
                    debug!(open = connections.len(), "connection ended");
                }
            }
        }
    }
}
