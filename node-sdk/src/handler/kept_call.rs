//! A call whose handler begins later: behind a guard, inside a layer, or after waiting for a
//! permit.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytes::Bytes;
use protocol::{ClientRequest, Route, Version, WantedHeaders};

use crate::context::Context;
use crate::error::ServiceError;
use crate::handler::arguments::extension::{ExtensionValue, Extensions};
use crate::handler::call_stream::CallStream;
use crate::handler::invocation::{AnyHandler, RunningHandler};
use crate::handler::{Caller, IncomingCall, NodeContext};

/// An owned copy of the data that an [`IncomingCall`] borrows.
#[derive(Debug)]
pub(crate) struct KeptCall {
    version: Version,
    params: Option<Box<str>>,
    route: Route,
    captured: Box<[Box<str>]>,
    caller: Caller,
    call_stream: Option<Arc<CallStream>>,
    client: Option<Box<ClientRequest<'static>>>,
    wanted: Option<WantedHeaders>,
    body: Option<Bytes>,
    extensions: Extensions,
    node: Arc<NodeContext>,
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
            client: call.client.map(|client| Box::new(client.to_static())),
            wanted: call.wanted.cloned(),
            body: call.body.map(Bytes::copy_from_slice),
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
        let context = Cell::new(Context::current());
        let captured: Vec<&str> = self.captured.iter().map(|segment| &**segment).collect();
        let started = handler.begin(&IncomingCall {
            version: self.version,
            params: self.params.as_deref(),
            verified: Cell::new(true),
            route: &self.route,
            captured: &captured,
            context: &context,
            caller: &self.caller,
            call_stream: self.call_stream.as_ref(),
            client: self.client.as_deref(),
            wanted: self.wanted.as_ref(),
            body: self.body.as_deref(),
            next: RefCell::new(None),
            extensions: RefCell::new(self.extensions.clone()),
            node: &self.node,
        });
        context.get().set_current();
        started
    }
}
