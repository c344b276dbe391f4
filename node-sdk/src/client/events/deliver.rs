//! Events that are acknowledged: each group is tried until one of its nodes has handled the event.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::join_all;
use net::unique_id;
use protocol::{CallMeta, CallUrl, EVENT_METHOD, Version, write_request};
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::balance::{Member, PickOptions};
use crate::client::call::response::{RawResponse, read_result};
use crate::client::events::key_order::Turn;
use crate::client::events::redelivery::Redelivery;
use crate::client::events::{OutgoingEvent, is_turn_of};
use crate::client::local_call::{LocalCall, LocalEvent};
use crate::client::mesh::Mesh;
use crate::context::{Context, Trace};
use crate::error::{CallError, DeliveryError};
use crate::routing::needs::questions::QuestionAnswer;
use crate::transport::connection::Connection;
use crate::transport::in_flight::{CallDeadlines, CallFailure};
use crate::transport::limits::DEFAULT_DEADLINE;
use crate::transport::response_frame::ResponseFrame;

/// How long all attempts may take together, unless it is set: a node that is replaced is back by
/// then.
const DELIVERY_TIME: Duration = Duration::from_secs(30);

/// An event that is about to be delivered. Change the settings that should differ from the
/// defaults, then await it: see [`Peers::deliver`](crate::Peers::deliver).
#[must_use = "an event is delivered when it is awaited"]
#[derive(Debug)]
pub struct Deliver {
    mesh: Arc<Mesh>,
    event: Result<OutgoingEvent, CallError>,
    id: Option<String>,
    key: Option<String>,
    groups: BTreeSet<String>,
    timeout: Duration,
    attempt_timeout: Duration,
}

impl Deliver {
    pub(crate) fn new(mesh: &Arc<Mesh>, event: Result<OutgoingEvent, CallError>) -> Self {
        let (mesh, groups) = (Arc::clone(mesh), BTreeSet::new());
        Self { mesh, event, id: None, key: None, groups, timeout: DELIVERY_TIME, attempt_timeout: DEFAULT_DEADLINE }
    }

    /// Delivers the events of one key in order: an event goes to a group when all earlier ones of
    /// this node with the key were acknowledged by it, or have failed. Of a group, they go to the
    /// same node as long as it is there, and that node handles events of the key one after the
    /// other, whichever node delivers them.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The id that handlers [see](crate::Event::id), in place of one that is made up: for an event
    /// that the caller may deliver again after a crash.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Names of nodes that have to acknowledge the event, even if no node of that name has
    /// subscribed now. The delivery waits for such a node.
    pub fn groups<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.groups.extend(names.into_iter().map(Into::into));
        self
    }

    /// How long it may take, with all attempts. 30 s unless set. It ends a margin before the call
    /// that is being handled.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// How long a handler may take before the event is sent again, to another node if there is one.
    /// 5 s unless set. The handler is not stopped then.
    pub fn attempt_timeout(mut self, time: Duration) -> Self {
        self.attempt_timeout = time;
        self
    }

    async fn run(self) -> Result<usize, DeliveryError> {
        let Self { mesh, event, id, key, mut groups, timeout, attempt_timeout } = self;
        let now = Instant::now();
        let deadline = Context::current().inner_deadline(now).map_or(now + timeout, |outer| outer.min(now + timeout));
        let event = event.map_err(DeliveryError::NotSent)?;
        if let Some(error) = event.bad_name() {
            return Err(DeliveryError::NotSent(error));
        }
        learn(&mesh, &event, deadline).await.map_err(DeliveryError::NotSent)?;
        let subscribers = mesh.subscribers(&event.path);
        groups.extend(subscribers.groups().map(|(name, _)| name.to_owned()));
        drop(subscribers);
        groups.extend(own_group(&mesh, &event));
        if groups.is_empty() {
            return event.check_subscribers_known(&mesh).map(|()| 0).map_err(DeliveryError::NotSent);
        }
        let id = id.unwrap_or_else(|| format!("{:032x}", unique_id()));
        let delivery = Delivery { mesh: &mesh, event: &event, id: &id, key: key.as_deref(), deadline, attempt_timeout };
        let outcomes = join_all(groups.iter().map(|name| delivery.deliver_to(name))).await;
        let (mut acknowledged, mut failed) = (Vec::new(), Vec::new());
        for (name, outcome) in groups.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => acknowledged.push(name),
                Err(error) => failed.push((name, error)),
            }
        }
        if failed.is_empty() {
            return Ok(acknowledged.len());
        }
        Err(DeliveryError::Unacknowledged { event: event.path[1..].to_owned(), acknowledged, failed })
    }
}

impl IntoFuture for Deliver {
    type Output = Result<usize, DeliveryError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Learns who subscribes, if this node has a partial view, and waits for the first list.
async fn learn(mesh: &Mesh, event: &OutgoingEvent, deadline: Instant) -> Result<(), CallError> {
    if !mesh.view().has_list() {
        let _ = timeout_at(deadline, mesh.view().wait_for_list()).await;
    }
    let (needs, now) = (mesh.view().needs(), Instant::now());
    if !needs.is_partial() || needs.use_event(&event.path, now) {
        return Ok(());
    }
    let answer = match needs.ask(&event.route, now) {
        Ok(answer) => answer,
        Err(asking) => asking.answer(deadline.min(now + DEFAULT_DEADLINE)).await,
    };
    match answer {
        QuestionAnswer::Offered | QuestionAnswer::NotOffered => Ok(()),
        QuestionAnswer::Failed(reason) if mesh.subscribers(&event.path).is_empty() => {
            Err(CallError::NotAsked { url: event.route.to_string(), reason })
        }
        QuestionAnswer::Failed(_) => Ok(()),
    }
}

/// The name of this node, if it has subscribed.
fn own_group(mesh: &Mesh, event: &OutgoingEvent) -> Option<String> {
    let service = mesh.local().filter(|service| service.offers(EVENT_METHOD, &event.path))?;
    Some(service.name().to_owned())
}

/// One event on its way to all groups.
struct Delivery<'a> {
    mesh: &'a Mesh,
    event: &'a OutgoingEvent,
    id: &'a str,
    key: Option<&'a str>,
    deadline: Instant,
    attempt_timeout: Duration,
}

/// The node of an attempt.
enum AttemptNode {
    Local(Arc<dyn LocalCall>),
    Remote(Arc<Connection>),
}

impl Delivery<'_> {
    /// Tries the nodes of one group until one has acknowledged the event.
    async fn deliver_to(&self, name: &str) -> Result<(), CallError> {
        let _turn = match self.key {
            Some(key) => Some(self.turn_of(name, key).await?),
            None => None,
        };
        let (mut redelivery, mut tried) = (Redelivery::new(self.deadline), Vec::new());
        loop {
            let Err(error) = self.attempt(name, redelivery.attempt(), &mut tried).await else { return Ok(()) };
            match redelivery.next(Instant::now(), &error, fastrand::f64()) {
                Some(at) => sleep_until(at).await,
                None => return Err(error),
            }
        }
    }

    /// Waits until all earlier events of the key are done at this group.
    async fn turn_of(&self, name: &str, key: &str) -> Result<Turn, CallError> {
        let url = || self.event.route.to_string();
        let turn = self.mesh.key_turns().enter(&format!("{name}/{key}"));
        let mut turn = turn.map_err(|_full| CallError::Overloaded { url: url() })?;
        let within = self.deadline.saturating_duration_since(Instant::now());
        timeout_at(self.deadline, turn.begin()).await.map_err(|_late| CallError::Deadline { url: url(), within })?;
        Ok(turn)
    }

    /// Sends the event to one node of the group, and waits until it has handled it.
    async fn attempt(&self, name: &str, attempt: u8, tried: &mut Vec<SocketAddr>) -> Result<(), CallError> {
        let now = Instant::now();
        let until = self.deadline.min(now + self.attempt_timeout);
        let frame = match self.pick(name, now, tried)? {
            AttemptNode::Local(service) => self.call_local(service, attempt, until).await?,
            AttemptNode::Remote(connection) => {
                tried.push(connection.address);
                self.call(&connection, attempt, (now, until)).await?
            }
        };
        let read = read_result::<IgnoredAny>(&RawResponse { frame, node: None });
        read.map(drop).map_err(|error| error.into_call_error(|| self.event.route.to_string()))
    }

    /// The node of the next attempt: one that was not tried, if there is any.
    fn pick(&self, name: &str, now: Instant, tried: &mut Vec<SocketAddr>) -> Result<AttemptNode, CallError> {
        let found = self.pick_untried(name, now, tried)?;
        if found.is_none() && !tried.is_empty() {
            tried.clear();
            return self.pick_untried(name, now, tried)?.ok_or_else(|| self.no_provider());
        }
        found.ok_or_else(|| self.no_provider())
    }

    fn no_provider(&self) -> CallError {
        CallError::NoProvider { url: self.event.route.to_string() }
    }

    fn pick_untried(
        &self,
        name: &str,
        now: Instant,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Option<AttemptNode>, CallError> {
        let service = self.mesh.local().filter(|service| service.offers(EVENT_METHOD, &self.event.path));
        let service = service.filter(|service| service.name() == name);
        let subscribers = self.mesh.subscribers(&self.event.path);
        let (mut is_there, mut acks) = (false, false);
        for pool in subscribers.group(name) {
            is_there |= !pool.members().is_empty();
            acks |= pool.members().iter().any(|provider| provider.acks() || provider.is_local);
            let local = service.as_ref().and_then(|_| pool.members().iter().find(|provider| provider.is_local));
            let local = local.filter(|local| !tried.contains(local.address()));
            if let (Some(service), Some(local)) = (&service, local)
                && self.key.is_none()
                && is_turn_of(local, pool, now, fastrand::u32(..))
            {
                tried.push(*local.address());
                return Ok(Some(AttemptNode::Local(Arc::clone(service))));
            }
            let silent = pool.members().iter().filter(|provider| !provider.acks()).map(|one| *one.address());
            let excluded: Vec<SocketAddr> = tried.iter().copied().chain(silent).collect();
            let options = PickOptions {
                balance: self.mesh.balance(),
                sticky: self.key,
                tried: &excluded,
                excluded: local.filter(|_| self.key.is_none()).map(|local| *local.address()),
                ..PickOptions::default()
            };
            let picked = pool.pick(&options, now, |provider| {
                if !provider.is_local {
                    self.mesh.connect(&provider.connection);
                }
            });
            match (picked, &service, local) {
                (Some(provider), Some(service), _) if provider.is_local => {
                    tried.push(*provider.address());
                    return Ok(Some(AttemptNode::Local(Arc::clone(service))));
                }
                (Some(provider), ..) => {
                    self.mesh.connect(&provider.connection);
                    return Ok(Some(AttemptNode::Remote(Arc::clone(&provider.connection))));
                }
                (None, Some(service), Some(local)) => {
                    tried.push(*local.address());
                    return Ok(Some(AttemptNode::Local(Arc::clone(service))));
                }
                (None, ..) => {}
            }
        }
        match service {
            // This node may have subscribed and not be listed yet.
            Some(service) if !is_there => Ok(Some(AttemptNode::Local(service))),
            _ if is_there && !acks => Err(self.unable(name)),
            _ => Ok(None),
        }
    }

    /// The error of a group whose nodes do not know acknowledgements.
    fn unable(&self, name: &str) -> CallError {
        let event = &self.event.path[1..];
        let message = format!(
            "no node called {name} can acknowledge {event}: upgrade the library that it is built with, or emit the event"
        );
        CallError::Refused { status: 501, reason: "no_acks".to_owned(), message, retry_after: None }
    }

    async fn call_local(
        &self,
        service: Arc<dyn LocalCall>,
        attempt: u8,
        until: Instant,
    ) -> Result<ResponseFrame, CallError> {
        let context = Context { deadline: Some(until), ..self.event.context };
        let event = LocalEvent { id: self.id, key: self.key, attempt };
        let answer =
            service.deliver(CallUrl::new(EVENT_METHOD, &self.event.path), &self.event.text, context, event).await;
        answer.map(ResponseFrame::from).ok_or_else(|| self.late())
    }

    fn late(&self) -> CallError {
        CallError::Deadline { url: self.event.route.to_string(), within: self.attempt_timeout }
    }

    async fn call(
        &self,
        connection: &Arc<Connection>,
        attempt: u8,
        (now, until): (Instant, Instant),
    ) -> Result<ResponseFrame, CallError> {
        let OutgoingEvent { path, route, text, context, .. } = self.event;
        let url = || route.to_string();
        let trace = context.trace.map(Trace::child);
        let write = |key, sent, out: &mut BytesMut| {
            let meta = CallMeta {
                time_left: Some(until.saturating_duration_since(now)),
                sent: Some(sent),
                trace: trace.as_ref().map(|trace| trace.traceparent().into()),
                attempt,
                hops: context.hops,
                event: Some(self.id.into()),
                event_key: self.key.map(Into::into),
                ..CallMeta::default()
            };
            write_request(out, Version::V2, CallUrl::new(EVENT_METHOD, path), Some(key), text, &meta);
        };
        let deadlines = CallDeadlines { response: until.into_std(), stream: None };
        let pending = connection.submit(now, deadlines, write);
        let mut pending = pending.map_err(|_refused| CallError::Overloaded { url: url() })?;
        let outcome = poll_fn(|task| pending.poll(task)).await;
        let now = Instant::now().into_std();
        outcome.map_err(|failure| match failure {
            CallFailure::Lost { written } => {
                if written {
                    connection.load.record_failure(now);
                    self.mesh.record_failed(connection.address);
                }
                CallError::Lost { url: url(), node: connection.address }
            }
            CallFailure::Deadline { .. } => {
                connection.load.record_timeout(now);
                self.late()
            }
        })
    }
}
