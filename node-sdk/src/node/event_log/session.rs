//! A stream by which a node reads the log of this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use net::{sleep_until_opt, warn};
use protocol::{LogPart, LogReport, LogRequest, LoggedEvent};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::error::{LogError, ServiceError};
use crate::event_log::{Consumer, EventLog, FailureOutcome, ReaderStep, StartPosition, StoredEvent, Subscription};
use crate::handler::stream::{Items, Streaming};
use crate::handler::{Params, State};

/// Maximum number of events that one reader has at a time, and of the bytes of their payloads:
/// others of its group have a share, and it has work while acknowledgements are under way.
const MAX_LEASED: usize = 64;
const MAX_LEASED_BYTES: usize = 4 << 20;
/// A reader that has sent nothing for this long is lost. It sends a sign of life every 10 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(35);

/// Answers `POST/$events`.
pub(super) async fn read_log(
    Params(request): Params<LogRequest>,
    reports: Items<LogReport>,
    State(log): State<EventLog>,
) -> Result<Streaming<impl Stream<Item = Result<LogPart, ServiceError>>>, ServiceError> {
    let start = match (request.replay, request.only_new) {
        (Some(time), _) => StartPosition::Time(time),
        (None, true) => StartPosition::New,
        (None, false) => StartPosition::First,
    };
    let (subscription, consumer) = log.subscribe(&request.subscription, &request.pattern, start).await?;
    let (changed, end) = (subscription.changed.subscribe(), log.end());
    let session = Session {
        log,
        subscription,
        consumer,
        reports,
        changed,
        end,
        leased: HashMap::new(),
        bytes: 0,
        heard_at: Instant::now(),
        is_over: request.replay.is_some(),
    };
    Ok(Streaming(stream::unfold(session, async |mut session| Some((session.next().await?, session)))))
}

/// One reader. What it has goes to others when this is dropped.
struct Session {
    log: Arc<EventLog>,
    subscription: Arc<Subscription>,
    consumer: Consumer,
    reports: Items<LogReport>,
    changed: watch::Receiver<()>,
    end: watch::Receiver<u64>,
    leased: HashMap<u64, Arc<StoredEvent>>,
    bytes: usize,
    /// When it has last sent something.
    heard_at: Instant,
    /// Whether it only has the subscription begin again.
    is_over: bool,
}

impl Session {
    /// The next part for the reader; `None` when it has gone.
    async fn next(&mut self) -> Option<Result<LogPart, ServiceError>> {
        if self.is_over {
            return None;
        }
        loop {
            // What changes from here on is noticed below.
            self.changed.borrow_and_update();
            self.end.borrow_and_update();
            let mut again_at = None;
            if self.leased.len() < MAX_LEASED && self.bytes < MAX_LEASED_BYTES {
                match self.log.next(&self.subscription, self.consumer).await {
                    Ok(ReaderStep::Event(event, failed)) => return Some(self.part(event, failed)),
                    Ok(ReaderStep::Missed(missed)) => {
                        return Some(Ok(LogPart { missed: Some(missed), ..LogPart::default() }));
                    }
                    Ok(ReaderStep::Nothing(at)) => again_at = at,
                    Err(failure) => return Some(Err(failure.into())),
                }
            }
            tokio::select! {
                report = self.reports.next() => self.apply_report(report?.ok()?).await,
                changed = self.changed.changed() => changed.ok()?,
                ended = self.end.changed() => ended.ok()?,
                () = sleep_until_opt(again_at) => {}
                () = sleep_until(self.heard_at + SILENCE_TIMEOUT) => return None,
            }
        }
    }

    fn part(&mut self, event: Arc<StoredEvent>, failed: u32) -> Result<LogPart, ServiceError> {
        let StoredEvent { position, id, name, key, time, payload } = &*event;
        let params = RawValue::from_string(payload.clone());
        let params = params.map_err(|_damaged| ServiceError::internal("an event of the log is damaged"))?;
        let logged = LoggedEvent {
            position: *position,
            id: id.clone(),
            name: name.clone(),
            key: key.clone(),
            published_at: *time,
            failed_attempts: failed,
            params,
        };
        self.bytes += payload.len();
        self.leased.insert(*position, event);
        Ok(LogPart { event: Some(logged), ..LogPart::default() })
    }

    async fn apply_report(&mut self, report: LogReport) {
        self.heard_at = Instant::now();
        let LogReport { done, failed, for_good, why } = report;
        if let Some(event) = done.and_then(|position| self.give_back(position)) {
            self.log.acknowledge(&self.subscription, self.consumer, event.position);
        }
        if let Some(event) = failed.and_then(|position| self.give_back(position)) {
            let failed = self.log.fail(&self.subscription, self.consumer, &event, for_good, &why).await;
            if failed == FailureOutcome::Buried {
                let StoredEvent { position, id, name, .. } = &*event;
                let why = net::escaped(&why, net::MAX_ESCAPED_BYTES);
                warn!(event = %name, id, position, ?why, "buried: an event could not be handled; it is in the table `buried` of the log");
            }
        }
    }

    fn give_back(&mut self, position: u64) -> Option<Arc<StoredEvent>> {
        let event = self.leased.remove(&position)?;
        self.bytes -= event.payload.len();
        Some(event)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.log.release(&self.subscription, self.consumer);
    }
}

impl From<LogError> for ServiceError {
    fn from(error: LogError) -> Self {
        Self::new(503, "event_log", error.to_string())
    }
}
