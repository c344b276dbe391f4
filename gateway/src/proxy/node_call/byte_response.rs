//! A node's stream of bytes as the body of a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::StatusCode;
use node_sdk::gateway::{GatewayPeers, RawHead, RawPart};
use node_sdk::{CallError, Duplex};
use serde_json::value::RawValue;

use super::translate::{fields_of, final_status};
use super::{STREAM_WINDOW, StreamFault};
use crate::io::budget::{OverBudget, Reservation};
use crate::message::answer_fields::AnswerFields;
use crate::message::body::Framing;
use crate::message::fields::Fields;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseHead;
use crate::proxy::forward::{Silence, StreamedAnswer};
use crate::proxy::request_error::Ended;
use crate::proxy::{Proxy, RequestContext};

/// Bytes of a node's stream that wait for a client which reads: two of the largest parts, so that
/// one is on its way while the other is sent. They are taken from the budget of all clients.
const WIDE_WINDOW: u32 = 128 * 1024;
/// After this many bytes the window is widened, and tried again if there was no room for it: most
/// bodies are smaller.
const WIDEN_AFTER_BYTES: u64 = 64 * 1024;
const WIDEN_AGAIN_BYTES: u64 = 1 << 20;
/// The media type of bytes of which the node says nothing.
const BYTES: &str = "application/octet-stream";

impl Proxy<'_> {
    /// The response that a node has begun with this head.
    ///
    /// # Errors
    /// Its status is not one of HTTP.
    pub(in crate::proxy) fn byte_response<'s>(
        &'s self,
        context: &'s RequestContext<'_>,
        method: &str,
        begun: &RawHead,
        parts: Duplex<RawPart>,
    ) -> Result<StreamedAnswer<'s>, Problem> {
        let node = parts.node();
        let Some(status) = final_status(begun.status) else {
            let detail = format!("the service answered with status {}, which is not an HTTP status", begun.status);
            node.into_iter().for_each(|node| self.peers.record_malformed(node, &detail));
            return Err(Problem::new(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail));
        };
        let mut fields = fields_of(begun.headers.as_deref().map(RawValue::get));
        if context.route.cors.is_some() {
            fields.remove_cors();
        }
        self.record_left_out(method, context.path, Some(&fields));
        let is_head = context.head.method() == "HEAD";
        let response = response_head(status, begun.length, &fields, is_head);
        let has_body = response.framing != Framing::Empty;
        let body = ByteBody {
            parts: has_body.then_some(parts),
            length: begun.length,
            passed: 0,
            widen_at: WIDEN_AFTER_BYTES,
            is_wide: false,
            held: None,
            hold: |bytes| self.budget.reserve(context.client, bytes),
            record: move |fault: StreamFault<'_>| self.record_stream_fault(node, fault),
        };
        let silence = Silence::Cut(context.snapshot.config.response_idle_timeout);
        Ok(StreamedAnswer { response, parts: body.boxed(), silence })
    }
}

/// The head of a response of bytes.
fn response_head(status: StatusCode, length: Option<u64>, fields: &AnswerFields, is_head: bool) -> ResponseHead {
    let has_none = is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // HEAD gets the length that GET would.
    let text = length.filter(|_| is_head).map(|length| length.to_string());
    let content_type = fields.content_type.as_deref().unwrap_or(BYTES);
    let own = [("content-type", content_type)].into_iter().chain(text.as_deref().map(|text| ("content-length", text)));
    let pairs: Vec<(&str, &str)> = own.chain(fields.iter()).collect();
    let framing = match length {
        _ if has_none => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    ResponseHead { status, fields: Fields::from_pairs(&pairs), framing, keep_alive: true, keep_for: None }
}

/// The bytes of a node's stream, as many as its head has stated.
struct ByteBody<H, R> {
    /// `None` if the response has no body.
    parts: Option<Duplex<RawPart>>,
    length: Option<u64>,
    passed: u64,
    /// After how many bytes the window is widened.
    widen_at: u64,
    is_wide: bool,
    /// The reservation of the wide window, or of the part that is on its way.
    held: Option<Reservation>,
    /// Reserves bytes for the client.
    hold: H,
    /// Records a fault of the node.
    record: R,
}

impl<H, R> Unpin for ByteBody<H, R> {}

impl<H, R> Stream for ByteBody<H, R>
where
    H: Fn(usize) -> Result<Reservation, OverBudget>,
    R: Fn(StreamFault<'_>),
{
    type Item = Result<Bytes, Ended>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
        let part = ready!(parts.poll_next_unpin(task));
        let item = self.pass_on(part);
        if !matches!(item, Some(Ok(_))) {
            self.parts = None;
        }
        Poll::Ready(item)
    }
}

impl<H, R> ByteBody<H, R>
where
    H: Fn(usize) -> Result<Reservation, OverBudget>,
    R: Fn(StreamFault<'_>),
{
    /// What the client is sent of a part.
    fn pass_on(&mut self, part: Option<Result<RawPart, CallError>>) -> Option<Result<Bytes, Ended>> {
        let cut = |fault| {
            (self.record)(fault);
            Some(Err(Ended("a node's stream was cut before its last part")))
        };
        let bytes = match part {
            Some(Ok(RawPart::Bytes(bytes))) => bytes,
            Some(Ok(other)) => {
                return match other.into_json("") {
                    Err(error) => cut(StreamFault::Cut(&error)),
                    Ok(_json) => cut(StreamFault::NotBytes),
                };
            }
            Some(Err(error)) => return cut(StreamFault::Cut(&error)),
            None if self.length.is_some_and(|length| length != self.passed) => return cut(StreamFault::WrongLength),
            None => return None,
        };
        self.passed += bytes.len() as u64;
        if self.length.is_some_and(|length| self.passed > length) {
            (self.record)(StreamFault::WrongLength);
            return Some(Err(Ended("a node sent more bytes than it had stated")));
        }
        Some(self.account(bytes.len()).map(|()| bytes))
    }

    /// Takes what is held for the client from its budget.
    fn account(&mut self, bytes: usize) -> Result<(), Ended> {
        if self.is_wide {
            return Ok(());
        }
        // The part before has left, or is about to.
        self.held = None;
        if self.passed >= self.widen_at {
            match ((self.hold)(WIDE_WINDOW as usize), &self.parts) {
                (Ok(held), Some(parts)) => {
                    parts.widen(WIDE_WINDOW - STREAM_WINDOW);
                    (self.is_wide, self.held) = (true, Some(held));
                    return Ok(());
                }
                (Ok(_) | Err(_), _) => self.widen_at = self.passed + WIDEN_AGAIN_BYTES,
            }
        }
        self.held = Some((self.hold)(bytes).map_err(|_over| Ended("the client holds more bytes than it may"))?);
        Ok(())
    }
}
