//! A call, from its settings to its result; here the typed form, which wraps the raw one.
//!
//! It must not read the parts of a stream that a call opens: `stream` does. It must not import
//! `stream` or `events`.

pub(super) mod arguments;
mod attempt;
mod failure;
mod hedge;
mod observed;
mod progress;
mod question;
pub(crate) mod raw_call;
pub(crate) mod response;

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::balance::Balance;
use crate::client::call::raw_call::RawCall;
use crate::client::call::response::{RawResponse, read_result};
use crate::context::Context;
use crate::error::CallError;

/// A call that is about to be made. Change the settings that should differ from the defaults, then
/// await it.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<'a, T> Call<'a, T> {
    pub(crate) fn new(raw: RawCall<'a>) -> Self {
        Self { raw, result: PhantomData }
    }

    /// How long the whole call may take, with all its attempts. 5 s unless set. It ends a margin
    /// before the call that is being handled: a tenth of the time left, and 100 ms at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.raw = self.raw.timeout(timeout);
        self
    }

    /// Says that the call may be carried out twice, so it is retried when it was lost on the way.
    pub fn idempotent(mut self) -> Self {
        self.raw.idempotent = true;
        self
    }

    /// When there is no response after this time, the call is made a second time, to another
    /// provider. The first response counts, and the other call is cancelled. This is for calls that
    /// must not wait for one slow node. Only [idempotent](Self::idempotent) calls are hedged, and
    /// only within the retry budget: a fifth of all calls, and ten a second.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use std::time::Duration;
    ///
    /// let price: u32 = peers.call("GET/prices/7", &()).hedge(Duration::from_millis(20)).await?;
    /// # Ok(()) }
    /// ```
    pub fn hedge(mut self, after: Duration) -> Self {
        self.raw.hedge = Some(after);
        self
    }

    /// Calls with the same key go to the same provider, whichever node calls, as long as it is
    /// known and does not have many more calls in flight than the others. The calling node is one
    /// of the providers if it offers the url.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers, user: &str) -> Result<(), node_sdk::CallError> {
    /// let cart: Vec<u64> = peers.call("GET/cart", &()).sticky_key(user).await?;
    /// # Ok(()) }
    /// ```
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.raw = self.raw.sticky_key(key);
        self
    }

    /// Calls one instance, by its id, and no other.
    pub fn to_instance(mut self, instance: &'a str) -> Self {
        self.raw.instance = Some(instance);
        self
    }

    /// How a provider is picked, if not as the node's builder says.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.raw = self.raw.balance(balance);
        self
    }
}

impl<'a, T: DeserializeOwned> IntoFuture for Call<'a, T> {
    type Output = Result<T, CallError>;
    type IntoFuture = CallFuture<'a, T>;

    fn into_future(self) -> CallFuture<'a, T> {
        CallFuture { raw: self.raw, result: PhantomData }
    }
}

/// Reads the result of a response to a call of `url`.
pub(super) fn read_response<T: DeserializeOwned>(
    answer: Result<RawResponse, CallError>,
    url: impl FnOnce() -> String,
) -> Result<T, CallError> {
    read_result(&answer?).map_err(|error| error.into_call_error(url))
}

/// Records in the context of the work that a call made for it has timed out.
pub(super) fn noting_timeout<T>(result: Result<T, CallError>) -> Result<T, CallError> {
    if let Err(CallError::Deadline { .. } | CallError::Refused { status: 504, .. }) = &result {
        Context::record_timeout(Instant::now());
    }
    result
}

/// A call that is being made.
#[derive(Debug)]
pub struct CallFuture<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Future for CallFuture<'_, T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.raw).poll(context);
        polled.map(|answer| noting_timeout(read_response(answer, || self.raw.url())))
    }
}
