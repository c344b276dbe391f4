//! How many retries all calls together may make. Without a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Retries for each call: a fifth. When everything fails, the load grows by no more than that.
const PER_CALL: f64 = 0.2;
/// Further retries a second, for nodes that call rarely.
const PER_SECOND: f64 = 10.0;
/// Maximum number of unused retries that are saved.
const MAX_SAVED: f64 = 100.0;

/// A budget that all calls of a node share.
#[derive(Debug)]
pub struct RetryBudget {
    calls: AtomicU64,
    account: Mutex<RetryTokens>,
}

#[derive(Debug)]
struct RetryTokens {
    left: f64,
    /// Calls and time since retries were last added.
    calls: u64,
    at: Instant,
}

impl RetryBudget {
    /// A budget with the retries of one second.
    pub fn new(now: Instant) -> Self {
        Self { calls: AtomicU64::new(0), account: Mutex::new(RetryTokens { left: PER_SECOND, calls: 0, at: now }) }
    }

    /// Records a call, which adds to the budget.
    pub fn deposit(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry from the budget; `false` when there is none.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = self.calls.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "no process makes 2^52 calls between two retries")]
        let paid = (calls - account.calls) as f64 * PER_CALL;
        let time = now.saturating_duration_since(account.at).as_secs_f64() * PER_SECOND;
        account.left = (account.left + paid + time).min(MAX_SAVED);
        (account.calls, account.at) = (calls, account.at.max(now));
        let enough = account.left >= 1.0;
        if enough {
            account.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn retries_keep_to_their_share() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let taken = |at| (0..1000).filter(|_| budget.try_withdraw(at)).count();
        assert_eq!(taken(start), 10);
        (0..50).for_each(|_| budget.deposit());
        assert_eq!(taken(start), 10);
        assert_eq!(taken(start + Duration::from_millis(500)), 5);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(taken(start + Duration::from_secs(3600)), 100, "what is left over is not kept for ever");
    }
}
