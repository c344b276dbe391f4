//! What a handler can know of an event beside what was emitted.

use crate::error::ServiceError;
use crate::handler::{FromCall, IncomingCall};

/// The method of handlers of durable subscriptions: `DURABLE/name of the subscription/{event}`. It
/// is not registered, and only this node itself calls it.
pub(crate) const DURABLE_METHOD: &str = "DURABLE";

/// The event that the handler is called for: an argument of a handler that subscribes. Other calls
/// have none.
///
/// ```
/// use node_sdk::{Event, Node, RawParams, ServiceError};
///
/// async fn record(event: Event, RawParams(payload): RawParams) -> Result<(), ServiceError> {
///     println!("{}: {payload}", event.name());
///     Ok(())
/// }
///
/// let node = Node::builder("audit").subscribe("orders.>", record);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    name: Box<str>,
    id: Option<Box<str>>,
    key: Option<Box<str>>,
    attempt: u8,
}

/// The same, as a call has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IncomingEvent<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) attempt: u8,
}

impl Event {
    /// The whole name, such as `orders.created`, also where the subscription is a pattern.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of an event that is [delivered](crate::Peers::deliver): the same each time, if it
    /// comes more than once. Events that are emitted or broadcast have none.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The [key](crate::Deliver::key) of the event, if it has one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// How many attempts to deliver the event there were before this one, as far as its emitter
    /// knows; 255 stands for more. Another one may have been handled.
    pub fn attempt(&self) -> u8 {
        self.attempt
    }

    pub(super) fn new(event: IncomingEvent<'_>) -> Self {
        let IncomingEvent { name, id, key, attempt } = event;
        Self { name: name.into(), id: id.map(Box::from), key: key.map(Box::from), attempt }
    }

    pub(super) fn as_incoming(&self) -> IncomingEvent<'_> {
        IncomingEvent { name: &self.name, id: self.id.as_deref(), key: self.key.as_deref(), attempt: self.attempt }
    }
}

impl FromCall for Event {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let event = call.event.map(Self::new);
        event.ok_or_else(|| ServiceError::bad_request("no_event", "this is a call, and not an event"))
    }
}
