//! The callee side of a node: it accepts callers, begins their calls, and writes their responses.
//!
//! It must not call other nodes, or know the types of a handler. It must not import `discovery`.

pub(crate) mod admission;
mod caller_socket;
pub(crate) mod concurrency;
pub(crate) mod connection;
pub(crate) mod dispatch;
mod local;
pub(crate) mod queue_delay;
pub(crate) mod released;
pub(crate) mod response_queue;
pub(crate) mod route_pace;
mod running_calls;

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::{Acceptor, Listener, LogThrottle, Socket, debug, set_socket_options, sleep_until_opt, warn};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::caller_socket::CallerEnd;
use self::dispatch::LocalService;

/// Maximum number of callers: every node and gateway of a large mesh.
const MAX_CALLERS: usize = 10_000;
/// How long callers have, after the node has left the registry, to learn of it and to close their
/// connections.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How long a node without callers still waits after that: connections that the system has
/// accepted, but this process has not, may carry calls.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// How long calls in flight may take to finish after that.
const FINISH_TIME: Duration = Duration::from_secs(10);
/// How long [`serve`] may take to end.
pub(crate) const MAX_STOP_TIME: Duration = STOP_TIME.saturating_add(FINISH_TIME);

/// Serves callers until `stop` is cancelled, they have closed and the tasks of the node are done,
/// or their time is over. Returns how many connections were cut with calls in flight, and how many
/// tasks were left at work.
pub(crate) async fn serve(listener: Listener, service: Arc<LocalService>, stop: CancellationToken) -> usize {
    let mut acceptor = Some(Acceptor::new(listener));
    let mut connections = JoinSet::new();
    let mut full = LogThrottle::default();
    let finish = CancellationToken::new();
    let mut admit = |connections: &mut JoinSet<()>, socket: Socket, peer: SocketAddr| {
        if connections.len() < MAX_CALLERS {
            set_socket_options(&socket);
            connections.spawn(run(socket, peer, Arc::clone(&service), finish.clone()));
        } else if let Some(suppressed) = full.allow(Instant::now().into_std()) {
            warn!(
                %peer, suppressed,
                "connection closed: {MAX_CALLERS} callers are connected; start another node"
            );
        }
    };
    let mut finish_at = None;
    let mut cut_at = None;
    let mut quiet_at = None;
    loop {
        if stop.is_cancelled() {
            let now = Instant::now();
            let is_quiet = connections.is_empty() && service.tasks.len() == 0;
            quiet_at = is_quiet.then(|| quiet_at.unwrap_or(now + QUIET_TIME));
            finish_at.get_or_insert(now + STOP_TIME);
            cut_at.get_or_insert(now + STOP_TIME + FINISH_TIME);
        }
        tokio::select! {
            () = stop.cancelled(), if finish_at.is_none() => {}
            () = sleep_until_opt(finish_at), if !finish.is_cancelled() => finish.cancel(),
            () = sleep_until_opt(quiet_at) => {
                // Connections that have been accepted since the last check may carry calls, too.
                let late = acceptor.take().map(|acceptor| acceptor.close(false)).unwrap_or_default();
                if late.is_empty() {
                    return 0;
                }
                late.into_iter().for_each(|(socket, peer)| admit(&mut connections, socket, peer));
            }
            () = sleep_until_opt(cut_at) => {
                connections.abort_all();
                return connections.len() + service.tasks.len();
            }
            // Callers that do not yet know that the node stops are served too.
            (socket, peer) = accept(&mut acceptor) => admit(&mut connections, socket, peer),
            () = service.tasks.ended(), if stop.is_cancelled() && service.tasks.len() > 0 => {}
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(%error, "the task of a caller's connection panicked");
                }
            }
        }
    }
}

/// The next caller, unless the listener has been closed. Cancel safe.
async fn accept(acceptor: &mut Option<Acceptor>) -> (Socket, SocketAddr) {
    match acceptor {
        Some(acceptor) => acceptor.accept().await,
        None => pending().await,
    }
}

async fn run(socket: Socket, peer: SocketAddr, service: Arc<LocalService>, finish: CancellationToken) {
    let end = service.tasks.scope(connection::run(&socket, peer, &service, &finish)).await;
    match end {
        CallerEnd::Gone(reason) => debug!(%peer, reason, "caller's connection ended"),
        CallerEnd::Cut(reason) => {
            if let Some(suppressed) = service.allow_log_of(peer.ip(), "cut") {
                warn!(%peer, suppressed, "cut: {reason}");
            }
        }
    }
}
