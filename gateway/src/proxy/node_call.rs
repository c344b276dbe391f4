//! Calls a node for a request, and relays its stream to the client.

use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::{GatewayPeers, RawCall};
use node_sdk::{CallError, Duplex};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::warn;

use crate::config::{RouteConfig, Sticky};
use crate::io::budget::{OverBudget, Reservation};
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::proxy::ended::{BodyError, Ended};
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::respond_with_stream;
use crate::proxy::stream_body::StreamFormat;
use crate::proxy::translate::{MediaType, body_params, form_params, has_body, is_one_json};
use crate::proxy::{Proxy, RequestContext};
use crate::route::params::RequestParts;

/// Why a node's stream does not come to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum StreamFault<'e> {
    /// A part is not JSON.
    NotJson,
    /// It ended before its last part.
    Cut(&'e CallError),
}

/// Sends a client the parts of a node's stream as they arrive, until either of them closes.
pub(super) async fn respond_with_parts(
    parts: Duplex<Box<RawValue>>,
    form: StreamFormat,
    head: &RequestHead,
    exchange: &mut impl Exchange,
    hold: impl Fn(usize) -> Result<Reservation, OverBudget> + Send + Sync,
    record: impl Fn(StreamFault<'_>) + Send + Sync,
) -> Result<Instant, BodyError> {
    // Its arguments have been sent: a node that reads further parts finds their end.
    parts.sender().finish();
    let mut held = None;
    let parts = parts.map(|part| match part {
        Ok(part) if !is_one_json(part.get().as_bytes()) => {
            record(StreamFault::NotJson);
            Err(Ended("a part of a node's stream is not JSON"))
        }
        Ok(part) => {
            // The part before has left, or is about to.
            held = None;
            let _until_the_next =
                held.insert(hold(part.get().len()).map_err(|_over| Ended("the client holds more bytes than it may"))?);
            Ok(form.write(part.get()))
        }
        Err(error) => {
            record(StreamFault::Cut(&error));
            Err(Ended("a node's stream was cut before its last part"))
        }
    });
    respond_with_stream(head, &form.head(), parts, exchange).await?;
    Ok(Instant::now())
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn call_problem(error: CallError) -> BodyError {
    BodyError::Problem(Problem::from_call(&error))
}

/// The arguments in the body, if the method has one.
pub(super) async fn read_body(
    head: &RequestHead,
    route: &RouteConfig,
    exchange: &mut impl Exchange,
    max_body_bytes: usize,
    deadline: Instant,
    held: &mut Reservation,
) -> Result<Option<String>, BodyError> {
    if !has_body(head.method()) {
        return Ok(None);
    }
    let body = exchange.whole_body(max_body_bytes, deadline, held).await?;
    let content_type = head.fields().get("content-type").map(|value| std::str::from_utf8(value).unwrap_or_default());
    let media_type = if route.any_body { MediaType::Any } else { MediaType::Named(content_type) };
    body_params(media_type, &body).map(Some).map_err(BodyError::Problem)
}

impl Proxy<'_> {
    /// A node's stream was not sent to its end. Its operator has to know.
    pub(super) fn record_stream_fault(&self, node: Option<SocketAddr>, fault: StreamFault<'_>) {
        let Some(node) = node else { return };
        let error = match fault {
            StreamFault::NotJson => return self.peers.record_malformed(node, "a part of a stream is not JSON"),
            StreamFault::Cut(error) => error,
        };
        if let Some(suppressed) = self.shared.log_throttles.allow_for("cut_stream", node, Instant::now().into_std()) {
            let error = escaped(error, MAX_ESCAPED_BYTES);
            warn!(%node, %error, suppressed, "a node's stream was cut before its last part");
        }
    }

    /// The arguments of a call: those in the body, or else in the query, or what the route says.
    pub(super) fn params(&self, context: &RequestContext<'_>, method: &str, body: Option<String>) -> String {
        let query = || form_params(context.query.as_bytes());
        let Some(template) = &context.route.params else { return body.unwrap_or_else(query) };
        let path = if template.takes_path() { self.peers.path_params(method, context.path) } else { String::new() };
        template.fill(&RequestParts {
            body: body.as_deref(),
            query: &query(),
            path: &path,
            fields: context.head.fields(),
            client: context.client,
        })
    }
}

/// The sticky key of a client's calls, if the same node is to answer them.
pub(super) fn client_key(route: &RouteConfig, client: IpAddr) -> Option<String> {
    (route.sticky == Some(Sticky::Client)).then(|| client.to_string())
}

/// A call to the node that the route's balance picks.
pub(super) fn with_balance<'a>(call: RawCall<'a>, route: &RouteConfig, key: Option<&'a str>) -> RawCall<'a> {
    match (key, route.balance) {
        (Some(key), _) => call.sticky_key(key),
        (None, Some(balance)) => call.balance(balance),
        (None, None) => call,
    }
}
