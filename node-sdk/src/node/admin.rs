//! The pages of a node for its operators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use net::{AdminPage, info, serve_admin};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::context::Stop;
use crate::error::StartError;
use crate::node::NodeBuilder;
use crate::observe::{NodeMetrics, NodeTotals, metrics_page};
use crate::peers::Peers;
use crate::transport::budget::Budget;

/// The pages, for those who ask for another one.
const PATHS: &str = "/health, /ready or /metrics";

/// What the pages tell of.
pub(super) struct AdminSources {
    pub(super) metrics: Arc<NodeMetrics>,
    pub(super) peers: Peers,
    pub(super) budget: Arc<Budget>,
    pub(super) stop: Stop,
}

/// Answers operators until it is dropped.
#[derive(Debug)]
pub(super) struct AdminServer {
    pub(super) address: SocketAddr,
    /// Whether the hooks of the start are done.
    is_started: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl NodeBuilder {
    /// Answers operators over HTTP at this address, such as `127.0.0.1:9011`. Without it, nothing
    /// is counted. Anybody who can connect there can read the pages, so do not open it to clients.
    ///
    /// | path | answer |
    /// |---|---|
    /// | `/health` | 200: the process works |
    /// | `/ready` | 200 if it can be called; else 503 with the reason |
    /// | `/metrics` | counters and times in Prometheus' text format |
    ///
    /// It is ready once it is registered and its hooks of the start are done, until it begins to
    /// stop. `docs/guide/running.md` has a list of the metrics.
    ///
    /// ```no_run
    /// # async fn hello() -> Result<String, node_sdk::ServiceError> { Ok("Hello!".to_owned()) }
    /// # async fn example() -> Result<(), node_sdk::StartError> {
    /// use node_sdk::Node;
    ///
    /// Node::builder("hello").admin("127.0.0.1:9011").route("GET/hello", hello).serve().await
    /// # }
    /// ```
    pub fn admin(mut self, address: impl Into<String>) -> Self {
        self.admin = Some(address.into());
        self
    }
}

impl AdminServer {
    /// Answers at an address.
    ///
    /// # Errors
    /// The system does not tell the address of the listener.
    pub(super) fn start(listener: TcpListener, sources: AdminSources) -> Result<Self, StartError> {
        let wrong = |source| StartError::Address { address: "the address for operators".to_owned(), source };
        let address = listener.local_addr().map_err(wrong)?;
        info!(%address, "answering operators");
        let is_started = Arc::new(AtomicBool::new(false));
        let started = Arc::clone(&is_started);
        let page = move |path: &str| sources.page(path, started.load(Ordering::Relaxed));
        let task = tokio::spawn(serve_admin(listener, PATHS, page));
        Ok(Self { address, is_started, task })
    }

    /// The hooks of the start are done.
    pub(super) fn set_started(&self) {
        self.is_started.store(true, Ordering::Relaxed);
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AdminSources {
    fn page(&self, path: &str, is_started: bool) -> Option<AdminPage> {
        match path {
            "/health" => Some(AdminPage::ok("alive\n")),
            "/ready" => Some(match self.unready_reason(is_started) {
                Some(why) => AdminPage::unavailable(why),
                None => AdminPage::ok("ready\n"),
            }),
            "/metrics" => Some(AdminPage::ok(metrics_page(&self.metrics, &self.totals()))),
            _ => None,
        }
    }

    /// Why the node should not be called now, if so.
    fn unready_reason(&self, is_started: bool) -> Option<&'static str> {
        if self.stop.is_requested() {
            Some("stopping")
        } else if !is_started {
            Some("starting: the hooks of the start are not done")
        } else if !self.peers.mesh.view().has_list() {
            Some("not registered: no Distributor has answered yet")
        } else {
            None
        }
    }

    fn totals(&self) -> NodeTotals {
        NodeTotals {
            nodes: self.peers.nodes().len(),
            stale: self.peers.stale_for(),
            lost_events: self.peers.mesh.local_node().connector.lost.count(),
            held_for_callers: self.budget.usage().bytes,
            held_for_providers: self.peers.buffer_usage().bytes,
        }
    }
}
