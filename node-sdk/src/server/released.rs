//! Calls that are finished although their caller no longer waits. A call that is not idempotent
//! must not stop halfway because its client has gone.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};

use net::{KeyedThrottle, warn};
use protocol::Route;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::context::FINISH_TIME;
use crate::context::tasks::NodeTasks;
use crate::handler::response_sink::WriteProgress;
use crate::server::dispatch::StartedCall;

/// Maximum number of released calls at a time: as many as one caller may have running.
const MAX_RELEASED: usize = 1024;

/// Maximum number of running events, and of other calls without a response, of the node to itself:
/// as many as may wait for another node.
const MAX_LOCAL: usize = 10_000;

/// The calls of one node that go on without a caller.
#[derive(Debug)]
pub(crate) struct ReleasedCalls {
    tasks: NodeTasks,
    permits: Arc<Semaphore>,
    local_permits: Arc<Semaphore>,
    log_throttle: Arc<Mutex<KeyedThrottle>>,
}

impl ReleasedCalls {
    pub(crate) fn new(tasks: NodeTasks) -> Self {
        let (permits, local_permits) = (Arc::new(Semaphore::new(MAX_RELEASED)), Arc::new(Semaphore::new(MAX_LOCAL)));
        Self { tasks, permits, local_permits, log_throttle: Arc::default() }
    }

    /// Begins a call of the node to itself that has no response, as a task of the node. Returns
    /// whether there is room for it.
    pub(super) fn run_local(&self, begin: impl FnOnce() -> StartedCall) -> bool {
        let Ok(permit) = Arc::clone(&self.local_permits).try_acquire_owned() else { return false };
        let call = begin();
        self.tasks.spawn(async move {
            let _permit = permit;
            finished(call).await;
        });
        true
    }

    /// Finishes a call whose caller no longer waits, if it must be finished, as a task of the node,
    /// which waits for it when it stops. The calls that it makes from then on have [`FINISH_TIME`],
    /// and not the rest of the caller's time. Drops it otherwise.
    pub(crate) fn finish(&self, mut call: StartedCall) {
        let Some(route) = call.route_to_finish().cloned() else { return };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return warn_of_drop(&self.log_throttle, &route, "too many others are going on already");
        };
        call.return_path.key = None;
        call.release(Instant::now());
        let log_throttle = Arc::clone(&self.log_throttle);
        self.tasks.spawn(async move {
            let _permit = permit;
            if timeout(FINISH_TIME, finished(call)).await.is_err() {
                warn_of_drop(&log_throttle, &route, "it took more than 30 s");
            }
        });
    }
}

async fn finished(mut call: StartedCall) {
    poll_fn(|task| {
        while ready!(call.poll_response_packet(task)).progress == WriteProgress::More {}
        Poll::Ready(())
    })
    .await;
}

fn warn_of_drop(log_throttle: &Mutex<KeyedThrottle>, route: &Route, why: &str) {
    let now = Instant::now().into_std();
    if let Some(suppressed) =
        log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow((route.as_str(), why), now)
    {
        warn!(route = route.as_str(), suppressed, "a call whose caller has gone was dropped before its end: {why}");
    }
}
