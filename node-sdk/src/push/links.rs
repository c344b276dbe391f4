//! The streams by which gateways take commands, and the commands that wait for their reports.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::warn;
use protocol::{PushAction, PushCommand, PushReport, PushTarget};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::push::PushError;

/// Bytes of one message: what gateways take, as in the other direction.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of commands that one gateway has not reported on: a few of the largest messages. Further
/// pushes wait.
const MAX_UNREPORTED_BYTES: usize = 4 << 20;
/// Commands that one gateway has not reported on: a small one counts as a share of these bytes.
const MAX_UNREPORTED: usize = 8192;
const MIN_COMMAND_BYTES: usize = MAX_UNREPORTED_BYTES / MAX_UNREPORTED;
/// Maximum number of gateways with a stream: more than a mesh has. Further gateways are refused.
const MAX_GATEWAYS: usize = 256;
/// How long a push waits for its report, with all waiting before it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a push waits for the gateway of its session: a node that has just started is called
/// before the gateway has opened its stream.
const GATEWAY_WAIT: Duration = Duration::from_secs(1);

/// The streams of the gateways, by the beginning of their sessions' ids.
#[derive(Debug, Default)]
pub(crate) struct PushLinks {
    links: Mutex<HashMap<String, Arc<Link>>>,
    /// Notified when a gateway has opened its stream.
    opened: Notify,
}

/// The stream of one gateway.
#[derive(Debug)]
struct Link {
    commands: mpsc::Sender<SentCommand>,
    /// What limits the commands on their way.
    room: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The commands without a report, by their numbers.
#[derive(Debug, Default)]
struct Waiting {
    last_number: u64,
    reports: HashMap<u64, oneshot::Sender<PushReport>>,
}

/// A command on its way, as JSON.
pub(crate) type SentCommand = Box<RawValue>;

/// The end of a gateway's stream that takes commands out. The stream is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct LinkEnd {
    commands: mpsc::Receiver<SentCommand>,
    link: Arc<Link>,
    gateway: String,
    links: Arc<PushLinks>,
}

impl PushLinks {
    /// Takes the stream of a gateway. An earlier one of the same gateway is forgotten. `None` if
    /// there are too many gateways.
    pub(crate) fn open(self: &Arc<Self>, gateway: String) -> Option<LinkEnd> {
        let (sender, commands) = mpsc::channel(MAX_UNREPORTED);
        let room = Arc::new(Semaphore::new(MAX_UNREPORTED_BYTES));
        let link = Arc::new(Link { commands: sender, room, waiting: Mutex::default() });
        let mut links = self.lock();
        if links.len() >= MAX_GATEWAYS && !links.contains_key(&gateway) {
            return None;
        }
        links.insert(gateway.clone(), Arc::clone(&link));
        drop(links);
        self.opened.notify_waiters();
        Some(LinkEnd { commands, link, gateway, links: Arc::clone(self) })
    }

    /// Sends a command about one session to its gateway. Cancel safe: the command is sent as a
    /// whole or not at all.
    ///
    /// # Errors
    /// [`PushError`].
    pub(crate) async fn to_session(&self, session: &str, action: PushAction<'_>) -> Result<PushReport, PushError> {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let gateway = session.split('.').next().unwrap_or_default();
        let link = self.link(gateway).await.ok_or_else(|| PushError::NoGateway { session: session.to_owned() })?;
        let report = link.command(PushTarget::Session(Cow::Borrowed(session)), action, deadline).await?;
        report.ok_or_else(|| PushError::Lost { session: session.to_owned() })
    }

    /// Sends a command to all gateways, and returns the reports that come in time.
    ///
    /// # Errors
    /// Those of the message.
    pub(crate) async fn to_all(
        &self,
        target: &PushTarget<'_>,
        action: &PushAction<'_>,
    ) -> Result<Vec<PushReport>, PushError> {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let links: Vec<_> = self.lock().values().cloned().collect();
        let commands = links.iter().map(|link| link.command(target.clone(), action.clone(), deadline));
        let reports = futures::future::join_all(commands).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let lost = reports.iter().filter(|report| report.is_none()).count();
        if lost > 0 {
            warn!(lost, ?target, "gateways have not reported on a push in time: their clients may not have it");
        }
        Ok(reports.into_iter().flatten().collect())
    }

    /// The stream of a gateway, or the one that it opens soon.
    async fn link(&self, gateway: &str) -> Option<Arc<Link>> {
        let until = Instant::now() + GATEWAY_WAIT;
        loop {
            let opened = self.opened.notified();
            if let Some(link) = self.lock().get(gateway) {
                return Some(Arc::clone(link));
            }
            timeout_at(until, opened).await.ok()?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Sends a command, and waits for its report; `None` if none comes in time.
    async fn command(
        &self,
        to: PushTarget<'_>,
        action: PushAction<'_>,
        deadline: Instant,
    ) -> Result<Option<PushReport>, PushError> {
        let Ok(Some(_room)) = timeout_at(deadline, self.room_for(&action)).await else { return Ok(None) };
        let (sender, report) = oneshot::channel();
        let waiting = WaitingReport::new(self, sender);
        let command = to_raw_value(&PushCommand { n: waiting.number, to, action }).map_err(PushError::Message)?;
        // `room` keeps the queue from being full.
        if self.commands.try_send(command).is_err() {
            return Ok(None);
        }
        Ok(timeout_at(deadline, report).await.ok().and_then(Result::ok))
    }

    /// The room for a command until its report comes; `None` once the stream has ended.
    async fn room_for(&self, action: &PushAction<'_>) -> Option<OwnedSemaphorePermit> {
        let bytes = if let PushAction::Message(message) = action { message.get().len() } else { 0 };
        let bytes = u32::try_from(bytes.max(MIN_COMMAND_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command that waits for its report, until it is dropped.
struct WaitingReport<'a> {
    link: &'a Link,
    number: u64,
}

impl<'a> WaitingReport<'a> {
    fn new(link: &'a Link, report: oneshot::Sender<PushReport>) -> Self {
        let mut waiting = link.waiting();
        waiting.last_number += 1;
        let number = waiting.last_number;
        waiting.reports.insert(number, report);
        Self { link, number }
    }
}

impl Drop for WaitingReport<'_> {
    fn drop(&mut self) {
        self.link.waiting().reports.remove(&self.number);
    }
}

impl LinkEnd {
    /// The next command. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<SentCommand> {
        self.commands.recv().await
    }

    /// Hands a report to the command that waits for it, if it still waits.
    pub(crate) fn report(&self, report: PushReport) {
        if let Some(waiting) = self.link.waiting().reports.remove(&report.n) {
            let _ = waiting.send(report);
        }
    }
}

/// Commands without a report learn that none comes.
impl Drop for LinkEnd {
    fn drop(&mut self) {
        let mut links = self.links.lock();
        if links.get(&self.gateway).is_some_and(|link| Arc::ptr_eq(link, &self.link)) {
            links.remove(&self.gateway);
        }
        drop(links);
        self.link.room.close();
        self.link.waiting().reports.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use protocol::PushMiss;
    use serde_json::json;

    use super::*;

    fn text(bytes: usize) -> Box<RawValue> {
        to_raw_value(&"x".repeat(bytes)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_waits_for_its_report() {
        let links = Arc::<PushLinks>::default();
        let mut end = links.open("a".to_owned()).unwrap();
        let answers = async {
            let command: serde_json::Value = serde_json::from_str(end.next().await.unwrap().get()).unwrap();
            assert_eq!(command, json!({ "n": 1, "to": { "session": "a.7" }, "do": "list" }));
            end.report(PushReport { n: 9, ..PushReport::default() });
            end.report(PushReport { n: 1, missed: Some(PushMiss::Unknown), ..PushReport::default() });
        };
        let (report, ()) = tokio::join!(links.to_session("a.7", PushAction::List), answers);
        assert_eq!(report.unwrap().missed, Some(PushMiss::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn pushes_wait_briefly_for_a_gateway_and_long_for_a_report() {
        let links = Arc::<PushLinks>::default();
        let begin = Instant::now();
        let none = links.to_session("a.7", PushAction::List).await;
        assert!(matches!(none, Err(PushError::NoGateway { .. })), "{none:?}");
        assert_eq!(begin.elapsed(), GATEWAY_WAIT);
        // It opens its stream in time, and never reports.
        let late = async {
            tokio::time::sleep(GATEWAY_WAIT / 2).await;
            links.open("a".to_owned()).unwrap()
        };
        let (lost, end) = tokio::join!(links.to_session("a.7", PushAction::List), late);
        assert!(matches!(lost, Err(PushError::Lost { .. })), "{lost:?}");
        // Its stream ends: who waits is told at once.
        let begin = Instant::now();
        let ends = async {
            tokio::task::yield_now().await;
            drop(end);
        };
        let (lost, ()) = tokio::join!(links.to_session("a.7", PushAction::List), ends);
        assert!(matches!(lost, Err(PushError::Lost { .. })), "{lost:?}");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let target = PushTarget::Group("g".into());
        assert_eq!(links.to_all(&target, &PushAction::List).await.unwrap(), Vec::new());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_gateway_has_not_reported_on_is_bounded() {
        let links = Arc::<PushLinks>::default();
        let mut end = links.open("a".to_owned()).unwrap();
        let mut check = |bytes: usize, expected: usize| {
            let message = text(bytes);
            let mut pushes: Vec<_> =
                (0..=expected).map(|_| Box::pin(links.to_session("a.7", PushAction::Message(&message)))).collect();
            let none_is_done = pushes.iter_mut().all(|push| push.now_or_never().is_none());
            let mut sent = 0;
            while end.next().now_or_never().flatten().is_some() {
                sent += 1;
            }
            assert!(none_is_done);
            assert_eq!(sent, expected, "{bytes}");
        };
        // Otherwise the runtime would have a task of so many steps pause.
        let checks = async {
            check(MAX_MESSAGE_BYTES - 2, 4);
            check(0, MAX_UNREPORTED);
        };
        tokio::task::unconstrained(checks).await;
    }

    #[test]
    fn gateways_are_bounded_and_the_latest_stream_of_one_counts() {
        let links = Arc::<PushLinks>::default();
        let ends: Vec<_> = (0..MAX_GATEWAYS).map(|n| links.open(n.to_string()).unwrap()).collect();
        assert!(links.open("one more".to_owned()).is_none());
        let again = links.open("0".to_owned()).unwrap();
        drop(ends);
        assert_eq!(links.lock().len(), 1);
        drop(again);
        assert!(links.lock().is_empty());
    }
}
