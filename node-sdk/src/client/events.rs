//! Events: what has happened, told to whoever has subscribed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use protocol::{CallMeta, Route, RouteError, write_request};
use serde::Serialize;
use serde::ser::Error as _;
use tokio::time::Instant;

use crate::balance::PickOptions;
use crate::context::Context;
use crate::error::CallError;
use crate::peers::Peers;
use crate::routing::table::{Provider, Providers};
use crate::scratch::with_scratch;
use crate::transport::limits::MAX_FRAME_BYTES;

/// The method under which subscriptions stand in the registry. No call has it, and gateways route none of it.
pub(crate) const METHOD: &str = "EVENT";
/// What stands before the name of an event in the registry.
pub(crate) const PREFIX: &str = "EVENT/";

/// Most bytes of a payload: with what stands around it, it is a packet that every node takes.
const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - 4096;

/// Who has subscribed to one event, by the names of nodes: each name is a group.
pub(crate) type SubscriberGroups = BTreeMap<Box<str>, Arc<Providers>>;

/// The route of a subscription.
pub(crate) fn route(event: &str) -> Result<Route, RouteError> {
    let route = Route::parse(&format!("{PREFIX}{event}"))?;
    if route.is_pattern() {
        return Err(RouteError { text: event.to_owned(), reason: "an event has no parameters" });
    }
    Ok(route)
}

impl Peers {
    /// Tells one node of each group that has subscribed to `event`: nodes of one name are a group. Gives how many nodes it was
    /// handed to; 0 when nobody has subscribed.
    ///
    /// An event goes straight to its nodes, once, and is not answered: who is not there, or is lost with what was on its way, is
    /// not told again. Which node of a group is told is decided as for calls. Returns at once. A node whose builder has
    /// [`needs`](crate::NodeBuilder::needs) has to name the event, as `EVENT/orders.created`, to know who has subscribed.
    ///
    /// ```no_run
    /// # fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// peers.emit("orders.created", &7)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Params`] when `payload` has no JSON form, and [`CallError::TooLarge`] when it is larger than nodes take.
    pub fn emit(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        self.publish(event, payload, |groups, send, own| {
            let one_of = |group: &Providers| {
                let mut tried = Vec::new();
                let now = Instant::now();
                loop {
                    let options = PickOptions { balance: self.balance(), tried: &tried, ..PickOptions::default() };
                    let picked = group.pick(&options, now, |provider| self.connect(&provider.connection));
                    let Some(provider) = picked else { return 0 };
                    if send(provider) {
                        return 1;
                    }
                    tried.push(provider.connection.address);
                }
            };
            let others = groups.iter().filter(|(name, _)| own != Some(name));
            usize::from(own.is_some()) + others.map(|(_, group)| one_of(group)).sum::<usize>()
        })
    }

    /// As [`emit`](Self::emit), but tells every node that has subscribed.
    ///
    /// # Errors
    /// As there.
    pub fn broadcast(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        let instance = self.instance();
        self.publish(event, payload, |groups, send, own| {
            let all = groups.values().flat_map(|group| group.list());
            let others =
                all.filter(|provider| own.is_none() || provider.connection.instance.as_deref() != Some(instance));
            usize::from(own.is_some()) + others.filter(|provider| send(provider)).count()
        })
    }

    /// Has `choose` tell whom it wants; it is given the name of this node if that has subscribed, and is told already.
    fn publish(
        &self,
        event: &str,
        payload: &impl Serialize,
        choose: impl FnOnce(&SubscriberGroups, &dyn Fn(&Provider) -> bool, Option<&str>) -> usize,
    ) -> Result<usize, CallError> {
        let path = format!("/{event}");
        let url = || format!("{PREFIX}{event}");
        let context = Context::current();
        let trace = context.trace.as_ref().map(|trace| trace.child().into());
        let meta = CallMeta { trace, hops: context.hops, ..CallMeta::default() };
        let text = with_scratch(|scratch| {
            serde_json::to_writer(&mut *scratch, payload)?;
            String::from_utf8(scratch.clone()).map_err(serde_json::Error::custom)
        });
        let text = text.map_err(|source| CallError::Params { url: url(), source })?;
        if text.len() > MAX_PAYLOAD_BYTES {
            return Err(CallError::TooLarge { url: url() });
        }
        let own = self.local().filter(|service| service.offers(METHOD, &path));
        if let Some(service) = &own {
            // It is a message: the time of the call that is being handled is no matter of its own.
            let context = Context { deadline: None, ..context };
            tokio::spawn(Arc::clone(service).call((METHOD, &path), &text, context));
        }
        let own = own.as_ref().map(|service| &*service.name);
        let groups = self.subscribers(&path).unwrap_or_default();
        let send = |provider: &Provider| {
            self.connect(&provider.connection);
            let write = |out: &mut BytesMut| {
                write_request(out, provider.connection.version, (METHOD, &path), None, &text, &meta);
            };
            provider.connection.send(write).is_ok()
        };
        Ok(choose(&groups, &send, own))
    }
}
