//! A request whose body goes to a node while it arrives.

use node_sdk::gateway::{GatewayPeers, RawReply, RouteOffer};
use tokio::time::Instant;

use super::stream_body::StreamFormat;
use super::{CallClient, STREAM_WINDOW, call_problem, client_key, traceparent, with_balance};
use crate::message::body::Framing;
use crate::message::problem::Problem;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{NodeAnswer, NodeUpload, NodeUploadError, too_large, upload_to_node};
use crate::proxy::request_error::RequestError;
use crate::proxy::{Proxy, RequestContext};

impl Proxy<'_> {
    /// Calls a node whose route takes a body in parts, sends it the body while it arrives, and
    /// responds with its response. Another node is tried only before the first byte of the body has
    /// been sent.
    pub(super) async fn send_upload(
        &self,
        context: &RequestContext<'_>,
        (method, offer): (&str, RouteOffer),
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        let (head, config) = (context.head, &context.snapshot.config);
        // Nothing of the body is held here, so a limit of the route needs none of the gateway.
        let max_bytes =
            if offer.max_body_bytes == u64::MAX { config.max_body_bytes as u64 } else { offer.max_body_bytes };
        if let Framing::Length(bytes) = head.framing
            && bytes > max_bytes
        {
            return Err(RequestError::Problem(too_large(max_bytes)));
        }
        let held = self.budget.reserve(context.client, 0)?;
        let params = self.params(context, method, None);
        let key = client_key(context.route, context.client);
        let call = with_balance(self.peers.call_raw(method, context.path, &params), context.route, key.as_deref());
        let client = CallClient { context, socket: None };
        let left = context.deadline.saturating_duration_since(context.begin);
        let call = call.started_at(context.begin).timeout(left).in_trace(traceparent(head)).for_client(&client);
        let opening = Box::pin(call.body_follows().open(STREAM_WINDOW));
        let (begun, parts) = match exchange.until_client_gone(opening).await?.map_err(call_problem)? {
            RawReply::Response(response) => return self.respond_whole(context, method, &response, exchange),
            RawReply::Stream { head: begun, parts } => (begun, parts),
        };
        let timeout = context.route.timeout.unwrap_or(config.request_timeout);
        let upload = NodeUpload { head, sender: parts.body_sender(), max_bytes, timeout, held };
        let reply = async {
            match begun {
                // The response has begun before the node reads the body.
                Some(_) => Ok(RawReply::Stream { head: begun, parts }),
                None => parts.reply().await,
            }
        };
        let read = |reply| self.read_reply(context, method, reply);
        match upload_to_node(upload, reply, read, exchange).await {
            Ok(Some(response)) => self.respond_whole(context, method, &response, exchange),
            Ok(None) => Ok(Instant::now()),
            Err(NodeUploadError::Request(error)) => Err(error),
            Err(NodeUploadError::Call(error)) => Err(call_problem(error)),
        }
    }

    /// What becomes of the beginning of a node's answer.
    fn read_reply<'s>(
        &'s self,
        context: &'s RequestContext<'_>,
        method: &str,
        reply: RawReply,
    ) -> Result<NodeAnswer<'s>, Problem> {
        match reply {
            RawReply::Response(response) => Ok(NodeAnswer::Whole(response)),
            RawReply::Stream { head, parts } => {
                let format = StreamFormat::accepted(context.head.fields());
                self.streamed(context, method, (head, parts), format).map(NodeAnswer::Parts)
            }
        }
    }
}
