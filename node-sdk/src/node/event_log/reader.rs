//! Reads the logs of all nodes that have one, for one durable subscription of this node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use net::{MAX_ESCAPED_BYTES, debug, escaped, warn};
use protocol::{CallUrl, EVENT_LOG_URL, LogPart, LogReport, LogRequest, LoggedEvent};
use serde::de::IgnoredAny;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, sleep};

use crate::client::call::response::{RawResponse, read_result};
use crate::client::local_call::LocalEvent;
use crate::client::stream::{Duplex, PartSender, StreamCall};
use crate::context::{Context, Stop};
use crate::error::CallError;
use crate::handler::event::DURABLE_METHOD;
use crate::peers::Peers;
use crate::transport::response_frame::ResponseFrame;

/// How often a reader shows that it is there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a handler may take before the event counts as failed. The handler is not stopped.
const HANDLER_TIME: Duration = Duration::from_secs(300);
/// The pause before a log is read again that could not be; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// And is never longer: a node that is back is read soon.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The pause before an event is tried again for which this node itself has no room.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// What one subscription reads.
#[derive(Clone, Debug)]
pub(super) struct ReaderSettings {
    /// Its name in this node.
    pub(super) name: String,
    /// Its name in the mesh.
    pub(super) subscription: String,
    pub(super) pattern: String,
    pub(super) only_new: bool,
}

#[derive(Clone, Debug)]
pub(super) struct LogReader {
    settings: ReaderSettings,
    peers: Peers,
    stop: Stop,
}

impl LogReader {
    pub(super) fn new(settings: ReaderSettings, peers: Peers, stop: Stop) -> Self {
        Self { settings, peers, stop }
    }

    /// Reads each log as long as its node is there. Ends when the node stops.
    pub(super) async fn run(self) {
        let mut changes = self.peers.changes();
        let (mut logs, mut tasks) = (HashMap::<SocketAddr, AbortHandle>::new(), JoinSet::new());
        let (mesh, stop) = (self.peers.mesh.clone(), self.stop.clone());
        let mut asking = std::pin::pin!(mesh.keep_asking(&[EVENT_LOG_URL]));
        loop {
            tokio::select! {
                changed = changes.next() => if changed.is_none() { return },
                () = &mut asking => {}
                () = stop.requested() => break,
            }
            let offered = self.peers.providers(EVENT_LOG_URL);
            logs.retain(|address, task| {
                let stays = offered.contains(address) && !task.is_finished();
                if !stays {
                    task.abort();
                }
                stays
            });
            // Those that were aborted leave nothing behind.
            while tasks.try_join_next().is_some() {}
            for address in offered {
                logs.entry(address).or_insert_with(|| tasks.spawn(self.clone().follow(address)));
            }
        }
        // They finish what they have begun.
        while tasks.join_next().await.is_some() {}
    }

    /// Reads one log, again and again.
    async fn follow(self, address: SocketAddr) {
        let mut pause = FIRST_PAUSE;
        while !self.stop.is_requested() {
            let began = Instant::now();
            match self.read(address).await {
                Ok(()) => {
                    debug!(node = %address, subscription = %self.settings.subscription, "the stream of a log has ended")
                }
                Err(error) => {
                    let error = escaped(&error, MAX_ESCAPED_BYTES);
                    debug!(node = %address, subscription = %self.settings.subscription, ?error, "a log cannot be read");
                }
            }
            if began.elapsed() > MAX_PAUSE {
                pause = FIRST_PAUSE;
            }
            if self.stop.interrupt(sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0))).await.is_none() {
                return;
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Reads one log until its stream or this node ends.
    async fn read(&self, address: SocketAddr) -> Result<(), CallError> {
        let ReaderSettings { subscription, pattern, only_new, .. } = self.settings.clone();
        let request = LogRequest { subscription, pattern, only_new, replay: None };
        let call: StreamCall<'_, LogPart> = self.peers.stream(EVENT_LOG_URL, &request);
        let mut parts: Duplex<LogPart> = call.at_address(address).await?;
        let sender = parts.sender();
        let mut running = FuturesUnordered::new();
        let mut alive = interval(ALIVE_INTERVAL);
        let mut stops = std::pin::pin!(self.stop.requested().fuse());
        let mut is_stopping = false;
        while !is_stopping || !running.is_empty() {
            tokio::select! {
                part = parts.next() => match part {
                    Some(Ok(LogPart { event: Some(event), .. })) if !is_stopping => running.push(self.handle(event)),
                    Some(Ok(LogPart { missed, .. })) => self.warn_of(missed, address),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                Some(report) = running.next() => send(&sender, &report).await?,
                _now = alive.tick() => send(&sender, &LogReport::default()).await?,
                () = &mut stops => is_stopping = true,
            }
        }
        sender.finish();
        Ok(())
    }

    fn warn_of(&self, missed: Option<u64>, address: SocketAddr) {
        let Some(missed) = missed else { return };
        let ReaderSettings { subscription, .. } = &self.settings;
        warn!(
            node = %address, subscription, missed,
            "events are lost: the log has removed them before this subscription got to them; read faster, or let it keep more (event_log_limits)"
        );
    }

    /// Runs the handler, and says what became of the event.
    async fn handle(&self, event: LoggedEvent) -> LogReport {
        let LoggedEvent { position, id, name, key, failed_attempts, params, .. } = event;
        let path = format!("/{}/{name}", self.settings.name);
        let attempt = u8::try_from(failed_attempts).unwrap_or(u8::MAX);
        let failed =
            |for_good, why: String| LogReport { failed: Some(position), for_good, why, ..LogReport::default() };
        loop {
            let Some(service) = self.peers.mesh.local() else {
                return failed(false, "the node has ended".to_owned());
            };
            let context = Context { deadline: Some(Instant::now() + HANDLER_TIME), ..Context::default() };
            let event = LocalEvent { id: &id, key: key.as_deref(), attempt };
            let Some(frame) = service.deliver(CallUrl::new(DURABLE_METHOD, &path), params.get(), context, event).await
            else {
                return failed(false, format!("the handler has not ended within {} s", HANDLER_TIME.as_secs()));
            };
            let read = read_result::<IgnoredAny>(&RawResponse { frame: ResponseFrame::from(frame), node: None });
            let error = match read.map_err(|error| error.into_call_error(|| name.clone())) {
                Ok(IgnoredAny) => return LogReport { done: Some(position), ..LogReport::default() },
                Err(error) => error,
            };
            match &error {
                // The route has as many at work as it may.
                CallError::Refused { status: 503, reason, .. } if reason == "overloaded" => sleep(ROOM_PAUSE).await,
                _error => return failed(crate::client::events::is_final(&error), error.to_string()),
            }
        }
    }
}

async fn send(sender: &PartSender, report: &LogReport) -> Result<(), CallError> {
    sender.send(report).await
}
