//! What the clients of services have in common.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::balance::Balance;
use crate::error::CallError;
use crate::peers::Peers;
use crate::typed::call::ServiceCall;
use crate::typed::stream::ServiceStreamCall;
use crate::typed::url::ServiceUrl;

/// The client of a service: what `#[service]` wraps.
#[derive(Clone, Copy, Debug)]
pub struct ServiceClient<'a> {
    peers: &'a Peers,
    /// The settings of its calls.
    pub settings: CallSettings<'a>,
}

/// How a call differs from the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallSettings<'a> {
    /// As [`Call::timeout`](crate::Call::timeout).
    pub timeout: Option<Duration>,
    /// As [`Call::sticky_key`](crate::Call::sticky_key).
    pub sticky_key: Option<&'a str>,
    /// As [`Call::to_instance`](crate::Call::to_instance).
    pub instance: Option<&'a str>,
    /// As [`Call::balance`](crate::Call::balance).
    pub balance: Option<Balance>,
    /// Whether the call may be carried out twice, as [`Call::idempotent`](crate::Call::idempotent)
    /// says.
    pub(super) is_idempotent: bool,
    /// As [`Call::hedge`](crate::Call::hedge).
    pub(super) hedge: Option<Duration>,
}

/// A call that is written down, or why it cannot be made.
pub(super) type PreparedCall = Result<(String, Box<RawValue>), CallError>;

impl<'a> ServiceClient<'a> {
    /// A client without settings.
    pub fn new(peers: &'a Peers) -> Self {
        Self { peers, settings: CallSettings::default() }
    }

    /// Calls a method whose answer and request are in one piece.
    pub fn call<T, E>(&self, url: ServiceUrl, arguments: &impl Serialize) -> ServiceCall<'a, T, E> {
        ServiceCall::new(self.peers, prepare(url, arguments), self.settings)
    }

    /// Calls a method whose answer or request comes in parts.
    pub fn stream<T, E, S>(&self, url: ServiceUrl, arguments: &impl Serialize) -> ServiceStreamCall<'a, T, E, S> {
        ServiceStreamCall::new(self.peers, prepare(url, arguments), self.settings)
    }
}

fn prepare(url: ServiceUrl, arguments: &impl Serialize) -> PreparedCall {
    let (route, url) = url.finish();
    let url = url?;
    let arguments = to_raw_value(arguments).map_err(|source| CallError::Params { url: route.to_owned(), source })?;
    Ok((url, arguments))
}

/// The settings of one call, for the types of calls.
macro_rules! settings_of_calls {
    () => {
        /// As [`Call::timeout`](crate::Call::timeout).
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.settings.timeout = Some(timeout);
            self
        }

        /// As [`Call::idempotent`](crate::Call::idempotent).
        pub fn idempotent(mut self) -> Self {
            self.settings.is_idempotent = true;
            self
        }

        /// As [`Call::sticky_key`](crate::Call::sticky_key).
        pub fn sticky_key(mut self, key: &'a str) -> Self {
            self.settings.sticky_key = Some(key);
            self
        }

        /// As [`Call::to_instance`](crate::Call::to_instance).
        pub fn to_instance(mut self, instance: &'a str) -> Self {
            self.settings.instance = Some(instance);
            self
        }

        /// As [`Call::balance`](crate::Call::balance).
        pub fn balance(mut self, balance: Balance) -> Self {
            self.settings.balance = Some(balance);
            self
        }
    };
}

/// Gives a call or the opening of a stream its settings.
macro_rules! with_settings {
    ($call:expr, $settings:expr) => {{
        let (mut call, settings): (_, CallSettings<'_>) = ($call, $settings);
        if let Some(timeout) = settings.timeout {
            call = call.timeout(timeout);
        }
        if let Some(key) = settings.sticky_key {
            call = call.sticky_key(key);
        }
        if let Some(instance) = settings.instance {
            call = call.to_instance(instance);
        }
        if let Some(balance) = settings.balance {
            call = call.balance(balance);
        }
        if settings.is_idempotent { call.idempotent() } else { call }
    }};
}

pub(super) use {settings_of_calls, with_settings};
