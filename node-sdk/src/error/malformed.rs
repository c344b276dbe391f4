//! Responses of nodes that could not be understood.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::{KeyedThrottle, MAX_ESCAPED_BYTES, escaped, warn};
use tokio::time::Instant;

/// Maximum number of nodes whose last fault is kept. Beyond it, the oldest is forgotten.
const MAX_NODES: usize = 1024;

/// The malformed responses of nodes that one process has received.
#[derive(Debug, Default)]
pub(crate) struct MalformedLog(Mutex<MalformedState>);

#[derive(Debug, Default)]
struct MalformedState {
    total: u64,
    nodes: BTreeMap<SocketAddr, (Instant, MalformedResponse)>,
    log: KeyedThrottle,
}

/// The responses of one node that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedResponse {
    /// How many there were.
    pub count: u64,
    /// How long ago the last one came.
    pub ago: Duration,
    /// What was wrong with it; escaped.
    pub why: String,
}

impl MalformedLog {
    /// Records that a node has answered in a way that no caller understands.
    pub(crate) fn record(&self, node: SocketAddr, name: &str, why: impl Display) {
        let now = Instant::now();
        let why = escaped(why, MAX_ESCAPED_BYTES).to_string();
        let mut state = self.lock();
        state.total += 1;
        let count = state.nodes.get(&node).map_or(0, |(_, before)| before.count) + 1;
        if count == 1 && state.nodes.len() >= MAX_NODES {
            let first = state.nodes.iter().min_by_key(|(_, (last, _))| *last).map(|(node, _)| *node);
            first.map(|first| state.nodes.remove(&first));
        }
        state.nodes.insert(node, (now, MalformedResponse { count, ago: Duration::ZERO, why: why.clone() }));
        let Some(suppressed) = state.log.allow(node, now.into_std()) else { return };
        drop(state);
        let name = escaped(name, MAX_ESCAPED_BYTES);
        warn!(%node, %name, suppressed, "a response of a node is malformed: {why}");
    }

    /// How many there were of all nodes.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// The malformed responses of this node.
    pub(crate) fn of(&self, node: SocketAddr) -> Option<MalformedResponse> {
        let state = self.lock();
        let (last, known) = state.nodes.get(&node)?;
        Some(MalformedResponse { ago: last.elapsed(), ..known.clone() })
    }

    /// Locks the state. Nothing waits while it is locked, and a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, MalformedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a14_what_was_wrong_is_remembered_of_so_many_nodes() {
        let malformed = MalformedLog::default();
        let node = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        for port in 1..=2 {
            malformed.record(node(port), "n", "\u{1b}noise");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        malformed.record(node(2), "n", "more");
        let known = |port| malformed.of(node(port)).map(|known| (known.count, known.ago.as_secs(), known.why));
        assert_eq!(known(1), Some((1, 1, "\\u{1b}noise".to_owned())));
        assert_eq!(known(2), Some((2, 0, "more".to_owned())));
        assert_eq!((known(3), malformed.total()), (None, 3));
        for port in 3..3 + MAX_NODES as u16 - 1 {
            malformed.record(node(port), "n", "noise");
        }
        assert!(known(1).is_none() && known(2).is_some(), "the first is forgotten");
    }
}
