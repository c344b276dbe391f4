//! A call whose response is not read: its settings.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::{Balance, PickOptions};
use crate::client::arguments::CallArguments;
use crate::client::attempt::CallProgress;
use crate::client::mesh::Mesh;
use crate::transport::connection::{OpenStream, PendingCall};
use crate::transport::limits::DEFAULT_DEADLINE;

/// A call whose answer is not read: see [`Peers::call_raw`](crate::Peers::call_raw).
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct RawCall<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) arguments: CallArguments<'a>,
    pub(super) timeout: Duration,
    /// Until the first attempt: when the call began, if the caller knows.
    pub(super) started: Option<Instant>,
    pub(super) idempotent: bool,
    pub(super) one_way: bool,
    /// Its answer may be a stream, of which so many bytes may be sent ahead.
    pub(super) window: Option<u32>,
    /// When there is no answer after so long, another provider is asked too.
    pub(super) hedge: Option<Duration>,
    pub(super) address: Option<SocketAddr>,
    /// Whoever makes it draws the conclusions.
    pub(super) is_probe: bool,
    pub(super) pick: PickOptions<'a>,
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
            window: None,
            hedge: None,
            address: None,
            is_probe: false,
            pick: PickOptions { balance: mesh.balance(), ..PickOptions::default() },
            progress: CallProgress::default(),
        }
    }

    /// As [`Call::timeout`](crate::Call::timeout).
    pub fn timeout(mut self, deadline: Duration) -> Self {
        self.timeout = deadline;
        self
    }

    /// The call begins at `now`, which whoever makes thousands a second has just looked at the clock for: its time counts from there.
    pub fn started_at(mut self, now: Instant) -> Self {
        self.started = Some(now);
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

    pub(crate) fn one_way(mut self) -> Self {
        self.one_way = true;
        self
    }

    /// The answer may be a stream, of which `window` bytes may be sent ahead.
    pub(crate) fn streaming(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// The stream that the call has become, if it has; once it is answered.
    pub(crate) fn opened_stream(&mut self) -> Option<OpenStream> {
        self.progress.opened.take().map(PendingCall::into_stream)
    }

    /// Calls whoever is at this address.
    pub(crate) fn to_address(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// It finds out how a node does: that it fails is nobody else's news.
    pub(crate) fn without_health_effect(mut self) -> Self {
        self.is_probe = true;
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.method, self.path)
    }
}

/// Methods that may be carried out twice (RFC 9110, 9.2.2).
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}
