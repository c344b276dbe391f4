//! Handlers: plain async functions whose arguments say what they need of a call.
//!
//! It must not read or write connections: the server begins and polls handlers, and passes on what
//! they write. Of `transport` it must import only `flow` and `limits`.

pub(crate) mod arguments;
pub(crate) mod call_stream;
pub(crate) mod event;
pub(crate) mod failed_call;
pub(crate) mod http;
pub(crate) mod invocation;
pub(crate) mod kept_call;
pub(crate) mod layer;
pub(crate) mod respond;
pub(crate) mod response_sink;
pub(crate) mod sockets;
pub(crate) mod stream;

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use protocol::{ClientRequest, Route, Version, WantedHeaders};
use serde_json::value::RawValue;

pub use self::arguments::{
    Argument, AsyncFromCall, Awaited, Caller, Deadline, Extension, Params, Path, RawParams, State,
};
use self::arguments::{Extensions, unless_refused};
use self::call_stream::CallStream;
pub use self::event::Event;
use self::event::IncomingEvent;
use self::http::Wants;
pub(crate) use self::invocation::{AnyHandler, erased};
pub use self::invocation::{HandlerWork, Next};
use crate::context::{Context, Stop};
use crate::error::ServiceError;
use crate::handler::kept_call::KeptCall;
use crate::peers::Peers;
use crate::routing::path_params;

/// A call, as a handler's arguments see it.
#[derive(Debug)]
pub struct IncomingCall<'a> {
    pub(crate) version: Version,
    pub(crate) params: Option<&'a str>,
    /// Whether the text of `params` was parsed without an error.
    pub(crate) verified: Cell<bool>,
    pub(crate) route: &'a Route,
    pub(crate) captured: &'a [&'a str],
    /// The context of the handler's work; an argument may begin its trace.
    pub(crate) context: &'a Cell<Context>,
    pub(crate) caller: &'a Caller,
    /// The state of the stream, if the caller takes one.
    pub(crate) call_stream: Option<&'a Arc<CallStream>>,
    /// The request of the client for which a gateway calls, if the route asks for it.
    pub(crate) client: Option<&'a ClientRequest<'a>>,
    /// The header fields that the route asks for, if it asks for the request.
    pub(crate) wanted: Option<&'a WantedHeaders>,
    /// The body of that request as it was sent, if the route takes it so.
    pub(crate) body: Option<&'a [u8]>,
    /// Whether that body follows in parts.
    pub(crate) body_follows: bool,
    /// Maximum bytes of that body.
    pub(crate) max_body: u64,
    /// The event, if the call is one.
    pub(crate) event: Option<IncomingEvent<'a>>,
    /// The layers and the handler that a layer wraps.
    pub(crate) next: RefCell<Option<Next>>,
    /// The values that guards and layers have handed on.
    pub(crate) extensions: RefCell<Extensions>,
    pub(crate) node: &'a Arc<NodeContext>,
}

/// The state that all calls of a node share.
#[derive(Debug)]
pub(crate) struct NodeContext {
    pub(crate) states: StateMap,
    pub(crate) peers: Peers,
    pub(crate) stop: Stop,
}

/// One value per type, shared by all calls.
#[derive(Debug, Default)]
pub(crate) struct StateMap(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

/// A type that a handler can have as an argument. Make types of your own from the existing ones. If
/// it has to be awaited, see [`Awaited`].
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
            `Route`, `Stop`, `Event`, `Items<T>`, `Extension<T>`, `HttpRequest`, `Headers`, \
            `Cookies`, `Bearer`, `ClientAddress`, `RawBody`, `BodyStream`, `Session`, `Option` and `Result<_, ServiceError>` \
            of these, and `Next` in a layer",
    note = "a type of your own is one if it implements `FromCall`; one that implements `AsyncFromCall` is `Awaited<T>`"
)]
pub trait FromCall: Sized + Send + 'static {
    /// Takes the argument from a call.
    ///
    /// # Errors
    /// The response, when the call lacks the argument.
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError>;

    /// Takes the argument as `Option<Self>`: `None` if the call lacks it. Unless a type says
    /// otherwise, a call lacks it if [`from_call`](Self::from_call) refuses the call with 4xx.
    /// [`Params`] and [`Path`] are only lacking if there are no parameters: what cannot be read is
    /// an error.
    ///
    /// # Errors
    /// The response, when the argument is there and wrong, or this node has a fault.
    fn optional(call: &IncomingCall<'_>) -> Result<Option<Self>, ServiceError> {
        unless_refused(Self::from_call(call))
    }

    /// Says what the argument reads of a client's [request](crate::HttpRequest). Gateways send a
    /// node only what the arguments of a route want. A type that is made of others, as above, wants
    /// what these want:
    ///
    /// ```
    /// # use node_sdk::{Cookies, FromCall, IncomingCall, ServiceError, Wants};
    /// /// Who is signed in.
    /// struct User(String);
    ///
    /// impl FromCall for User {
    ///     fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
    ///         let cookies = Cookies::from_call(call)?;
    ///         let user = cookies.get("user").map(|name| Self(name.to_owned()));
    ///         user.ok_or_else(|| ServiceError::new(401, "sign_in", "sign in first"))
    ///     }
    ///
    ///     fn wants(wants: &mut Wants) {
    ///         Cookies::wants(wants);
    ///     }
    /// }
    /// ```
    fn wants(_wants: &mut Wants) {}

    /// What this argument needs and the node lacks. Checked at start.
    #[doc(hidden)]
    fn missing(_given: &StateTypes<'_>) -> Option<Missing> {
        None
    }

    /// Whether it may have to be awaited: see [`Awaited`].
    #[doc(hidden)]
    const IS_AWAITED: bool = false;

    /// Takes the argument from a call, or begins to.
    #[doc(hidden)]
    fn begin_from_call(call: &IncomingCall<'_>) -> Result<Argument<Self>, ServiceError> {
        Self::from_call(call).map(Argument::Read)
    }

    /// Takes the argument as `Option<Self>`, or begins to.
    #[doc(hidden)]
    fn begin_optional(call: &IncomingCall<'_>) -> Result<Argument<Option<Self>>, ServiceError> {
        Self::optional(call).map(Argument::Read)
    }
}

/// The argument if the call has it: see [`FromCall::optional`].
impl<T: FromCall> FromCall for Option<T> {
    const IS_AWAITED: bool = T::IS_AWAITED;

    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        T::optional(call)
    }

    fn wants(wants: &mut Wants) {
        T::wants(wants);
    }

    fn begin_from_call(call: &IncomingCall<'_>) -> Result<Argument<Self>, ServiceError> {
        T::begin_optional(call)
    }

    fn begin_optional(call: &IncomingCall<'_>) -> Result<Argument<Option<Self>>, ServiceError> {
        Argument::optional(Self::begin_from_call(call))
    }
}

/// The argument, or why the call has none: the handler decides whether it answers with the error.
impl<T: FromCall> FromCall for Result<T, ServiceError> {
    const IS_AWAITED: bool = T::IS_AWAITED;

    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Ok(T::from_call(call))
    }

    fn wants(wants: &mut Wants) {
        T::wants(wants);
    }

    fn missing(given: &StateTypes<'_>) -> Option<Missing> {
        T::missing(given)
    }

    fn begin_from_call(call: &IncomingCall<'_>) -> Result<Argument<Self>, ServiceError> {
        Ok(Argument::result(T::begin_from_call(call)))
    }

    fn begin_optional(call: &IncomingCall<'_>) -> Result<Argument<Option<Self>>, ServiceError> {
        Argument::optional(Self::begin_from_call(call))
    }
}

/// What an argument can have besides the call: the types of state of the node, and the values that
/// the guards before it hand on.
#[derive(Clone, Debug)]
pub struct StateTypes<'a> {
    pub(crate) states: &'a StateMap,
    extensions: Vec<TypeId>,
    /// Whether a layer stands before it, which may hand on anything.
    has_layer: bool,
}

/// What an argument needs and the node lacks, by its type.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A state, which the builder was not given.
    State(&'static str),
    /// A value of a guard, of which none stands before it.
    Extension(&'static str),
}

impl<'a> StateTypes<'a> {
    pub(crate) fn new(states: &'a StateMap) -> Self {
        Self { states, extensions: Vec::new(), has_layer: false }
    }

    /// As behind a guard, which may hand on a value.
    pub(crate) fn behind_guard(&self, value: Option<TypeId>) -> Self {
        let mut behind = self.clone();
        behind.extensions.extend(value);
        behind
    }

    /// As behind a layer.
    pub(crate) fn behind_layer(&self) -> Self {
        Self { has_layer: true, ..self.clone() }
    }

    pub(crate) fn has_extension(&self, value: TypeId) -> bool {
        self.has_layer || self.extensions.contains(&value)
    }
}

/// An async function that can answer calls: with up to eight arguments that are [`FromCall`], and a
/// `Result` with anything that is a [`Respond`](crate::Respond).
#[diagnostic::on_unimplemented(
    message = "this function cannot handle calls",
    note = "a handler is `async fn(...) -> Result<T, E>` with arguments such as `Params<T>`, `State<T>` and `Peers`, \
            `T: Serialize` and `E: Into<ServiceError>`; what it keeps over an `.await` must be `Send`"
)]
pub trait Handler<Arguments>: Clone + Send + Sync + 'static {
    /// Whether an argument may have to be awaited.
    #[doc(hidden)]
    const IS_AWAITED: bool;

    /// Begins to answer a call.
    #[doc(hidden)]
    fn begin(&self, call: &IncomingCall<'_>) -> Result<HandlerWork, ServiceError>;

    /// What the arguments read of a client's request.
    #[doc(hidden)]
    fn wants(wants: &mut Wants);

    /// What an argument needs and the node lacks.
    #[doc(hidden)]
    fn missing(given: &StateTypes<'_>) -> Option<Missing>;

    /// The type of the value that it hands on as a guard.
    #[doc(hidden)]
    fn provides() -> Option<TypeId>;
}

impl IncomingCall<'_> {
    /// Copies the call, so that its handler can begin later.
    ///
    /// # Errors
    /// The arguments turn out not to be JSON: the packet has to be parsed before anything is done.
    pub(crate) fn keep(&self) -> Result<KeptCall, ServiceError> {
        self.verify()?;
        Ok(KeptCall::new(self))
    }

    /// Checks that the arguments are JSON, unless that is known.
    fn verify(&self) -> Result<(), ServiceError> {
        let is_json = self.verified.get() || serde_json::from_str::<&RawValue>(self.params.unwrap_or("null")).is_ok();
        self.verified.set(is_json);
        is_json.then_some(()).ok_or_else(|| ServiceError::bad_request("bad_params", "the arguments are not JSON"))
    }

    /// Runs `act` in the context of the call.
    fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut context = self.context.get();
        let done = context.enter(act);
        self.context.set(context);
        done
    }

    pub(crate) fn params(&self) -> Cow<'_, str> {
        path_params::of_call(self.version, self.params, self.route, self.captured)
    }
}

impl StateMap {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), state);
    }

    pub(crate) fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get(&TypeId::of::<T>())?).downcast().ok()
    }
}
