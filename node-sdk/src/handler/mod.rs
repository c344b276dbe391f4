//! Handlers: plain async functions whose arguments say what they need of a call.

pub(crate) mod layer;
pub(crate) mod params;
pub(crate) mod respond;
pub(crate) mod service_macro;
pub(crate) mod stream;

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use protocol::{Route, Version};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use self::layer::{Next, Outcome};
use self::respond::Respond;
use self::stream::{CallStream, Parts};
use crate::context::{Context, Trace};
use crate::error::ServiceError;
use crate::peers::Peers;
use crate::server::response_queue::ResponseSink;

/// A handler at work.
pub(crate) type RunningHandler = Pin<Box<dyn PollHandler>>;

/// Work that ends with an answer.
pub(crate) trait PollHandler: Send {
    /// Goes on with the work; when it is done its answer is in `sink`.
    fn poll_answer(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress>;

    /// The same for layers, which see the answer before its caller does.
    fn poll_outcome(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<Outcome, ServiceError>>;
}

/// How far the work on a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteProgress {
    /// The whole answer is there.
    Done,
    /// Something of it is there, to be sent before the work goes on.
    More,
}

/// A call that came in, as extractors see it.
#[derive(Debug)]
pub struct IncomingCall<'a> {
    pub(crate) version: Version,
    pub(crate) params: Option<&'a str>,
    /// The text of `params` has been read, so it is JSON.
    pub(crate) verified: Cell<bool>,
    pub(crate) route: &'a Route,
    pub(crate) captured: &'a [&'a str],
    pub(crate) context: &'a Context,
    pub(crate) caller: &'a Caller,
    /// What makes it a stream, if its caller takes one.
    pub(crate) call_stream: Option<&'a Arc<CallStream>>,
    /// For a layer: what it is around.
    pub(crate) next: RefCell<Option<Next>>,
    pub(crate) node: &'a NodeContext,
}

/// What all calls of a node have in common.
#[derive(Debug)]
pub(crate) struct NodeContext {
    pub(crate) states: StateMap,
    pub(crate) peers: Peers,
}

/// One value per type, shared by all calls.
#[derive(Debug, Default)]
pub(crate) struct StateMap(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

/// A type that a handler can have as an argument. One of your own is made of those that are there:
///
/// ```no_run
/// use node_sdk::{Caller, FromCall, IncomingCall, ServiceError};
///
/// /// The name under which the caller is registered.
/// struct Tenant(String);
///
/// impl FromCall for Tenant {
///     fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
///         let name = Caller::from_call(call)?.name();
///         name.map(Self).ok_or_else(|| ServiceError::new(401, "unknown_caller", "register first"))
///     }
/// }
///
/// async fn quota(Tenant(name): Tenant) -> Result<usize, ServiceError> {
///     Ok(name.len())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    note = "arguments of handlers are `Params<T>`, `Path<T>`, `RawParams`, `State<T>`, `Peers`, `Deadline`, `Caller`, `Trace`, \
            `Route`, `Items<T>`, and `Next` in a layer"
)]
pub trait FromCall: Sized {
    /// Takes the argument from a call.
    ///
    /// # Errors
    /// What the caller is told when the call does not have it.
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError>;

    /// The type of state that this argument wants and `states` does not have, to be found at start.
    #[doc(hidden)]
    fn missing(_states: &StateTypes<'_>) -> Option<&'static str> {
        None
    }
}

/// The types of state that a node has.
#[derive(Debug)]
pub struct StateTypes<'a>(pub(crate) &'a StateMap);

/// The call's arguments, read as a `T`: its `params`, and what the path says where they leave that out. Numbers and truth
/// values may come as text, as they do from a query string.
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

/// What the parameters of the route took from the path: `Path<u64>` for `GET/goods/{id}`, `Path<(u64, String)>` for two of
/// them in their order, or a type with members of their names.
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

/// The call's arguments as JSON text, unread: `null` when there are none.
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

/// Until when the caller waits. Calls made by the handler keep to it by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) address: SocketAddr,
    /// Those among whom it may be found.
    pub(crate) peers: Option<Peers>,
    /// Bytes that wait in its streams.
    pub(crate) held_in_streams: Option<Arc<AtomicUsize>>,
}

/// An async function that can answer calls: up to eight arguments that are [`FromCall`], and a `Result` with anything that
/// is a [`Respond`].
#[diagnostic::on_unimplemented(
    message = "this function cannot handle calls",
    note = "a handler is `async fn(...) -> Result<T, E>` with arguments such as `Params<T>`, `State<T>` and `Peers`, \
            `T: Serialize` and `E: Into<ServiceError>`; what it keeps over an `.await` must be `Send`"
)]
pub trait Handler<Arguments>: Clone + Send + Sync + 'static {
    /// Begins to answer a call, or says why not.
    #[doc(hidden)]
    fn begin(&self, call: &IncomingCall<'_>) -> Result<HandlerWork, ServiceError>;

    /// The type of state that an argument wants and is not there.
    #[doc(hidden)]
    fn missing(states: &StateTypes<'_>) -> Option<&'static str>;
}

/// A handler at work.
#[doc(hidden)]
pub struct HandlerWork(pub(crate) RunningHandler);

/// A handler whose types are no longer known.
pub(crate) trait AnyHandler: Send + Sync {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError>;
    fn missing(&self, states: &StateMap) -> Option<&'static str>;
}

/// Forgets the types of a handler.
pub(crate) fn boxed<A: 'static, H: Handler<A>>(handler: H) -> Box<dyn AnyHandler> {
    Box::new(TypedHandler { handler, arguments: std::marker::PhantomData })
}

struct TypedHandler<A, H> {
    handler: H,
    arguments: std::marker::PhantomData<fn() -> A>,
}

impl<A, H: Handler<A>> AnyHandler for TypedHandler<A, H> {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        self.handler.begin(call).map(|work| work.0)
    }

    fn missing(&self, states: &StateMap) -> Option<&'static str> {
        H::missing(&StateTypes(states))
    }
}

pin_project! {
    /// What a handler's function has begun. One allocation for the whole call.
    struct Invocation<F> {
        #[pin]
        future: F,
        // Once the function has returned a stream.
        parts: Option<Parts>,
    }
}

impl<F, T, E> PollHandler for Invocation<F>
where
    F: Future<Output = Result<T, E>> + Send,
    T: Respond,
    E: Into<ServiceError>,
{
    fn poll_answer(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        let this = self.project();
        if let Some(parts) = this.parts {
            return sink.poll_parts(parts, task);
        }
        match ready!(this.future.poll(task)).map(Respond::into_parts) {
            Ok(Ok(parts)) if sink.open() => return sink.poll_parts(this.parts.insert(parts), task),
            Ok(Ok(_parts)) => sink.failure(&ServiceError::new(406, "stream", "the answer is a stream; open one")),
            Ok(Err(result)) => sink.success(result.status(), |out| respond::append(&result, out)),
            Err(error) => sink.failure(&error.into()),
        }
        Poll::Ready(WriteProgress::Done)
    }

    fn poll_outcome(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<Outcome, ServiceError>> {
        Poll::Ready(ready!(self.project().future.poll(task)).map_err(Into::into).and_then(Outcome::from_result))
    }
}

macro_rules! handlers {
    ($($argument:ident)*) => {
        impl<F, Fut, T, E, $($argument),*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<T, E>> + Send + 'static,
            T: Respond,
            E: Into<ServiceError>,
            $($argument: FromCall,)*
        {
            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn begin(&self, call: &IncomingCall<'_>) -> Result<HandlerWork, ServiceError> {
                let future = self($($argument::from_call(call)?),*);
                Ok(HandlerWork(Box::pin(Invocation { future, parts: None })))
            }

            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn missing(states: &StateTypes<'_>) -> Option<&'static str> {
                None$(.or_else(|| $argument::missing(states)))*
            }
        }
    };
}

handlers!();
handlers!(A1);
handlers!(A1 A2);
handlers!(A1 A2 A3);
handlers!(A1 A2 A3 A4);
handlers!(A1 A2 A3 A4 A5);
handlers!(A1 A2 A3 A4 A5 A6);
handlers!(A1 A2 A3 A4 A5 A6 A7);
handlers!(A1 A2 A3 A4 A5 A6 A7 A8);

impl IncomingCall<'_> {
    fn params(&self) -> Cow<'_, str> {
        params::of_call(self.version, self.params, self.route, self.captured)
    }
}

impl<T: DeserializeOwned> FromCall for Params<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let read = params::read(&call.params());
        // Whatever has been read without a complaint was JSON.
        call.verified.set(call.verified.get() || read.is_ok());
        read.map(Self).map_err(|error| ServiceError::bad_request("bad_params", error.to_string()))
    }
}

impl<T: DeserializeOwned> FromCall for Path<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let read = params::read_path(call.route, call.captured);
        read.map(Self).map_err(|error| ServiceError::bad_request("bad_path", error.to_string()))
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

    fn missing(states: &StateTypes<'_>) -> Option<&'static str> {
        states.0.find::<T>().is_none().then(type_name::<T>)
    }
}

impl FromCall for Peers {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(call.node.peers.clone())
    }
}

impl FromCall for Deadline {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(Self(call.context.deadline))
    }
}

impl Deadline {
    /// How long the caller still waits; `None` when it has not said.
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

    /// The id of the instance that calls; old callers have none.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Under which name it has registered, as far as is known. Nobody has proved that it is who it says it is.
    pub fn name(&self) -> Option<String> {
        self.peers.as_ref()?.name_of(self.instance.as_deref()?)
    }
}

impl FromCall for Trace {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(call.context.trace.clone().unwrap_or_else(Self::begin))
    }
}

/// The route that the call was found by, as it is registered: `GET/goods/{id}`.
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

impl StateMap {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), state);
    }

    fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get(&TypeId::of::<T>())?).downcast().ok()
    }
}
