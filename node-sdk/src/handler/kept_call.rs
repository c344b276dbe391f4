//! A call whose handler begins later: behind a guard, inside a layer, with an argument that is
//! awaited, or after waiting for a permit.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytes::Bytes;
use protocol::{ClientRequest, Route, Version, WantedHeaders};

use crate::context::Context;
use crate::error::ServiceError;
use crate::handler::arguments::extension::{ExtensionValue, Extensions};
use crate::handler::call_stream::CallStream;
use crate::handler::event::Event;
use crate::handler::invocation::{AnyHandler, Next, RunningHandler};
use crate::handler::{Argument, Caller, FromCall, IncomingCall, NodeContext};

/// An owned copy of the data that an [`IncomingCall`] borrows.
#[derive(Debug)]
pub(crate) struct KeptCall {
    version: Version,
    params: Option<Box<str>>,
    route: Route,
    captured: Box<[Box<str>]>,
    caller: Caller,
    call_stream: Option<Arc<CallStream>>,
    /// Boxed, because most calls have neither.
    origin: Option<Box<KeptOrigin>>,
    wanted: Option<WantedHeaders>,
    body: Option<Bytes>,
    body_follows: bool,
    max_body: u64,
    extensions: Extensions,
    node: Arc<NodeContext>,
}

/// What a call is made for.
#[derive(Debug)]
struct KeptOrigin {
    client: Option<ClientRequest<'static>>,
    event: Option<Event>,
}

impl KeptOrigin {
    fn of(call: &IncomingCall<'_>) -> Option<Self> {
        let (client, event) = (call.client.map(|client| client.to_static()), call.event.map(Event::new));
        (client.is_some() || event.is_some()).then_some(Self { client, event })
    }
}

impl KeptCall {
    /// Copies a call whose arguments are known to be JSON.
    pub(super) fn new(call: &IncomingCall<'_>) -> Self {
        Self {
            version: call.version,
            params: call.params.map(Box::from),
            route: call.route.clone(),
            captured: call.captured.iter().copied().map(Box::from).collect(),
            caller: call.caller.clone(),
            call_stream: call.call_stream.cloned(),
            origin: KeptOrigin::of(call).map(Box::new),
            wanted: call.wanted.cloned(),
            body: call.body.map(Bytes::copy_from_slice),
            body_follows: call.body_follows,
            max_body: call.max_body,
            extensions: call.extensions.borrow().clone(),
            node: Arc::clone(call.node),
        }
    }

    /// Adds the value that a guard or a layer hands on.
    pub(super) fn extend(&mut self, value: Option<ExtensionValue>) {
        self.extensions.extend(value);
    }

    /// Begins `handler` in the current context.
    pub(crate) fn begin(&self, handler: &dyn AnyHandler) -> Result<RunningHandler, ServiceError> {
        self.visit(None, |call| handler.begin(call)).0
    }

    /// Runs `act` with the call, in the current context. Returns `next` if it was not taken.
    fn visit<T>(&self, next: Option<Next>, act: impl FnOnce(&IncomingCall<'_>) -> T) -> (T, Option<Next>) {
        let context = Cell::new(Context::current());
        let captured: Vec<&str> = self.captured.iter().map(|segment| &**segment).collect();
        let call = IncomingCall {
            version: self.version,
            params: self.params.as_deref(),
            verified: Cell::new(true),
            route: &self.route,
            captured: &captured,
            context: &context,
            caller: &self.caller,
            call_stream: self.call_stream.as_ref(),
            client: self.origin.as_ref().and_then(|origin| origin.client.as_ref()),
            wanted: self.wanted.as_ref(),
            body: self.body.as_deref(),
            event: self.origin.as_ref().and_then(|origin| origin.event.as_ref()).map(Event::as_incoming),
            body_follows: self.body_follows,
            max_body: self.max_body,
            next: RefCell::new(next),
            extensions: RefCell::new(self.extensions.clone()),
            node: &self.node,
        };
        let done = act(&call);
        context.get().set_current();
        (done, call.next.into_inner())
    }
}

/// A call whose arguments are read one after the other, each when those before it are there.
pub(super) struct AwaitedCall {
    call: KeptCall,
    next: Option<Next>,
}

impl AwaitedCall {
    /// Copies the call.
    ///
    /// # Errors
    /// The arguments of the call are not JSON.
    pub(super) fn new(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self { call: call.keep()?, next: call.next.take() })
    }

    /// Reads an argument, in the current context.
    pub(super) fn begin<T: FromCall>(&mut self) -> Result<Argument<T>, ServiceError> {
        let next = self.next.take();
        let (begun, next) = self.call.visit(next, T::begin_from_call);
        self.next = next;
        begun
    }
}
