//! Server-sent events: items of a stream with an id and a name.

use std::borrow::Cow;
use std::time::Duration;

use bytes::BytesMut;
use protocol::EventFields;
use serde::Serialize;

use crate::error::ServiceError;
use crate::handler::http::{Wants, header_values};
use crate::handler::respond;
use crate::handler::{FromCall, IncomingCall};

/// An item of a [`Streaming`](crate::Streaming) that clients read as a server-sent event, as
/// browsers do with `EventSource`: with an id, a name, and a time to wait before they connect
/// again. Clients that read lines of JSON, and callers that are nodes, get the data alone.
///
/// ```
/// use futures::{Stream, stream};
/// use node_sdk::{LastEventId, Node, ServerEvent, ServiceError, Streaming};
///
/// type Event = Result<ServerEvent<u64>, ServiceError>;
///
/// async fn ticks(
///     LastEventId(last): LastEventId,
/// ) -> Result<Streaming<impl Stream<Item = Event>>, ServiceError> {
///     let next = last.and_then(|id| id.parse::<u64>().ok()).map_or(1, |last| last + 1);
///     let event = |n: u64| Ok(ServerEvent::new(n * n).id(n.to_string()).event("square"));
///     Ok(Streaming(stream::iter((next..next + 10).map(event))))
/// }
///
/// let node = Node::builder("squares").route("GET/squares", ticks).public();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEvent<T> {
    data: T,
    fields: EventFields<'static>,
}

impl<T> ServerEvent<T> {
    /// An event with this data, which is sent as JSON.
    pub fn new(data: T) -> Self {
        Self { data, fields: EventFields::default() }
    }

    /// The id of the event. A browser that connects again names the last one: see [`LastEventId`].
    /// One with a line break or a NUL is not sent.
    pub fn id(mut self, id: impl Into<Cow<'static, str>>) -> Self {
        self.fields.id = Some(id.into());
        self
    }

    /// The name of the event, for `addEventListener`; without it the event is a `message`. One with
    /// a line break is not sent.
    pub fn event(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.fields.event = Some(name.into());
        self
    }

    /// How long the client waits before it connects again, from now on.
    pub fn retry(mut self, wait: Duration) -> Self {
        self.fields.retry = Some(wait);
        self
    }
}

/// The id of the last event that a client has got, if it connects again (`Last-Event-ID`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEventId(pub Option<String>);

impl FromCall for LastEventId {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self(header_values(call, "last-event-id")?.next().map(str::to_owned)))
    }

    fn wants(wants: &mut Wants) {
        wants.header("last-event-id");
    }
}

/// What a stream can send: anything that is `Serialize`, or a [`ServerEvent`] with that.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an item of a stream",
    note = "items are anything that is `Serialize`, and `ServerEvent<T>`; add `#[derive(serde::Serialize)]` to `{Self}`"
)]
pub trait StreamItem {
    /// The fields that it has as a server-sent event.
    #[doc(hidden)]
    fn fields(&self) -> Cow<'_, EventFields<'static>> {
        Cow::Owned(EventFields::default())
    }

    /// Appends it as JSON text.
    #[doc(hidden)]
    fn append(&self, out: &mut BytesMut) -> Result<(), serde_json::Error>;
}

impl<T: Serialize> StreamItem for T {
    fn append(&self, out: &mut BytesMut) -> Result<(), serde_json::Error> {
        respond::append_json(self, out)
    }
}

impl<T: Serialize> StreamItem for ServerEvent<T> {
    fn fields(&self) -> Cow<'_, EventFields<'static>> {
        Cow::Borrowed(&self.fields)
    }

    fn append(&self, out: &mut BytesMut) -> Result<(), serde_json::Error> {
        respond::append_json(&self.data, out)
    }
}
