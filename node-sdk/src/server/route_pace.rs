//! Routes whose handlers compute: their calls have tasks of their own, so that the calls of one
//! caller use all threads. Calls of other routes are begun and finished by the task of their
//! caller's connection, which costs least.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use net::{KeyedThrottle, warn};
use protocol::Route;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout};

use crate::server::running_calls::{Polled, RunningCall};

/// A handler computes if one poll of it takes longer: a task costs a hundredth of that.
const COMPUTES_AFTER: Duration = Duration::from_micros(100);
/// A handler whose polls take longer hands the other work of its thread to another thread. The
/// runtime looks for what has arrived only after 61 polls of tasks, so that all connections would
/// wait for as many of these. Handing over takes a few hundredths of this time.
const HANDS_OVER_AFTER: Duration = Duration::from_micros(250);
/// A handler that works longer without an await delays other calls of its thread noticeably.
const BLOCKS_AFTER: Duration = Duration::from_millis(100);
/// Polls that are measured once a task has used up its time slice. Measuring all would cost quick
/// calls a few hundredths of their time.
const WATCHED_POLLS: u32 = 16;
/// A long poll adds this to the score of its route, and a quick one takes one off. So two long
/// polls, one soon after the other, make a route compute, and one does not, which may be the fault
/// of a busy machine.
const LONG_POLL_SCORE: u8 = 8;
const MAX_SCORE: u8 = 2 * LONG_POLL_SCORE;
/// How long a call waits for others that compute while none of them pauses or ends. After this time
/// one waiting call begins anyway: the running ones may wait for it.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// How long the handlers of each route work, and the permits of those that compute.
#[derive(Debug)]
pub(crate) struct RoutePaces {
    /// By the index of the route.
    paces: Box<[RoutePace]>,
    /// As many as the runtime has threads. If more calls computed at a time, the runtime would run
    /// all of them before the connections, and quick calls would wait for all.
    permits: Arc<Semaphore>,
    /// How often a call that computes has paused or ended.
    pauses: AtomicU64,
    /// Whether the runtime has several threads, which can hand over work. With one thread, tasks of
    /// their own would bring calls nothing, and all of them would run before others have a turn.
    has_threads: bool,
    log_throttle: Mutex<KeyedThrottle>,
}

#[derive(Debug)]
struct RoutePace {
    route: Route,
    score: AtomicU8,
    /// Whether the last long poll took more than [`HANDS_OVER_AFTER`].
    hands_over: AtomicBool,
}

/// Measures polls of one connection's calls for a while after there was cause.
#[derive(Debug)]
pub(crate) struct PollWatch {
    polls_left: AtomicU32,
    paces: Arc<RoutePaces>,
}

impl RoutePaces {
    /// For these routes of a node, in the order of their indexes, in the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(crate) fn new(routes: &[Route]) -> Arc<Self> {
        let runtime = Handle::current();
        let threads = match runtime.runtime_flavor() {
            RuntimeFlavor::MultiThread => Some(runtime.metrics().num_workers()),
            _ => None,
        };
        Self::with_threads(routes, threads)
    }

    /// For a runtime with `threads` threads, or `None` for one that cannot hand over work.
    fn with_threads(routes: &[Route], threads: Option<usize>) -> Arc<Self> {
        let pace = |route: &Route| RoutePace {
            route: route.clone(),
            score: AtomicU8::new(0),
            hands_over: AtomicBool::new(false),
        };
        let permits = Arc::new(Semaphore::new(threads.unwrap_or(1)));
        let (paces, log_throttle) = (routes.iter().map(pace).collect(), Mutex::default());
        Arc::new(Self { paces, permits, pauses: AtomicU64::new(0), has_threads: threads.is_some(), log_throttle })
    }

    /// Whether calls of the route have tasks of their own.
    pub(crate) fn computes(&self, route: u32) -> bool {
        self.has_threads
            && self.paces.get(route as usize).is_some_and(|pace| pace.score.load(Ordering::Relaxed) > LONG_POLL_SCORE)
    }

    /// Records how long a handler has worked without an await.
    fn record(&self, route: u32, worked: Duration) {
        let Some(RoutePace { route, score, hands_over }) = self.paces.get(route as usize) else { return };
        let next = |score: u8| match worked >= COMPUTES_AFTER {
            true => Some(score.saturating_add(LONG_POLL_SCORE).min(MAX_SCORE)),
            false => Some(score.saturating_sub(1)),
        };
        if worked >= COMPUTES_AFTER || score.load(Ordering::Relaxed) > 0 {
            let _ = score.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        }
        if worked >= COMPUTES_AFTER {
            hands_over.store(worked >= HANDS_OVER_AFTER, Ordering::Relaxed);
        }
        if worked >= BLOCKS_AFTER {
            self.warn_of_block(route, worked);
        }
    }

    fn warn_of_block(&self, route: &Route, worked: Duration) {
        let mut log_throttle = self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log_throttle.allow(route.as_str(), Instant::now().into_std()) {
            drop(log_throttle);
            warn!(
                route = route.as_str(),
                worked_ms = worked.as_millis(),
                suppressed,
                "a handler holds up its thread: it works or blocks long without an await; \
                 move that to tokio::task::spawn_blocking"
            );
        }
    }

    fn measure<T>(&self, route: u32, poll: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let polled = poll();
        self.record(route, begin.elapsed());
        polled
    }

    /// Runs a call up to the next piece of its response, or until its caller leaves. Each poll of
    /// it waits for a permit. A call that has waited for half of its time since `began` is refused.
    pub(super) async fn run(&self, route: u32, mut call: RunningCall, began: Instant) -> Polled {
        let mut is_first = true;
        loop {
            let permit = self.permit().await;
            if std::mem::take(&mut is_first) {
                call.refuse_if_late(began, Instant::now());
            }
            let polled = poll_fn(|task| {
                let mut poll = || self.measure(route, || Pin::new(&mut call).poll(task));
                Poll::Ready(if self.must_hand_over(route) { block_in_place(poll) } else { poll() })
            });
            let polled = polled.await;
            drop(permit);
            self.pauses.fetch_add(1, Ordering::Relaxed);
            match polled {
                Poll::Ready(polled) => return polled,
                Poll::Pending => woken().await,
            }
        }
    }

    /// Whether other work of the thread has to go to another thread.
    fn must_hand_over(&self, route: u32) -> bool {
        self.paces.get(route as usize).is_some_and(|pace| pace.hands_over.load(Ordering::Relaxed))
    }

    /// A permit to compute, in the order of those that wait; `None` if no call that has one pauses
    /// for too long.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = || Arc::clone(&self.permits);
        if let Ok(permit) = permits().try_acquire_owned() {
            return Some(permit);
        }
        let mut next = pin!(permits().acquire_owned());
        loop {
            let pauses = self.pauses.load(Ordering::Relaxed);
            if let Ok(permit) = timeout(MAX_WAIT, next.as_mut()).await {
                // The semaphore is never closed.
                return permit.ok();
            }
            // Of all that wait, one.
            let goes_on =
                self.pauses.compare_exchange(pauses, pauses + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if goes_on {
                return None;
            }
        }
    }
}

/// Completes when the task is woken.
async fn woken() {
    let mut is_woken = false;
    poll_fn(|_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl PollWatch {
    pub(crate) fn new(paces: &Arc<RoutePaces>) -> Arc<Self> {
        Arc::new(Self { polls_left: AtomicU32::new(0), paces: Arc::clone(paces) })
    }

    /// The connection's task has used up its time slice, so one of its calls may compute.
    pub(crate) fn begin(&self) {
        self.polls_left.store(WATCHED_POLLS, Ordering::Relaxed);
    }

    /// Polls a handler of this route, and measures that for a while after [`begin`](Self::begin).
    #[inline]
    pub(crate) fn poll<T>(&self, route: Option<u32>, poll: impl FnOnce() -> T) -> T {
        let left = self.polls_left.load(Ordering::Relaxed);
        match route.filter(|_| left > 0) {
            None => poll(),
            Some(route) => {
                // Only the task of the connection counts.
                self.polls_left.store(left - 1, Ordering::Relaxed);
                self.paces.measure(route, poll)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn routes() -> [Route; 2] {
        ["GET/a", "GET/b"].map(|route| Route::parse(route).unwrap())
    }

    /// Of a runtime that has one thread, and can hand over work.
    fn paces() -> Arc<RoutePaces> {
        RoutePaces::with_threads(&routes(), Some(1))
    }

    #[tokio::test]
    async fn f5_no_call_has_a_task_of_its_own_in_a_runtime_of_one_thread() {
        let paces = RoutePaces::new(&routes());
        (0..10).for_each(|_| paces.record(0, COMPUTES_AFTER));
        assert!(!paces.computes(0));
    }

    #[tokio::test]
    async fn f5_a_route_computes_after_two_long_polls_and_until_it_is_quick() {
        let paces = paces();
        let record = |long: bool, times: usize| {
            let worked = if long { COMPUTES_AFTER } else { COMPUTES_AFTER / 2 };
            (0..times).for_each(|_| paces.record(0, worked));
            (paces.computes(0), paces.computes(1))
        };
        assert_eq!(record(false, 100), (false, false));
        assert_eq!(record(true, 1), (false, false), "it may have been a pause of the machine");
        assert_eq!(record(false, 8), (false, false));
        assert_eq!(record(true, 1), (false, false), "that is long ago");
        assert_eq!(record(true, 1), (true, false));
        assert_eq!(record(true, 100), (true, false));
        assert_eq!(record(false, 7), (true, false));
        assert_eq!(record(false, 1), (false, false));
        paces.record(7, COMPUTES_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn f5_polls_are_measured_for_a_while() {
        let paces = paces();
        let watch = PollWatch::new(&paces);
        let poll = |times: u32| {
            (0..times).for_each(|_| watch.poll(Some(0), || ()));
            watch.polls_left.load(Ordering::Relaxed)
        };
        assert_eq!(poll(5), 0);
        watch.begin();
        assert_eq!(poll(5), WATCHED_POLLS - 5);
        watch.poll(None, || ());
        assert_eq!(poll(0), WATCHED_POLLS - 5, "it is of no route");
        assert_eq!(poll(100), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn f5_as_many_calls_as_threads_compute_and_none_waits_for_ever() {
        let paces = paces();
        let begin = Instant::now();
        let first = paces.permit().await;
        assert!(first.is_some() && begin.elapsed() == Duration::ZERO);
        assert!(paces.permit().await.is_none(), "there is one thread");
        assert!((MAX_WAIT..2 * MAX_WAIT).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        // While others pause, calls wait for their turn.
        let turns = async {
            for _ in 0..10 {
                sleep(MAX_WAIT / 2).await;
                paces.pauses.fetch_add(1, Ordering::Relaxed);
            }
            drop(first);
        };
        let (next, ()) = tokio::join!(paces.permit(), turns);
        assert!(next.is_some());
        // Of several that wait for those that do not pause, one goes on at a time.
        let begin = Instant::now();
        let (one, other) = tokio::join!(paces.permit(), paces.permit());
        assert!(one.is_none() && other.is_none());
        assert!(begin.elapsed() >= 2 * MAX_WAIT, "{:?}", begin.elapsed());
    }
}
