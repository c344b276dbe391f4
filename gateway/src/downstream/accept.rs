//! Accepts the clients of a worker: which are admitted, which wait, and which are evicted.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{pending, select_all};
use net::{Acceptor, LogThrottle, SendQueue, Socket, set_tcp_options_with_timeout, sleep_until_opt};
use node_sdk::gateway::GatewayPeers;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::clients::ClientAdmission;
use super::worker::Worker;
use crate::config::Config;
use crate::downstream::connection::DownstreamConnection;
use crate::io::stream::limit_unsent;

/// How long, after a stop, connections are still taken that the system has already accepted: they
/// may carry requests.
const LAST_ACCEPT_TIME: Duration = Duration::from_millis(50);
/// Maximum number of clients of one worker that wait for others to be evicted. Each has a
/// descriptor beyond the limit of connections.
const MAX_WAITING: usize = 128;
/// The least time-out of the system for a client that reads nothing.
const MIN_TCP_TIMEOUT: Duration = Duration::from_secs(300);

impl Worker {
    /// Serves clients until `stop`, and then those that have begun to ask. `successor` is cancelled
    /// when another process accepts from these listeners.
    pub(crate) async fn serve(
        &self,
        listeners: Vec<(TcpListener, bool)>,
        config: watch::Receiver<Arc<Config>>,
        successor: &CancellationToken,
    ) {
        let sends = SendQueue::start();
        // Each worker has its own, because it is read at every request and workers should not wait
        // for each other.
        let stop = self.stop.child_token();
        let mut acceptors: Vec<_> =
            listeners.into_iter().map(|(listener, is_tls)| (Acceptor::new(listener), is_tls)).collect();
        let tasks = self.start_tasks(&config);
        let mut connections = JoinSet::new();
        let mut full = LogThrottle::default();
        let mut accept_until = None;
        // Waiting clients count as connections.
        let max_connections = config.borrow().max_connections.saturating_add(MAX_WAITING);
        let mut admit = |connections: &mut JoinSet<()>, socket: Socket, client: SocketAddr, is_tls: bool| {
            let worker = || self.with_stop(&stop);
            let is_proxy = || self.is_proxy_for_many(client.ip());
            let what =
                match self.clients.admit(client.ip(), is_proxy, connections.len() < max_connections, Instant::now()) {
                    ClientAdmission::Admitted(permit) => {
                        connections.spawn(worker().run(socket, client, is_tls, permit));
                        return;
                    }
                    ClientAdmission::Waits => {
                        connections.spawn(worker().run_when_free(socket, client, is_tls));
                        "an idle client is evicted"
                    }
                    ClientAdmission::Refused => "connection closed",
                };
            if let Some(suppressed) = full.allow(Instant::now().into_std()) {
                let limit = config.borrow().max_connections;
                warn!(%client, limit, suppressed, "{what}: the limit of clients is reached (--max-connections)");
            }
        };
        loop {
            tokio::select! {
                biased;
                ((socket, client), is_tls) = accept(&mut acceptors) => admit(&mut connections, socket, client, is_tls),
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        warn!(%error, "the task of a client's connection panicked");
                    }
                }
                () = sleep_until_opt(accept_until) => break,
                () = self.stop.cancelled(), if accept_until.is_none() => accept_until = Some(Instant::now() + LAST_ACCEPT_TIME),
            }
        }
        // New clients are refused from now on, and not left in a backlog.
        for (acceptor, is_tls) in acceptors {
            for (socket, client) in acceptor.close(successor.is_cancelled()) {
                admit(&mut connections, socket, client, is_tls);
            }
        }
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
        drop((tasks, sends));
    }

    /// Starts the tasks that run as long as the worker serves: they follow nodes and configuration,
    /// connect to new nodes, measure the lag, and give heavy connections their turns.
    fn start_tasks(&self, config: &watch::Receiver<Arc<Config>>) -> [AbortOnDropHandle<()>; 4] {
        let updates =
            Arc::clone(&self.upstreams).run_updates(self.peers.clone(), config.clone(), Arc::clone(&self.shared));
        let (shedding, time) = (Arc::clone(&self.shedding), Arc::clone(&self.time));
        [
            tokio::spawn(updates),
            tokio::spawn(self.peers.connect_newcomers()),
            tokio::spawn(async move { shedding.run().await }),
            tokio::spawn(async move { time.run().await }),
        ]
        .map(AbortOnDropHandle::new)
    }

    /// Runs a client for which another one is being evicted, which takes a moment.
    async fn run_when_free(self, socket: Socket, address: SocketAddr, is_tls: bool) {
        if let Some(permit) = self.clients.wait().await {
            self.run(socket, address, is_tls, permit).await;
        }
    }

    async fn run(self, socket: Socket, address: SocketAddr, is_tls: bool, permit: OwnedSemaphorePermit) {
        let Some(stream) = socket.into_tcp() else { return };
        // Our own time-outs close a client that pauses; in a tunnel, those of its two ends do.
        set_tcp_options_with_timeout(&stream, self.upstreams.snapshot().config.write_timeout.max(MIN_TCP_TIMEOUT));
        limit_unsent(&stream);
        let _connected = self.metrics.count_connection();
        let client = self.clients.track(address.ip(), self.stop.child_token(), permit);
        let tls = self.tls.as_deref().filter(|_| is_tls);
        let reason = tokio::select! {
            biased;
            reason = DownstreamConnection { worker: &self, address, client: &client, tls }.serve(stream) => reason,
            () = poll_fn(|task| client.poll_evicted(task)) => "evicted to make room for others",
        };
        debug!(client = %address, reason, "client's connection ended");
    }
}

/// The next client, and whether it has to speak TLS. Cancel safe.
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
