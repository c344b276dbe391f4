//! The settings of a call whose response stays unparsed.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::{ClientRequest, WantedHeaders, is_idempotent};
use tokio::time::Instant;

use crate::balance::{Balance, PickOptions};
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

/// A call whose response stays unparsed: see
/// [`GatewayPeers::call_raw`](crate::gateway::GatewayPeers::call_raw).
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
    /// The trace of the call, if it is not that of the call that is being handled.
    pub(super) trace: Option<Trace>,
    /// The request of the client for which a gateway calls.
    pub(super) client: Option<&'a dyn ClientHead>,
    /// The body of the client's request, for nodes whose route takes it raw.
    pub(super) body: Option<&'a [u8]>,
    /// The response may be a stream, of which this many bytes may be sent ahead.
    pub(super) window: Option<u32>,
    /// The time without a response after which another provider is called too.
    pub(super) hedge: Option<Duration>,
    pub(super) address: Option<SocketAddr>,
    /// Whether the call waits for the first list if no node is known that offers the url.
    pub(super) awaits_list: bool,
    /// Whether the call is a probe: a failure does not count against the node, as the caller
    /// decides.
    pub(super) is_probe: bool,
    pub(in crate::client) pick: PickOptions<'a>,
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
            trace: None,
            client: None,
            body: None,
            window: None,
            hedge: None,
            address: None,
            awaits_list: false,
            is_probe: false,
            pick: PickOptions { balance: mesh.balance(), ..PickOptions::default() },
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
        self.trace = Some(traceparent.and_then(Trace::parse).unwrap_or_else(Trace::begin));
        self
    }

    /// The call is for a client: nodes whose route asks for its request get it.
    pub fn for_client(mut self, client: &'a dyn ClientHead) -> Self {
        self.client = Some(client);
        self
    }

    /// The body of the client's request, which is sent as it is, beside the arguments. Nodes whose
    /// route does not take it raw are not called.
    pub fn raw_body(mut self, body: &'a [u8]) -> Self {
        self.body = Some(body);
        self
    }

    /// As [`Call::sticky_key`](crate::Call::sticky_key).
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.pick.sticky = Some(key);
        self
    }

    /// As [`Call::balance`](crate::Call::balance).
    pub fn balance(mut self, balance: Balance) -> Self {
        self.pick.balance = balance;
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
        self.address = Some(address);
        self
    }

    /// The call checks a node: its failure does not count against the node.
    pub(crate) fn without_health_effect(mut self) -> Self {
        self.is_probe = true;
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.method, self.path)
    }
}
