//! A call of a typed client whose answer or request comes in parts.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::balance::Balance;
use crate::client::stream::{Duplex, PartSender};
use crate::error::CallError;
use crate::peers::Peers;
use crate::typed::client::{CallSettings, PreparedCall, settings_of_calls, with_settings};
use crate::typed::refusal::Refusal;

/// A stream of a typed client that is about to be opened: see [`service`](crate::service). It
/// is one of [`Peers::stream`](crate::Peers::stream), with all that holds for these.
#[must_use = "a stream is opened when it is awaited"]
pub struct ServiceStreamCall<'a, T, E, S> {
    peers: &'a Peers,
    prepared: PreparedCall,
    settings: CallSettings<'a>,
    parts: PhantomData<fn(S) -> Result<T, E>>,
}

/// An open stream of a typed client: a [`Stream`] of what the service sends, and a
/// [`sender`](Self::sender) of the parts of type `S` that the method takes. Dropping the stream and
/// its senders cancels the work of the service.
#[derive(Debug)]
pub struct ServiceStream<T, E, S> {
    parts: Duplex<T>,
    types: PhantomData<fn(S) -> E>,
}

/// Sends the parts that a method takes. From [`ServiceStream::sender`].
#[derive(Debug)]
pub struct ServiceSender<S> {
    sender: PartSender,
    part: PhantomData<fn(S)>,
}

impl<'a, T, E, S> ServiceStreamCall<'a, T, E, S> {
    pub(super) fn new(peers: &'a Peers, prepared: PreparedCall, settings: CallSettings<'a>) -> Self {
        Self { peers, prepared, settings, parts: PhantomData }
    }

    settings_of_calls!();
}

impl<'a, T: DeserializeOwned + 'a, E: Refusal, S: 'a> IntoFuture for ServiceStreamCall<'a, T, E, S> {
    type Output = Result<ServiceStream<T, E, S>, E::AtCaller>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { peers, prepared, settings, parts: _ } = self;
        Box::pin(async move {
            let (url, arguments) = prepared.map_err(E::at_caller)?;
            let call = with_settings!(peers.stream(&url, &arguments), settings);
            let parts = call.await.map_err(E::at_caller)?;
            Ok(ServiceStream { parts, types: PhantomData })
        })
    }
}

impl<T, E, S> fmt::Debug for ServiceStreamCall<'_, T, E, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.prepared.as_ref().map(|(url, _)| url);
        f.debug_struct("ServiceStreamCall").field("url", &url).finish_non_exhaustive()
    }
}

impl<T, E, S> Unpin for ServiceStream<T, E, S> {}

impl<T, E, S> ServiceStream<T, E, S> {
    /// A sender of the parts that the method takes. Cheap to clone.
    pub fn sender(&self) -> ServiceSender<S> {
        ServiceSender { sender: self.parts.sender(), part: PhantomData }
    }
}

impl<T: DeserializeOwned, E: Refusal, S> ServiceStream<T, E, S> {
    /// Says that no part follows, and waits for the answer of a method that answers in one piece.
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// The refusal of the service, or why there is no answer: [`CallError::Ended`] if the stream
    /// ends without one.
    pub async fn answer(mut self) -> Result<T, E::AtCaller> {
        self.parts.sender().finish();
        let answer = self.next().await;
        answer.unwrap_or_else(|| Err(E::at_caller(CallError::Ended { url: self.parts.url().to_owned() })))
    }
}

impl<T: DeserializeOwned, E: Refusal, S> Stream for ServiceStream<T, E, S> {
    type Item = Result<T, E::AtCaller>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.poll_next_unpin(task).map(|part| part.map(|part| part.map_err(E::at_caller)))
    }
}

impl<S: Serialize + Sync> ServiceSender<S> {
    /// As [`PartSender::send`].
    ///
    /// # Errors
    /// As for [`PartSender::send`].
    pub async fn send(&self, part: &S) -> Result<(), CallError> {
        self.sender.send(part).await
    }

    /// Says that no part follows. The service may still send. Calling it again does nothing.
    pub fn finish(&self) {
        self.sender.finish();
    }
}

impl<S> Clone for ServiceSender<S> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), part: PhantomData }
    }
}
