//! The types that a handler can have as arguments.

use std::any::type_name;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use protocol::Route;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::params;
use crate::context::{Stop, Trace};
use crate::error::ServiceError;
use crate::handler::{FromCall, IncomingCall, Missing, StateTypes};
use crate::peers::Peers;

/// The arguments of the call, read as a `T`: its `params`, joined with the parameters of the path.
/// Numbers and booleans may be given as text, as they are in a query string.
///
/// ```
/// use node_sdk::{Params, ServiceError};
///
/// #[derive(serde::Deserialize)]
/// struct Filter {
///     category: Option<String>,
/// }
///
/// async fn list(Params(filter): Params<Filter>) -> Result<Vec<String>, ServiceError> {
///     Ok(filter.category.into_iter().collect())
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Params<T>(pub T);

/// The parameters of the path: `Path<u64>` for `GET/goods/{id}`, `Path<(u64, String)>` for two in
/// order, or a type whose members have the parameters' names.
///
/// ```
/// use node_sdk::{Node, Path, ServiceError};
///
/// async fn find(Path((shelf, id)): Path<(String, u64)>) -> Result<String, ServiceError> {
///     Ok(format!("{id} on {shelf}"))
/// }
///
/// let node = Node::builder("goods").route("GET/shelves/{shelf}/goods/{id}", find);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

/// The arguments of the call as JSON text, unread; `null` when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawParams(pub String);

/// A value that the builder was given with `state`.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use node_sdk::{Node, ServiceError, State};
///
/// async fn count(calls: State<AtomicU64>) -> Result<u64, ServiceError> {
///     Ok(calls.fetch_add(1, Ordering::Relaxed))
/// }
///
/// let node = Node::builder("counter").state(AtomicU64::new(1)).route("GET/count", count);
/// ```
#[derive(Debug)]
pub struct State<T>(pub Arc<T>);

/// The time until which the caller waits: for the response, or for the stream to be open. Calls
/// made by the handler end a margin before it, a tenth of the time left and 100 ms at most.
///
/// ```
/// use std::time::Duration;
///
/// use node_sdk::{Deadline, Node, ServiceError};
///
/// async fn report(deadline: Deadline) -> Result<&'static str, ServiceError> {
///     let is_urgent = deadline.remaining().is_some_and(|left| left < Duration::from_secs(1));
///     Ok(if is_urgent { "a summary" } else { "all rows" })
/// }
///
/// let node = Node::builder("reports").route("GET/report", report);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

/// Who makes the call: its address, its instance and its name.
///
/// ```
/// use node_sdk::{Caller, Node, ServiceError};
///
/// async fn greet(caller: Caller) -> Result<String, ServiceError> {
///     let name = caller.name().unwrap_or_else(|| caller.address().to_string());
///     Ok(format!("Hello, {name}!"))
/// }
///
/// let node = Node::builder("hello").route("GET/hello", greet);
/// ```
#[derive(Clone, Debug)]
pub struct Caller {
    pub(crate) instance: Option<Arc<str>>,
    /// The name that it gives itself.
    pub(crate) stated_name: Option<Arc<str>>,
    pub(crate) address: SocketAddr,
    /// The known nodes, to find its name.
    pub(crate) peers: Option<Peers>,
    /// How many unread bytes it may have, if it is of version 1.
    pub(crate) read_window: usize,
    /// Bytes that wait in all streams of the caller.
    pub(crate) held_in_streams: Option<Arc<AtomicUsize>>,
}

impl<T: DeserializeOwned + Send + 'static> FromCall for Params<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let read = params::read(&call.params());
        // Arguments that were read without an error were JSON.
        call.verified.set(call.verified.get() || read.is_ok());
        read.map(Self).map_err(|error| ServiceError::bad_request("bad_params", error.to_string()))
    }

    fn optional(call: &IncomingCall<'_>) -> Result<Option<Self>, ServiceError> {
        let has_none = matches!(&*call.params(), "null" | "{}");
        if has_none { Ok(None) } else { Self::from_call(call).map(Some) }
    }
}

impl<T: DeserializeOwned + Send + 'static> FromCall for Path<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let read = params::read_path(call.route, call.captured);
        read.map(Self).map_err(|error| ServiceError::bad_request("bad_path", error.to_string()))
    }

    fn optional(call: &IncomingCall<'_>) -> Result<Option<Self>, ServiceError> {
        if call.captured.is_empty() { Ok(None) } else { Self::from_call(call).map(Some) }
    }
}

impl FromCall for RawParams {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self(call.params().into_owned()))
    }
}

impl<T: Send + Sync + 'static> FromCall for State<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let state = call.node.states.find();
        state.map(Self).ok_or_else(|| ServiceError::internal(format!("no state of type {}", type_name::<T>())))
    }

    /// `None` if the builder was given none.
    fn optional(call: &IncomingCall<'_>) -> Result<Option<Self>, ServiceError> {
        Ok(call.node.states.find().map(Self))
    }

    fn missing(given: &StateTypes<'_>) -> Option<Missing> {
        given.states.find::<T>().is_none().then(|| Missing::State(type_name::<T>()))
    }
}

impl FromCall for Peers {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(call.node.peers.clone())
    }
}

impl FromCall for Stop {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(call.node.stop.clone())
    }
}

impl FromCall for Deadline {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self(call.context.get().deadline))
    }
}

impl Deadline {
    /// How long the caller still waits; `None` when it has set no deadline.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

impl FromCall for Caller {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self { peers: Some(call.node.peers.clone()), ..call.caller.clone() })
    }
}

impl Caller {
    /// Where the call comes from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of the calling instance; version 1 callers have none.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// The name under which the caller has registered, if this node is told of that instance, and
    /// otherwise the name that the caller gives itself. Callers of version 1 have none. It is not
    /// authenticated: a process that can connect to this node can give itself any name.
    pub fn name(&self) -> Option<String> {
        let instance = self.instance.as_deref()?;
        let registered = self.peers.as_ref().and_then(|peers| peers.name_of(instance));
        registered.or_else(|| self.stated_name.as_deref().map(str::to_owned))
    }
}

impl FromCall for Trace {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let mut context = call.context.get();
        let trace = *context.trace.get_or_insert_with(Self::begin);
        call.context.set(context);
        Ok(trace)
    }
}

/// The route of the call, as it is registered: `GET/goods/{id}`.
impl FromCall for Route {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(call.route.clone())
    }
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::ops::Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
