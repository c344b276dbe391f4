//! The settings of a call whose response stays unparsed.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::{ClientRequest, WantedHeaders, is_idempotent};
use tokio::time::Instant;

use crate::balance::Balance;
use crate::client::call::arguments::CallArguments;
use crate::client::call::progress::CallProgress;
use crate::client::mesh::Mesh;
use crate::context::Trace;
use crate::transport::connection::{OpenStream, PendingCall};
use crate::transport::limits::DEFAULT_DEADLINE;

/// The request of a client of a gateway, as far as routes ask for it.
pub trait ClientHead: std::fmt::Debug + Sync {
    /// The request with the header fields that a route wants. Made for each attempt at a node whose
    /// route asks for it, and for no other.
    fn request(&self, wanted: &WantedHeaders) -> ClientRequest<'_>;
}

/// What a call is made for, where that is not the call that is being handled.
#[derive(Debug, Default)]
pub(super) struct CallOrigin<'a> {
    pub(super) trace: Option<Trace>,
    /// The request of the client for which a gateway calls.
    pub(super) client: Option<&'a dyn ClientHead>,
    /// The body of the client's request, for nodes whose route takes it raw.
    pub(super) body: Option<&'a [u8]>,
}

/// A call whose response stays unparsed: see
/// [`GatewayPeers::call_raw`](crate::gateway::GatewayPeers::call_raw).
///
/// It is moved, and many are in flight at a time, so it is kept small.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct RawCall<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) arguments: CallArguments<'a>,
    pub(super) timeout: Duration,
    /// When the call began, until the first attempt, if the caller has stated it.
    pub(super) started: Option<Instant>,
    pub(in crate::client) idempotent: bool,
    pub(super) one_way: bool,
    /// Whether the body follows in parts, for nodes whose route takes it so.
    pub(super) body_follows: bool,
    /// On the heap: only gateways make such calls, and traced ones.
    pub(super) origin: Option<Box<CallOrigin<'a>>>,
    /// The response may be a stream, of which this many bytes may be sent ahead.
    pub(super) window: Option<u32>,
    /// The time without a response after which another provider is called too.
    pub(super) hedge: Option<Duration>,
    /// The only address that may be called. On the heap: few calls have one.
    pub(super) address: Option<Box<SocketAddr>>,
    /// Whether the call waits for the first list if no node is known that offers the url.
    pub(super) awaits_list: bool,
    /// Whether the call is a probe: a failure does not count against the node, as the caller
    /// decides.
    pub(super) is_probe: bool,
    pub(in crate::client) balance: Balance,
    pub(in crate::client) sticky_key: Option<&'a str>,
    /// The only instance that may be called.
    pub(in crate::client) instance: Option<&'a str>,
    pub(super) progress: CallProgress,
}

impl<'a> RawCall<'a> {
    pub(crate) fn new(mesh: &'a Mesh, method: &'a str, path: &'a str, arguments: CallArguments<'a>) -> Self {
        Self {
            mesh,
            method,
            path,
            arguments,
            timeout: DEFAULT_DEADLINE,
            started: None,
            idempotent: is_idempotent(method),
            one_way: false,
            body_follows: false,
            origin: None,
            window: None,
            hedge: None,
            address: None,
            awaits_list: false,
            is_probe: false,
            balance: mesh.balance(),
            sticky_key: None,
            instance: None,
            progress: CallProgress::default(),
        }
    }

    /// As [`Call::timeout`](crate::Call::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The time of the call counts from `now`. For callers that make thousands of calls a second
    /// and have just read the clock.
    pub fn started_at(mut self, now: Instant) -> Self {
        self.started = Some(now);
        self
    }

    /// The call continues the trace that its client names in `traceparent` (W3C Trace Context), or
    /// begins one.
    pub fn in_trace(mut self, traceparent: Option<&str>) -> Self {
        self.set_trace(traceparent.and_then(Trace::parse).unwrap_or_else(Trace::begin));
        self
    }

    /// The call is for a client: nodes whose route asks for its request get it.
    pub fn for_client(mut self, client: &'a dyn ClientHead) -> Self {
        self.origin.get_or_insert_default().client = Some(client);
        self
    }

    /// The body of the client's request, which is sent as it is, beside the arguments. Nodes whose
    /// route does not take it raw are not called.
    pub fn raw_body(mut self, body: &'a [u8]) -> Self {
        self.origin.get_or_insert_default().body = Some(body);
        self
    }

    /// The call is not made again once it was sent, whatever its method.
    pub fn once(mut self) -> Self {
        self.idempotent = false;
        self
    }

    /// The body of the client's request follows in parts, once the call has become a stream: see
    /// [`Duplex::body_sender`](crate::Duplex::body_sender). Nodes whose route does not take it so
    /// are not called.
    pub fn body_follows(mut self) -> Self {
        self.body_follows = true;
        self
    }

    /// As [`Call::sticky_key`](crate::Call::sticky_key).
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.sticky_key = Some(key);
        self
    }

    /// As [`Call::balance`](crate::Call::balance).
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// Waits for the first list if no node is known that offers the url, as long as the call may
    /// take. Errors then say whether the url is malformed.
    pub(crate) fn awaiting_list(mut self) -> Self {
        self.awaits_list = true;
        self
    }

    pub(crate) fn one_way(mut self) -> Self {
        self.one_way = true;
        self
    }

    /// The response may be a stream, of which `window` bytes may be sent ahead.
    pub(crate) fn streaming(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// The stream that the call has become, if it has; only after the response.
    pub(crate) fn opened_stream(&mut self) -> Option<OpenStream> {
        self.progress.opened.take().map(PendingCall::into_stream)
    }

    /// Calls the node at this address.
    pub(crate) fn with_address(mut self, address: SocketAddr) -> Self {
        self.address = Some(Box::new(address));
        self
    }

    /// The call checks a node: its failure does not count against the node.
    pub(crate) fn without_health_effect(mut self) -> Self {
        self.is_probe = true;
        self
    }

    /// The trace of the call, if it is not that of the call that is being handled.
    pub(super) fn trace(&self) -> Option<Trace> {
        self.origin.as_ref()?.trace
    }

    pub(super) fn client(&self) -> Option<&'a dyn ClientHead> {
        self.origin.as_ref()?.client
    }

    pub(super) fn body(&self) -> Option<&'a [u8]> {
        self.origin.as_ref()?.body
    }

    pub(super) fn set_trace(&mut self, trace: Trace) {
        self.origin.get_or_insert_default().trace = Some(trace);
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.method, self.path)
    }
}
