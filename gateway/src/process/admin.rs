//! Answers operators and their tools on an address of its own: whether the gateway is alive and
//! ready, its metrics, and its routes.

use std::collections::VecDeque;
use std::sync::Arc;

use http::StatusCode;
use net::{Acceptor, set_socket_options};
use node_sdk::Peers;
use node_sdk::gateway::GatewayPeers;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::downstream::http1;
use crate::downstream::tracked_client::TrackedClient;
use crate::io::stream::MaybeTlsStream;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::observe::metrics_page::{ProcessTotals, metrics_page};
use crate::process::openapi::{self, openapi};
use crate::process::routes_page::routes_page;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::request_error::Ended;
use crate::upstream::WorkerShared;
use crate::upstream::table::UpstreamTable;

/// Maximum number of connections of operators. When one more comes, the oldest is closed.
const MAX_CLIENTS: usize = 64;

/// The state that is reported.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) peers: Peers,
    /// The metrics of each worker.
    pub(crate) workers: Arc<[Arc<Metrics>]>,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stop: CancellationToken,
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// The upstream groups of each worker.
    pub(crate) upstreams: Arc<[Arc<UpstreamTable>]>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) shared: Arc<WorkerShared>,
}

impl Admin {
    /// Answers until it is dropped, also while the gateway stops.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let mut acceptor = Acceptor::new(listener);
        let mut clients = JoinSet::new();
        // The clients, in the order in which they came.
        let mut order: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            tokio::select! {
                (socket, _) = acceptor.accept() => {
                    set_socket_options(&socket);
                    let Some(stream) = socket.into_tcp() else { continue };
                    let admin = self.clone();
                    order.retain(|client| !client.is_finished());
                    // Requests here are answered at once: the oldest connection is idle, or its
                    // client does not read.
                    if order.len() >= MAX_CLIENTS && let Some(first) = order.pop_front() {
                        first.abort();
                    }
                    order.push_back(clients.spawn(async move {
                        let config = Arc::clone(&admin.config.borrow());
                        let client = TrackedClient::untracked(CancellationToken::new());
                        http1::run(MaybeTlsStream::from(stream), &config, &client, &admin).await
                    }));
                }
                Some(_) = clients.join_next() => {}
            }
        }
    }

    fn text(&self, path: &str) -> Option<(StatusCode, String)> {
        let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
        match path {
            "/health" => Some((StatusCode::OK, "alive\n".to_owned())),
            "/ready" if self.stop.is_cancelled() => Some(unavailable("stopping")),
            // With fixed servers, some requests can be served before the registry is known.
            "/ready"
                if self.peers.nodes().is_empty()
                    && self.config.borrow().routes.iter().all(|route| route.servers.is_empty()) =>
            {
                Some(unavailable("no node is known yet"))
            }
            "/ready" => Some((StatusCode::OK, "ready\n".to_owned())),
            "/metrics" => {
                let budget = self.shared.budget.usage();
                let totals = ProcessTotals {
                    nodes: self.peers.nodes().len(),
                    malformed_from_nodes: self.peers.malformed_total(),
                    warnings: self.shared.log_throttles.tallies(),
                    stale: self.peers.stale_for(),
                    access_log_lost: self.access_log.as_ref().map_or(0, |log| log.lost()),
                    log_lines_lost: net::log_lines_lost(),
                    evicted: self.shared.evicted(),
                    held: budget.held,
                    over_budget: budget.refused,
                    left_unread: budget.unread,
                    sockets: self.shared.sessions.totals(),
                };
                Some((StatusCode::OK, metrics_page(&self.workers, &totals)))
            }
            "/routes" => Some((StatusCode::OK, routes_page(&self.peers, &self.upstreams, &self.shared))),
            _ => None,
        }
    }
}

impl RequestHandler for Admin {
    async fn handle(&self, head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        let path = head.target().split('?').next().unwrap_or_default();
        if !matches!(head.method(), "GET" | "HEAD") {
            let problem = Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ProblemKind::METHOD_NOT_ALLOWED,
                "only GET and HEAD are supported here",
            );
            let allow = Some("GET, HEAD".to_owned());
            return Ok(exchange.respond(FullResponse { allow, ..FullResponse::from(&problem) }));
        }
        let response = match path {
            "/openapi.json" => FullResponse::new(StatusCode::OK, "application/json", openapi(&self.peers).await),
            "/openapi" => FullResponse::new(StatusCode::OK, "text/html; charset=utf-8", openapi::PAGE),
            _ => self.text_response(path),
        };
        Ok(exchange.respond(response))
    }

    fn record_rejection(&self, _status: StatusCode) {}
}

impl Admin {
    fn text_response(&self, path: &str) -> FullResponse {
        match self.text(path) {
            Some((status, text)) => FullResponse::new(status, "text/plain; version=0.0.4; charset=utf-8", text),
            None => {
                let detail =
                    "unknown path; known are /health, /ready, /metrics, /routes, /openapi.json and its page /openapi";
                FullResponse::from(&Problem::new(StatusCode::NOT_FOUND, ProblemKind::NOT_FOUND, detail))
            }
        }
    }
}
