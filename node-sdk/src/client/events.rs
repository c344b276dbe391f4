//! Events: messages to every group that has subscribed.

use std::sync::Arc;

use bytes::BytesMut;
use protocol::{CallMeta, write_request};
use serde::Serialize;
use serde::ser::Error as _;
use tokio::time::Instant;

use crate::balance::PickOptions;
use crate::client::mesh::Mesh;
use crate::context::Context;
use crate::error::CallError;
use crate::routing::provider::{Provider, Providers};
use crate::routing::subscriptions::{METHOD, PREFIX, SubscriberGroups};
use crate::transport::limits::MAX_FRAME_BYTES;
use net::buffers::with_scratch;

/// Most bytes of a payload. With its envelope it makes a packet that every node can read.
const MAX_PAYLOAD_BYTES: usize = MAX_FRAME_BYTES - 4096;

/// See [`Peers::emit`](crate::Peers::emit).
pub(crate) fn emit(mesh: &Mesh, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
    publish(mesh, event, payload, |groups, send, own| {
        let one_of = |group: &Providers| {
            let mut tried = Vec::new();
            let now = Instant::now();
            loop {
                let options = PickOptions { balance: mesh.balance(), tried: &tried, ..PickOptions::default() };
                let picked = group.pick(&options, now, |provider| mesh.connect(&provider.connection));
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

/// See [`Peers::broadcast`](crate::Peers::broadcast).
pub(crate) fn broadcast(mesh: &Mesh, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
    let instance = mesh.local_node().instance.as_str();
    publish(mesh, event, payload, |groups, send, own| {
        let all = groups.values().flat_map(|group| group.list());
        let others = all.filter(|provider| own.is_none() || provider.connection.instance.as_deref() != Some(instance));
        usize::from(own.is_some()) + others.filter(|provider| send(provider)).count()
    })
}

/// Has `choose` pick the receivers. It is given the name of this node if this node has subscribed;
/// then the event has been delivered to it.
fn publish(
    mesh: &Mesh,
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
    let own = mesh.local().filter(|service| service.offers(METHOD, &path));
    if let Some(service) = &own {
        // An event may be handled after the call that emits it is over.
        let context = Context { deadline: None, ..context };
        tokio::spawn(Arc::clone(service).call((METHOD, &path), &text, context));
    }
    let own = own.as_ref().map(|service| service.name());
    let groups = mesh.subscribers(&path).unwrap_or_default();
    let send = |provider: &Provider| {
        mesh.connect(&provider.connection);
        let write = |out: &mut BytesMut| {
            write_request(out, provider.connection.version, (METHOD, &path), None, &text, &meta);
        };
        provider.connection.send(write).is_ok()
    };
    Ok(choose(&groups, &send, own))
}
