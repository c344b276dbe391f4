//! Checks whether nodes answer calls, between the calls of clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::iter;
use net::{KeyedThrottle, MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::GatewayPeers;
use node_sdk::{CallError, Peers};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::{Config, RouteConfig};
use crate::upstream::checks::server_checks::{MAX_FAILURES, TIMEOUT};

/// Maximum number of nodes that one check calls at a time.
const MAX_AT_ONCE: usize = 256;

/// The checks of all nodes, for all workers.
struct NodeChecks {
    peers: Peers,
    /// Nodes that failed.
    failed: Mutex<BTreeMap<SocketAddr, FailedNode>>,
    log_throttle: Mutex<KeyedThrottle>,
}

/// The failures of a node.
#[derive(Default)]
struct FailedNode {
    /// The instance that failed, if it states its id.
    instance: Option<String>,
    /// Failures in a row, by called url.
    times: BTreeMap<Arc<str>, u32>,
}

/// Calls nodes as `config` says, without end. Marks those that fail as unhealthy.
pub(crate) async fn check_nodes(peers: Peers, mut config: watch::Receiver<Arc<Config>>) {
    let checks = NodeChecks { peers, failed: Mutex::default(), log_throttle: Mutex::default() };
    loop {
        let urls = wanted(&config.borrow_and_update());
        checks.forget_unless(|_, url| urls.contains_key(url));
        let is_any = !urls.is_empty();
        let runs = join_all(urls.into_iter().map(|(url, every)| checks.run(url, every)));
        tokio::select! {
            _ = runs, if is_any => {}
            changed = config.changed() => if changed.is_err() { return },
        }
    }
}

/// The urls to check, and how often: the shortest period of all routes counts.
fn wanted(config: &Config) -> BTreeMap<Arc<str>, Duration> {
    let mut urls = BTreeMap::new();
    for route in &config.routes {
        if let Some(url) = &route.node_check {
            let every = urls.entry(Arc::from(url.as_str())).or_insert(route.check_every);
            *every = route.check_every.min(*every).max(RouteConfig::MIN_CHECK_PERIOD);
        }
    }
    urls
}

impl NodeChecks {
    /// Runs one check, without end.
    async fn run(&self, url: Arc<str>, every: Duration) {
        let mut ticks = interval(every);
        // Slow nodes are not called more often.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let nodes: BTreeMap<_, _> = self.peers.balanced_providers(&url).into_iter().collect();
            self.forget_unless(|node, failed| **failed != *url || nodes.contains_key(node));
            let asked = iter(nodes).map(async |(node, instance)| (node, instance, self.probe(node, &url).await));
            let mut signs = asked.buffer_unordered(MAX_AT_ONCE);
            while let Some((node, instance, sign)) = signs.next().await {
                self.record_result(node, instance, &url, every, sign.err());
            }
        }
    }

    async fn probe(&self, node: SocketAddr, url: &str) -> Result<(), String> {
        let answer = self.peers.probe(url, node).timeout(TIMEOUT).await.map_err(|error| match error {
            CallError::Deadline { .. } => "no answer in time".to_owned(),
            error => error.to_string(),
        })?;
        match answer.read() {
            Ok(answer) if answer.status < 400 => Ok(()),
            Ok(answer) => Err(format!("its status was {}", answer.status)),
            Err(_) => Err("its answer is not a packet".to_owned()),
        }
    }

    /// Records the result of checking one node.
    fn record_result(
        &self,
        node: SocketAddr,
        instance: Option<String>,
        url: &Arc<str>,
        every: Duration,
        wrong: Option<String>,
    ) {
        let mut all = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = all.entry(node).or_default();
        if failed.instance != instance {
            // Failures of another process do not count.
            *failed = FailedNode { instance, ..FailedNode::default() };
        }
        match &wrong {
            Some(_) => *failed.times.entry(Arc::clone(url)).or_default() += 1,
            None => drop(failed.times.remove(url)),
        }
        let is_healthy = failed.is_healthy();
        if failed.times.is_empty() {
            all.remove(&node);
        }
        drop(all);
        if self.peers.set_health(node, is_healthy) {
            let now = Instant::now().into_std();
            let allowed =
                self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow((node, is_healthy), now);
            match allowed {
                Some(suppressed) if is_healthy => info!(%node, suppressed, "the node is healthy again"),
                Some(suppressed) => {
                    let why = wrong.unwrap_or_default();
                    let why = escaped(why, MAX_ESCAPED_BYTES);
                    warn!(
                        %node, %url, ?why, suppressed,
                        "a node gets no requests: its health check failed; it is checked again every {every:?}"
                    );
                }
                None => {}
            }
        }
    }

    /// Forgets failures. A node without any is healthy again.
    fn forget_unless(&self, is_kept: impl Fn(&SocketAddr, &Arc<str>) -> bool) {
        let mut all = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|node, failed| {
            failed.times.retain(|url, _| is_kept(node, url));
            if failed.is_healthy() {
                self.peers.set_health(*node, true);
            }
            !failed.times.is_empty()
        });
    }
}

impl FailedNode {
    fn is_healthy(&self) -> bool {
        self.times.values().all(|times| *times < MAX_FAILURES)
    }
}
