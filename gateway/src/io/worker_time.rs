//! A worker's time, as its connections share it: light ones work when they are ready, heavy ones
//! when it is their turn.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use net::address_group;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::io::heavy_queue::{HeavyQueue, WorkMeter};

/// The time of one worker.
#[derive(Debug)]
pub(crate) struct WorkerTime {
    /// Used by one thread, so never contended.
    queue: Mutex<HeavyQueue<Arc<HeavyWait>>>,
    some_wait: Notify,
}

/// A heavy connection that waits, or has waited.
#[derive(Debug, Default)]
struct HeavyWait {
    is_granted: AtomicBool,
    waker: AtomicWaker,
}

/// The share of one connection.
#[derive(Debug)]
struct TimeShare<'a> {
    time: &'a WorkerTime,
    client: IpAddr,
    meter: WorkMeter,
    wait: Option<(Arc<HeavyWait>, u64)>,
}

impl Default for WorkerTime {
    fn default() -> Self {
        Self { queue: Mutex::new(HeavyQueue::new()), some_wait: Notify::new() }
    }
}

impl WorkerTime {
    /// Begins turns while heavy connections wait. One task of the worker runs this.
    pub(crate) async fn run(&self) {
        loop {
            self.some_wait.notified().await;
            while self.lock().has_waiting() {
                // Until all that is ready has run, and events of the system have been read.
                yield_now().await;
                let granted = self.lock().next_turn();
                granted.iter().for_each(|wait| wait.grant());
            }
        }
    }

    /// Polls `work`, which belongs to a connection of `client`, whenever that connection may work.
    /// It is heavy if it has lately worked long each time, and while `is_bulk` returns true.
    /// `on_wait` is called each time it has to wait. As cancel safe as `work`.
    pub(crate) async fn share<F: Future>(
        &self,
        client: IpAddr,
        mut work: Pin<&mut F>,
        is_bulk: impl Fn() -> bool,
        on_wait: impl Fn(),
    ) -> F::Output {
        let client = address_group(client);
        let mut share = TimeShare { time: self, client, meter: WorkMeter::default(), wait: None };
        poll_fn(|task| {
            let is_heavy = share.meter.is_heavy() || is_bulk();
            if is_heavy && !share.may_work(task, &on_wait) {
                return Poll::Pending;
            }
            if !share.meter.begin_poll() && !is_heavy {
                return work.as_mut().poll(task);
            }
            let begin = Instant::now();
            let polled = work.as_mut().poll(task);
            share.record(begin.elapsed(), is_heavy);
            polled
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, HeavyQueue<Arc<HeavyWait>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeavyWait {
    fn grant(&self) {
        self.is_granted.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

impl TimeShare<'_> {
    /// Whether a heavy connection may work now. Otherwise it waits.
    fn may_work(&mut self, task: &Context<'_>, on_wait: impl Fn()) -> bool {
        if let Some((wait, _)) = &self.wait {
            wait.waker.register(task.waker());
            let is_granted = wait.is_granted.load(Ordering::Relaxed);
            if is_granted {
                self.wait = None;
            }
            return is_granted;
        }
        let mut queue = self.time.lock();
        if queue.has_time() {
            return true;
        }
        let wait = Arc::new(HeavyWait::default());
        wait.waker.register(task.waker());
        let is_first = !queue.has_waiting();
        // The queue has room for more connections than a worker has.
        let Some(ticket) = queue.enqueue(self.client, Arc::clone(&wait)) else { return true };
        drop(queue);
        on_wait();
        self.wait = Some((wait, ticket));
        if is_first {
            self.time.some_wait.notify_one();
        }
        false
    }

    fn record(&mut self, worked: Duration, is_heavy: bool) {
        self.meter.record(worked);
        if is_heavy {
            self.time.lock().record(worked);
        }
    }
}

impl Drop for TimeShare<'_> {
    fn drop(&mut self) {
        if let Some((_, ticket)) = self.wait.take() {
            self.time.lock().cancel(self.client, ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::*;
    use crate::io::heavy_queue::{MAX_LIGHT_TIME, TURN_TIME};

    /// How long a connection works in each poll: so long that it becomes heavy, and so short that
    /// it does not.
    const LONG_POLL: Duration = MAX_LIGHT_TIME.saturating_mul(2);
    const SHORT_POLL: Duration = MAX_LIGHT_TIME.checked_div(2).unwrap();
    const HEAVY: usize = 50;
    const TURNS: usize = 500;
    /// Turns after which all of them are heavy.
    const UNTIL_HEAVY: usize = 100;

    /// Moves the paused clock, as work does.
    fn work(time: Duration) {
        // The first poll moves it; what would follow is a turn of others.
        let _ = pin!(advance(time)).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Heavy connections that always have work, and how often each has worked.
    struct Scene {
        time: Arc<WorkerTime>,
        worked: Arc<Mutex<Vec<usize>>>,
        tasks: JoinSet<()>,
    }

    impl Scene {
        fn start(connections: usize, poll: Duration, is_bulk: bool) -> Self {
            let (time, worked) = (Arc::new(WorkerTime::default()), Arc::new(Mutex::new(vec![0; connections])));
            let mut tasks = JoinSet::new();
            let turns = Arc::clone(&time);
            tasks.spawn(async move { turns.run().await });
            for number in 0..connections {
                let (time, worked) = (Arc::clone(&time), Arc::clone(&worked));
                tasks.spawn(async move {
                    let works = pin!(async {
                        loop {
                            work(poll);
                            worked.lock().unwrap()[number] += 1;
                            yield_now().await;
                        }
                    });
                    time.share([127, 0, 0, 1].into(), works, || is_bulk, || ()).await
                });
            }
            Self { time, worked, tasks }
        }

        /// The longest time between two polls of a task that is always ready, when all are heavy.
        async fn longest_wait(&self) -> Duration {
            for _ in 0..UNTIL_HEAVY {
                yield_now().await;
            }
            let mut longest = Duration::ZERO;
            for _ in 0..TURNS {
                let last = Instant::now();
                yield_now().await;
                longest = longest.max(last.elapsed());
            }
            longest
        }
    }

    /// Others wait for one turn of heavy connections, of which none starves.
    async fn check(poll: Duration, is_bulk: bool) {
        let scene = Scene::start(HEAVY, poll, is_bulk);
        let longest = scene.longest_wait().await;
        assert!(longest <= TURN_TIME + poll, "{poll:?} {is_bulk}: {longest:?}");
        let worked = scene.worked.lock().unwrap();
        let (least, most) = (worked.iter().min().unwrap(), worked.iter().max().unwrap());
        // One that is ready a turn later than others has fewer turns.
        assert!(*least >= TURNS / HEAVY && most - least <= most / 5, "none starves: {poll:?} {is_bulk}: {worked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_one_turn_of_heavy_connections() {
        check(LONG_POLL, false).await;
        check(SHORT_POLL, true).await;
        check(LONG_POLL, true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn light_connections_work_whenever_they_are_ready() {
        let scene = Scene::start(HEAVY, SHORT_POLL, false);
        assert_eq!(scene.longest_wait().await, SHORT_POLL * u32::try_from(HEAVY).unwrap());
        assert!(!scene.time.lock().has_waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn a_heavy_connection_that_is_alone_works_in_every_turn() {
        let scene = Scene::start(1, LONG_POLL, false);
        scene.longest_wait().await;
        let worked = scene.worked.lock().unwrap()[0];
        assert!(worked >= TURNS / 2, "{worked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_waits_no_more() {
        let mut scene = Scene::start(HEAVY, LONG_POLL, false);
        scene.longest_wait().await;
        assert!(scene.time.lock().has_waiting());
        scene.tasks.shutdown().await;
        assert!(!scene.time.lock().has_waiting());
    }
}
