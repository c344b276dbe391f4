//! Requests of clients, for tests of routes that answer HTTP: what a gateway makes of them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use percent_encoding::percent_decode_str;
use protocol::{ClientRequest, STREAM_WINDOW, WantedHeaders, read_pairs};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio_util::task::AbortOnDropHandle;

use crate::error::CallError;
use crate::node::testing::TestNode;
use crate::peers::gateway::{BodySender, ClientHead, Duplex, GatewayPeers, RawHead, RawPart, RawReply, RawResponse};

/// A request of a client that is about to be made, as through a gateway: see
/// [`TestNode::request`]. Set what it should have, and [`send`](Self::send) it.
#[must_use = "nothing is sent yet"]
pub struct TestRequest<'a> {
    node: &'a TestNode,
    head: TestHead,
    body: Option<TestBody>,
}

type TestBody = Pin<Box<dyn Stream<Item = Result<Bytes, BrokenBody>> + Send>>;

/// The body of a test's request ended before its last byte.
#[derive(Debug)]
struct BrokenBody;

#[derive(Debug)]
struct TestHead {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl ClientHead for TestHead {
    fn request(&self, wanted: &WantedHeaders) -> ClientRequest<'_> {
        let fields = self.headers.iter().filter(|(name, _)| wanted.contains(name.as_bytes()));
        ClientRequest {
            address: "192.0.2.1".into(),
            host: "test".into(),
            id: "test".into(),
            method: self.method.as_str().into(),
            target: self.target.as_str().into(),
            headers: fields.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
            ..ClientRequest::default()
        }
    }
}

impl TestNode {
    /// A request of a client of `method`, such as `GET`, and of `target`, a path with a query,
    /// which any node of the mesh may answer that this one knows.
    ///
    /// It stands for a gateway, and for little of one: the query becomes the arguments, or else a
    /// body that is JSON. It answers for internal routes, too, sends them no header fields, and
    /// knows no limits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use node_sdk::testing::TestMesh;
    /// use node_sdk::{HttpResponse, Node, RawBody, ServiceError};
    ///
    /// async fn count(RawBody(body): RawBody) -> Result<HttpResponse<usize>, ServiceError> {
    ///     Ok(HttpResponse::new(body.len()).header("x-kind", "count"))
    /// }
    ///
    /// let mesh = TestMesh::start(); let _counter =
    /// mesh.node(Node::builder("counter").route("POST/count", count).public()).await.unwrap(); let
    /// gate = mesh.node(Node::builder("gate")).await.unwrap();
    /// gate.peers().wait_for(&["POST/count"]).await; let response = gate.request("POST",
    /// "/count").body("abc").send().await.unwrap(); assert_eq!((response.status(),
    /// response.header("x-kind")), (200, Some("count")));
    /// assert_eq!(response.bytes().await.unwrap(), "3");
    /// # }
    /// ```
    pub fn request(&self, method: &str, target: &str) -> TestRequest<'_> {
        let head = TestHead { method: method.to_owned(), target: target.to_owned(), headers: Vec::new() };
        TestRequest { node: self, head, body: None }
    }
}

impl TestRequest<'_> {
    /// Adds a header field. Routes get those that they want.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.head.headers.push((name.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// The body, with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        self.body = Some(stream::iter([Ok(body)]).boxed());
        self.header("content-length", length)
    }

    /// A body whose length is not stated. After an error the client goes.
    pub fn body_stream<B: Into<Bytes>, E>(mut self, body: impl Stream<Item = Result<B, E>> + Send + 'static) -> Self {
        self.body = Some(body.map(|piece| piece.map(Into::into).map_err(|_broken| BrokenBody)).boxed());
        self
    }

    /// Sends the request, and completes when the response has begun. Dropping the future is as if
    /// the client went.
    ///
    /// # Errors
    /// Those of [`Peers::call`](crate::Peers::call), except `Refused`, and [`CallError::Ended`] if
    /// the body ended with an error.
    pub async fn send(self) -> Result<TestResponse, CallError> {
        let Self { node, head, body } = self;
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let method = if head.method == "HEAD" { "GET" } else { &head.method };
        let url = || format!("{method}{path}");
        let offer = node.peers().offer(method, path);
        let in_parts = body.is_some() && offer.is_some_and(|offer| offer.takes_upload);
        let (whole, body) = match body {
            Some(body) if !in_parts => {
                let pieces: Result<Vec<Bytes>, BrokenBody> = body.try_collect().await;
                (Some(pieces.map_err(|_broken| CallError::Ended { url: url() })?.concat()), None)
            }
            body => (None, body),
        };
        let raw = whole.as_ref().filter(|_| offer.is_some_and(|offer| offer.takes_raw_body));
        let json = whole.as_ref().filter(|body| raw.is_none() && !body.is_empty());
        let json = json.map(|body| String::from_utf8_lossy(body).into_owned());
        let params = json.unwrap_or_else(|| query_params(query));
        let call = node.peers().call_raw(method, path, &params).for_client(&head);
        let call = if in_parts { call.body_follows() } else { call };
        let call = if let Some(raw) = raw { call.raw_body(raw) } else { call };
        match (call.open(STREAM_WINDOW).await?, body) {
            (RawReply::Stream { head: None, parts }, Some(body)) => {
                let mut sending = AbortOnDropHandle::new(tokio::spawn(send_body(parts.body_sender(), body)));
                let mut reply = pin!(parts.reply());
                let reply = tokio::select! {
                    biased;
                    reply = reply.as_mut() => reply?,
                    sent = &mut sending => match sent {
                        Ok(Err(BrokenBody)) => return Err(CallError::Ended { url: url() }),
                        _sent => reply.await?,
                    },
                };
                Ok(TestResponse { sending: Some(sending), ..TestResponse::new(reply, url()) })
            }
            (reply, _) => {
                if let RawReply::Stream { parts, .. } = &reply {
                    parts.sender().finish();
                }
                Ok(TestResponse::new(reply, url()))
            }
        }
    }
}

/// Sends a body as fast as the node takes it. What the node says ends it early.
async fn send_body(sender: BodySender, mut body: TestBody) -> Result<(), BrokenBody> {
    let mut pieces = VecDeque::new();
    while let Some(piece) = body.next().await {
        pieces.extend(Some(piece?).filter(|piece| !piece.is_empty()));
        while !pieces.is_empty() {
            if sender.send(&mut pieces).await.is_err() {
                return Ok(());
            }
        }
    }
    sender.finish();
    Ok(())
}

/// The arguments in a query: an object of texts. Of a name that occurs twice, the last counts.
fn query_params(query: &str) -> String {
    let text = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let members: Map<String, Value> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (text(name), Value::from(text(value))))
        .collect();
    Value::Object(members).to_string()
}

/// The response to a [`TestRequest`]: its head, and a [`Stream`] of its body. The stream ends with
/// an error where a client of a gateway would find its connection cut. Dropping it is as if the
/// client went.
#[derive(Debug)]
pub struct TestResponse {
    status: u16,
    headers: Vec<(String, String)>,
    reason: Option<String>,
    whole: Option<Bytes>,
    parts: Option<Duplex<RawPart>>,
    url: String,
    /// The rest of the body of the request.
    sending: Option<AbortOnDropHandle<Result<(), BrokenBody>>>,
}

impl TestResponse {
    fn new(reply: RawReply, url: String) -> Self {
        let (whole, parts, reason, sending) = (None, None, None, None);
        let response = Self { status: 200, headers: Vec::new(), reason, whole, parts, url, sending };
        match reply {
            RawReply::Response(whole) => response.of_whole(&whole),
            RawReply::Stream { head: Some(RawHead { status, headers, .. }), parts } => {
                Self { status, headers: pairs(headers.as_deref()), parts: Some(parts), ..response }
            }
            RawReply::Stream { head: None, parts } => {
                let headers = vec![("content-type".to_owned(), "application/x-ndjson".to_owned())];
                Self { headers, parts: Some(parts), ..response }
            }
        }
    }

    fn of_whole(self, whole: &RawResponse) -> Self {
        let Ok(read) = whole.read() else { return Self { status: 502, ..self } };
        let headers = pairs(read.headers);
        let media_type = headers.iter().find(|(name, _)| name == "content-type").map_or("", |(_, value)| value);
        let json = read.body.map_or("", RawValue::get);
        let text = serde_json::from_str::<String>(json).ok().filter(|_| !media_type.is_empty());
        let message = || read.message.as_deref().unwrap_or_default().to_owned();
        let body = match (whole.attachment(), text) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(text)) if !media_type.contains("json") => text.into(),
            (None, _) if read.reason.is_some() => message().into(),
            (None, _) => json.to_owned().into(),
        };
        let body = if matches!(read.status, 204 | 304) { Bytes::new() } else { body };
        let reason = read.reason.map(|reason| reason.into_owned());
        Self { status: read.status, headers, reason, whole: Some(body), ..self }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header field of this name, in any case of letters, that the service has set.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The word of the error that the service has answered with. Its text is the body then.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The whole body. Parts of JSON are lines.
    ///
    /// # Errors
    /// Where a client of a gateway would find its connection cut.
    pub async fn bytes(self) -> Result<Bytes, CallError> {
        Ok(self.try_collect::<Vec<Bytes>>().await?.concat().into())
    }
}

fn pairs(list: Option<&RawValue>) -> Vec<(String, String)> {
    let pairs = list.and_then(|list| read_pairs(list.get().as_bytes())).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

impl Stream for TestResponse {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(whole) = self.whole.take() {
            return Poll::Ready((!whole.is_empty()).then_some(Ok(whole)));
        }
        if let Some(sending) = &mut self.sending
            && let Poll::Ready(sent) = Pin::new(sending).poll(task)
        {
            self.sending = None;
            if matches!(sent, Ok(Err(BrokenBody))) && self.parts.take().is_some() {
                return Poll::Ready(Some(Err(CallError::Ended { url: self.url.clone() })));
            }
        }
        let Some(parts) = &mut self.parts else { return Poll::Ready(None) };
        let part = match ready!(parts.poll_next_unpin(task)) {
            Some(Ok(RawPart::Bytes(bytes))) => Some(Ok(bytes)),
            Some(part) => Some(part.and_then(|part| part.into_json(&self.url)).map(|json| format!("{json}\n").into())),
            None => None,
        };
        if !matches!(part, Some(Ok(_))) {
            self.parts = None;
        }
        Poll::Ready(part)
    }
}

impl fmt::Debug for TestRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRequest").field("head", &self.head).finish_non_exhaustive()
    }
}
