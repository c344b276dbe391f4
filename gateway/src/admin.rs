//! What operators and their machines ask: is it alive, is it ready, what has it done. On an address of its own.

use std::sync::Arc;

use daemon::{Acceptor, tune};
use http::StatusCode;
use node_sdk::Peers;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::http1::connection::{self, Answer, Connection, Ended};
use crate::http1::head::Head;
use crate::http1::write::Full;
use crate::metrics::{self, Metrics};
use crate::problem::Problem;

/// Operators at a time.
const MAX_CLIENTS: usize = 64;

/// What there is to tell.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) peers: Peers,
    pub(crate) workers: Arc<[Arc<Metrics>]>,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stop: CancellationToken,
    pub(crate) config: Arc<Config>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
}

impl Admin {
    /// Answers until it is dropped: also while the gateway stops.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let mut acceptor = Acceptor::new(listener);
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                (socket, _) = acceptor.accept(), if clients.len() < MAX_CLIENTS => {
                    tune(&socket);
                    let Some(stream) = socket.into_tcp() else { continue };
                    let admin = self.clone();
                    clients.spawn(async move {
                        let config = Arc::clone(&admin.config);
                        connection::run(stream, &config, CancellationToken::new(), admin).await
                    });
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
            // With fixed servers there is something to serve even if nobody tells of others.
            "/ready" if self.peers.nodes().is_empty() && self.config.upstreams.is_empty() => {
                Some(unavailable("no node is known yet"))
            }
            "/ready" => Some((StatusCode::OK, "ready\n".to_owned())),
            "/metrics" => {
                let (nodes, stale) = (self.peers.nodes().len(), self.peers.stale_for());
                let lost = self.access_log.as_ref().map_or(0, |log| log.lost());
                Some((StatusCode::OK, metrics::text(&self.workers, nodes, stale, lost)))
            }
            _ => None,
        }
    }
}

impl Answer for Admin {
    async fn answer(&mut self, head: Head, connection: &mut Connection) -> Result<(), Ended> {
        let path = head.target().split('?').next().unwrap_or_default();
        if !matches!(head.method(), "GET" | "HEAD") {
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "here is only to GET");
            connection.problem(&problem);
            return Ok(());
        }
        match self.text(path) {
            Some((status, text)) => {
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                connection.respond(&Full { status, content_type, retry_after: None, body: text.as_bytes() });
            }
            None => connection.problem(&Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there are /health, /ready and /metrics",
            )),
        }
        Ok(())
    }

    fn refused(&mut self, _status: StatusCode) {}
}
