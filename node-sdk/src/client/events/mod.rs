//! Events: messages to every group that has subscribed.
//!
//! Except in `deliver`, it must not wait for a subscriber: an event has no response.

pub(super) mod deferred;
pub(crate) mod deliver;
pub(crate) mod key_order;
#[cfg(feature = "event-log")]
pub(crate) mod publish;
mod redelivery;

#[cfg(feature = "event-log")]
pub(crate) use self::redelivery::is_final;

use std::sync::Arc;

use bytes::BytesMut;
use net::buffers::with_scratch;
use protocol::{CallMeta, CallUrl, EVENT_METHOD, EVENT_PREFIX, write_request};
use serde::Serialize;
use serde::ser::Error as _;
use tokio::time::Instant;

use crate::balance::{Member, PickOptions, Readiness};
use crate::client::events::deliver::Deliver;
use crate::client::local_call::LocalCall;
use crate::client::mesh::Mesh;
use crate::client::unknown_route::{Coverage, coverage};
use crate::context::{Context, Trace};
use crate::error::CallError;
use crate::routing::provider::{Provider, Providers};
use crate::routing::subscriptions::{Subscribers, event_name_fault};
use crate::transport::limits::MAX_FRAME_BYTES;

/// Maximum bytes of a payload. With its envelope it makes a packet that every node can read.
const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - 4096;

/// See [`Peers::emit`](crate::Peers::emit).
pub(crate) fn emit(mesh: &Arc<Mesh>, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
    deferred::emit(mesh, OutgoingEvent::new(event, payload, Audience::OneOfEachGroup)?)
}

/// See [`Peers::deliver`](crate::Peers::deliver).
pub(crate) fn deliver(mesh: &Arc<Mesh>, event: &str, payload: &impl Serialize) -> Deliver {
    Deliver::new(mesh, OutgoingEvent::new(event, payload, Audience::OneOfEachGroup))
}

/// See [`Peers::publish`](crate::Peers::publish).
#[cfg(feature = "event-log")]
pub(crate) fn publish(mesh: &Arc<Mesh>, event: &str, payload: &impl Serialize) -> publish::Publish {
    let log = mesh.event_log().cloned();
    publish::Publish::new(log, OutgoingEvent::new(event, payload, Audience::OneOfEachGroup))
}

/// See [`Peers::broadcast`](crate::Peers::broadcast).
pub(crate) fn broadcast(mesh: &Arc<Mesh>, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
    deferred::emit(mesh, OutgoingEvent::new(event, payload, Audience::All)?)
}

/// An event that is about to be emitted.
#[derive(Debug)]
pub(crate) struct OutgoingEvent {
    pub(super) path: String,
    /// Method and path.
    pub(super) route: Arc<str>,
    pub(super) text: String,
    audience: Audience,
    /// The context of the work that emits it. An event may be handled when that is over.
    context: Context,
}

/// The subscribers to which an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    OneOfEachGroup,
    All,
}

impl OutgoingEvent {
    pub(super) fn new(event: &str, payload: &impl Serialize, audience: Audience) -> Result<Self, CallError> {
        let url = || format!("{EVENT_PREFIX}{event}");
        // A name with a wildcard would belong to the patterns that are spelled like it.
        if event.contains(['*', '>'])
            && let Some(reason) = event_name_fault(event)
        {
            return Err(CallError::BadUrl { url: url(), reason });
        }
        let text = with_scratch(|scratch| {
            serde_json::to_writer(&mut *scratch, payload)?;
            String::from_utf8(scratch.clone()).map_err(serde_json::Error::custom)
        });
        let text = text.map_err(|source| CallError::Params { url: url(), source })?;
        if text.len() > MAX_PAYLOAD_BYTES {
            return Err(CallError::TooLarge { url: url() });
        }
        let context = Context::current().outlasting();
        Ok(Self { path: format!("/{event}"), route: url().into(), text, audience, context })
    }

    /// The error of a name that no event has.
    pub(super) fn bad_name(&self) -> Option<CallError> {
        let reason = event_name_fault(&self.path[1..])?;
        Some(CallError::BadUrl { url: self.route.to_string(), reason })
    }

    /// Checks that this node is told of subscribers, although none is known.
    fn check_subscribers_known(&self, mesh: &Mesh) -> Result<(), CallError> {
        let url = || self.route.to_string();
        if !mesh.view().has_list() {
            Err(CallError::NoList { url: url() })
        } else if coverage(mesh.interests(), EVENT_METHOD, &self.path) == Coverage::None {
            Err(CallError::OutsideInterests { url: url() })
        } else {
            Ok(())
        }
    }

    /// Sends it to the subscribers that are known. Returns their number.
    pub(super) fn send(&self, mesh: &Mesh) -> Result<usize, CallError> {
        let local = mesh.local().filter(|service| service.offers(EVENT_METHOD, &self.path));
        let emission = Emission { mesh, event: self, local };
        let subscribers = mesh.subscribers(&self.path);
        let reached = match self.audience {
            Audience::OneOfEachGroup => emission.send_to_groups(&subscribers),
            Audience::All => emission.send_to_all(&subscribers),
        };
        emission.outcome(reached, &subscribers)
    }
}

/// An event on its way.
struct Emission<'a> {
    mesh: &'a Mesh,
    event: &'a OutgoingEvent,
    /// The service of this node, if it has subscribed.
    local: Option<Arc<dyn LocalCall>>,
}

impl Emission<'_> {
    fn send_to_groups(&self, subscribers: &Subscribers) -> usize {
        let mut reached = 0;
        // A node with a less specific subscription gets it if no other one takes it.
        for (name, mut pools) in subscribers.groups() {
            reached += usize::from(self.reaches(name, pools.any(|pool| self.send_to_one_of(pool))));
        }
        // This node may have subscribed and not be listed yet.
        let alone = self.local.as_ref().filter(|service| !subscribers.has_group(service.name()));
        let alone = alone.is_some_and(|service| self.reaches_local(service));
        reached + usize::from(alone)
    }

    fn send_to_all(&self, subscribers: &Subscribers) -> usize {
        let others = subscribers.nodes().filter(|provider| !provider.is_local);
        let reached = others.filter(|provider| self.reaches(&provider.connection.target.name, self.send(provider)));
        let reached = reached.count();
        let local = self.local.as_ref().is_some_and(|service| self.reaches_local(service));
        reached + usize::from(local)
    }

    /// The number of nodes that the event was sent to, unless subscribers may not be known.
    fn outcome(&self, reached: usize, subscribers: &Subscribers) -> Result<usize, CallError> {
        if reached > 0 || !subscribers.is_empty() {
            return Ok(reached);
        }
        match self.event.bad_name() {
            Some(error) => Err(error),
            None => self.event.check_subscribers_known(self.mesh).map(|()| 0),
        }
    }

    /// Passes on whether a node of this name takes the event. Otherwise it is lost.
    fn reaches(&self, name: &str, is_taken: bool) -> bool {
        if !is_taken {
            let why = format_args!("no node {name} takes it now: each has too much to do, or cannot be reached");
            self.mesh.local_node().connector.lost.record(&self.event.route, why);
        }
        is_taken
    }

    fn reaches_local(&self, service: &Arc<dyn LocalCall>) -> bool {
        self.reaches(service.name(), self.notify_local(service))
    }

    fn send_to_one_of(&self, group: &Providers) -> bool {
        let mut tried = Vec::new();
        let now = Instant::now();
        let local = self.local.as_ref().zip(group.members().iter().find(|provider| provider.is_local));
        if let Some((service, local)) = local
            && is_turn_of(local, group, now, fastrand::u32(..))
        {
            return self.notify_local(service);
        }
        let excluded = local.map(|(_, local)| local.connection.address);
        loop {
            let balance = self.mesh.balance();
            let options = PickOptions { balance, tried: &tried, excluded, ..PickOptions::default() };
            let picked = group.pick(&options, now, |provider| self.mesh.connect(&provider.connection));
            let Some(provider) = picked else { return local.is_some_and(|(service, _)| self.notify_local(service)) };
            if self.send(provider) {
                return true;
            }
            tried.push(provider.connection.address);
        }
    }

    fn send(&self, provider: &Provider) -> bool {
        self.mesh.connect(&provider.connection);
        let OutgoingEvent { path, route, text, context, .. } = self.event;
        let trace = context.trace.map(Trace::child);
        let trace = trace.as_ref().map(|trace| trace.traceparent().into());
        let meta = CallMeta { trace, hops: context.hops, ..CallMeta::default() };
        let write = |out: &mut BytesMut| {
            write_request(out, provider.connection.version, CallUrl::new(EVENT_METHOD, path), None, text, &meta);
        };
        provider.connection.send(route, write).is_ok()
    }

    fn notify_local(&self, service: &Arc<dyn LocalCall>) -> bool {
        let OutgoingEvent { path, text, context, .. } = self.event;
        service.notify(CallUrl::new(EVENT_METHOD, path), text, *context)
    }
}

/// Whether this node, a member of the group, takes an event itself. It does so as often as its
/// weight says, among the members of its zone, and always when no other member can be reached.
/// `sample` is a random number.
fn is_turn_of(here: &Provider, group: &Providers, now: Instant, sample: u32) -> bool {
    let others = group.members().iter().filter(|other| !other.is_local && other.same_zone() == here.same_zone());
    let reachable = others.filter(|other| match other.readiness(now) {
        Readiness::Ready | Readiness::Connecting | Readiness::Reconnect => true,
        Readiness::Ejected | Readiness::CoolingDown => false,
    });
    let weights: u32 = reachable.map(|other| u32::from(other.weight())).sum();
    let own = u32::from(here.weight());
    sample % (own + weights).max(1) < own.max(1)
}
