//! Which calls are begun: those that are of no loop, have time left, and find room.

use std::sync::Arc;
use std::time::Duration;

use protocol::{CallMeta, Route, WantedHeaders};
use tokio::sync::OwnedSemaphorePermit;

use crate::client::events::key_order::{MAX_WAITING as MAX_KEYED, MAX_WAITING_OF_KEY, Turn};
use crate::error::ServiceError;
use crate::handler::event::{DURABLE_METHOD, IncomingEvent};
use crate::handler::invocation::RunningHandler;
use crate::handler::{AnyHandler, IncomingCall};
use crate::server::concurrency::{ConcurrencyLimit, MAX_WAITING, wait_for_turn};
use crate::server::dispatch::LocalService;

/// When a caller may try again a route that has too many running calls.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Maximum number of calls in a row, each made while the one before is handled. Services that call
/// each other in a circle would go on until the deadline. No correct service comes near this
/// number.
const MAX_HOPS: u8 = 32;

/// One route of a node.
pub(crate) struct LocalRoute {
    /// Its place among the routes of the node.
    pub(crate) index: usize,
    pub(crate) route: Route,
    pub(crate) handler: Arc<dyn AnyHandler>,
    /// How many calls may run at a time.
    pub(crate) max_concurrency: Option<ConcurrencyLimit>,
    /// Whether calls of the route are not answered, even if they ask for an answer.
    pub(crate) one_way: bool,
    /// Whether calls are finished even if they are idempotent and the caller goes.
    pub(crate) to_the_end: bool,
    /// The header fields that its arguments read of a client's request, if they read any of it.
    pub(crate) wanted: Option<WantedHeaders>,
    /// Maximum bytes of the body of a client's request.
    pub(crate) max_body: u64,
}

/// Whether a call of a route may run now.
pub(super) enum RunDecision<'a> {
    Run(RunPermit),
    /// Later, with its permit to wait.
    Wait(&'a ConcurrencyLimit, OwnedSemaphorePermit),
    /// When earlier events of its key are done. Meanwhile it holds its permit to run.
    WaitForTurn(Turn, Option<OwnedSemaphorePermit>),
}

/// What a call holds while it runs.
#[derive(Debug, Default)]
pub(super) struct RunPermit {
    /// Its permit, if calls of the route are limited.
    limit: Option<OwnedSemaphorePermit>,
    /// The turn of an event with a key. The next one begins when it is dropped.
    _turn: Option<Turn>,
}

impl LocalRoute {
    /// Whether a call may run now. One that is answered does not wait: its caller can ask another
    /// node. For an event there is no other.
    fn admit(&self, is_answered: bool) -> Result<RunDecision<'_>, ServiceError> {
        let Some(limit) = &self.max_concurrency else { return Ok(RunDecision::Run(RunPermit::default())) };
        if let Some(permit) = limit.try_run() {
            return Ok(RunDecision::Run(RunPermit { limit: Some(permit), _turn: None }));
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

impl LocalRoute {
    /// Begins the handler of a call, or lets it wait.
    pub(super) fn begin(
        &self,
        call: &IncomingCall<'_>,
        decision: RunDecision<'_>,
    ) -> Result<(RunningHandler, RunPermit), ServiceError> {
        let waits = |running: RunningHandler| (running, RunPermit::default());
        match decision {
            RunDecision::Run(permit) => self.handler.begin(call).map(|running| (running, permit)),
            RunDecision::Wait(limit, waiting) => {
                call.keep().map(|kept| waits(limit.wait(waiting, &self.handler, kept)))
            }
            RunDecision::WaitForTurn(turn, limit) => {
                call.keep().map(|kept| waits(wait_for_turn(turn, limit, &self.handler, kept)))
            }
        }
    }
}

impl LocalService {
    /// Whether a call of the route may run now. An acknowledged event may have a key; its emitter
    /// can try another node if too many of it wait.
    pub(super) fn admit<'r>(
        &self,
        offer: &'r LocalRoute,
        is_answered: bool,
        key: Option<&str>,
    ) -> Result<RunDecision<'r>, ServiceError> {
        let decision = offer.admit(is_answered)?;
        let Some(key) = key else { return Ok(decision) };
        let turn = self.key_turns.enter(key).map_err(|_full| {
            overloaded(format!(
                "{MAX_WAITING_OF_KEY} events of one key, or {MAX_KEYED} in all, wait for their turn already"
            ))
        })?;
        Ok(match decision {
            RunDecision::Run(permit) if turn.is_now() => RunDecision::Run(RunPermit { _turn: Some(turn), ..permit }),
            RunDecision::Run(permit) => RunDecision::WaitForTurn(turn, permit.limit),
            waits @ (RunDecision::Wait(..) | RunDecision::WaitForTurn(..)) => waits,
        })
    }
}

/// What an event says of itself.
pub(super) fn incoming_event<'a>(method: &str, uri: &'a str, meta: &'a CallMeta<'_>) -> IncomingEvent<'a> {
    let name = uri.strip_prefix('/').unwrap_or_default();
    // The name of a durable subscription is before that of the event.
    let is_durable = method == DURABLE_METHOD;
    let name = if is_durable { name.split_once('/').map_or(name, |(_, name)| name) } else { name };
    IncomingEvent { name, id: meta.event.as_deref(), key: meta.event_key.as_deref(), attempt: meta.attempt }
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
