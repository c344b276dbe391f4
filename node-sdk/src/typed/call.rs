//! A call of a typed client.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::balance::Balance;
use crate::peers::Peers;
use crate::typed::client::{CallSettings, PreparedCall, settings_of_calls, with_settings};
use crate::typed::refusal::Refusal;

/// A call of a typed client that is about to be made: see [`service`](crate::service). Change
/// the settings that should differ from those of the client, then await it. It is a call of
/// [`Peers::call`], with all that holds for these, and one allocation more.
///
/// [`Peers::call`]: crate::Peers::call
#[must_use = "a call is made when it is awaited"]
pub struct ServiceCall<'a, T, E> {
    peers: &'a Peers,
    prepared: PreparedCall,
    settings: CallSettings<'a>,
    result: PhantomData<fn() -> Result<T, E>>,
}

impl<'a, T, E> ServiceCall<'a, T, E> {
    pub(super) fn new(peers: &'a Peers, prepared: PreparedCall, settings: CallSettings<'a>) -> Self {
        Self { peers, prepared, settings, result: PhantomData }
    }

    settings_of_calls!();

    /// As [`Call::hedge`](crate::Call::hedge).
    pub fn hedge(mut self, after: Duration) -> Self {
        self.settings.hedge = Some(after);
        self
    }
}

impl<'a, T: DeserializeOwned + 'a, E: Refusal> IntoFuture for ServiceCall<'a, T, E> {
    type Output = Result<T, E::AtCaller>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { peers, prepared, settings, result: _ } = self;
        Box::pin(async move {
            let (url, arguments) = prepared.map_err(E::at_caller)?;
            let call = with_settings!(peers.call(&url, &arguments), settings);
            let call = if let Some(after) = settings.hedge { call.hedge(after) } else { call };
            call.await.map_err(E::at_caller)
        })
    }
}

impl<T, E> fmt::Debug for ServiceCall<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.prepared.as_ref().map(|(url, _)| url);
        f.debug_struct("ServiceCall").field("url", &url).field("settings", &self.settings).finish_non_exhaustive()
    }
}
