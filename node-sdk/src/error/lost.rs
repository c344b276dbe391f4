//! Events, and other calls without a response, that are lost. No caller waits for them, so only the
//! counter and the log here show their loss.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use net::{KeyedThrottle, MAX_ESCAPED_BYTES, escaped, warn};
use tokio::time::Instant;

/// Counts and logs the messages that one node has lost, on their way to other nodes or to a
/// handler.
#[derive(Debug, Default)]
pub(crate) struct LostCalls {
    count: AtomicU64,
    log: Mutex<KeyedThrottle>,
}

/// A call that has no response.
#[derive(Debug)]
pub(crate) struct OneWayCall {
    /// Method and path.
    pub(crate) route: String,
    pub(crate) lost: Arc<LostCalls>,
}

impl LostCalls {
    /// How many were lost.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Records that a call of this route is lost, and why.
    pub(crate) fn record(&self, route: &str, why: impl Display) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now().into_std();
        if let Some(suppressed) = self.log.lock().unwrap_or_else(PoisonError::into_inner).allow(route, now) {
            let (route, why) = (escaped(route, MAX_ESCAPED_BYTES), escaped(why, 2 * MAX_ESCAPED_BYTES));
            warn!(%route, suppressed, "lost: {why}");
        }
    }
}
