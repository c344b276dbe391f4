//! Which calls are begun: those that are of no loop, have time left, and find room.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::error::ServiceError;
use crate::server::concurrency::{ConcurrencyLimit, MAX_WAITING};
use crate::server::dispatch::LocalRoute;

/// When a caller may try again a route that has too many running calls.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of calls in a row, each made while the one before is handled. Services that call
/// each other in a circle would go on until the deadline. No correct service comes near this
/// number.
const MAX_HOPS: u8 = 32;

/// Whether a call of a route may run now.
pub(super) enum RunDecision<'a> {
    /// With its permit, if calls of the route are limited.
    Run(Option<OwnedSemaphorePermit>),
    /// Later, with its permit to wait.
    Wait(&'a ConcurrencyLimit, OwnedSemaphorePermit),
}

impl LocalRoute {
    /// Whether a call may run now. One that is answered does not wait: its caller can ask another
    /// node. For an event there is no other.
    pub(super) fn admit(&self, is_answered: bool) -> Result<RunDecision<'_>, ServiceError> {
        let Some(limit) = &self.max_concurrency else { return Ok(RunDecision::Run(None)) };
        if let Some(permit) = limit.try_run() {
            return Ok(RunDecision::Run(Some(permit)));
        }
        if is_answered {
            return Err(overloaded("too many calls of this route are running"));
        }
        limit.try_wait().map(|waiting| RunDecision::Wait(limit, waiting)).ok_or_else(|| {
            overloaded(format!(
                "{MAX_WAITING} wait for their turn already; allow more at a time with max_concurrency, or start another node"
            ))
        })
    }
}

/// Checks that the chain of calls, each made for the one before, has an end.
pub(super) fn check_hops(hops: u8) -> Result<(), ServiceError> {
    if hops <= MAX_HOPS {
        return Ok(());
    }
    let message = format!("more than {MAX_HOPS} calls in a chain; services may be calling each other in a loop");
    Err(ServiceError::new(508, "loop", message))
}

/// Checks that a call with a deadline which has `waited` on its way has enough of its time left.
pub(super) fn check_time(waited: Duration, time: Option<Duration>) -> Result<(), ServiceError> {
    let Some(time) = time else { return Ok(()) };
    if waited >= time {
        // The caller no longer waits.
        return Err(ServiceError::new(504, "deadline", "the deadline was over before the call began"));
    }
    if waited > time / 2 {
        // Under overload, all calls that have waited longest would be answered too late.
        return Err(overloaded("the call waited for half of its time before it could be begun"));
    }
    Ok(())
}

/// The error that tells the caller to try again soon, or at another node.
pub(super) fn overloaded(message: impl Into<String>) -> ServiceError {
    ServiceError::new(503, "overloaded", message).retry_after(RETRY_AFTER)
}
