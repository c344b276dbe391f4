//! Handlers: plain async functions whose arguments say what they need of a call.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::ServiceError;
use crate::params;
use crate::peers::Peers;

/// What a handler gives in the end: JSON text, or why not.
pub(crate) type Reply = Result<String, ServiceError>;
/// A handler at work.
pub(crate) type Running = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A call that came in, as extractors see it.
#[derive(Debug)]
pub struct Incoming<'a> {
    params: Option<&'a RawValue>,
    surroundings: &'a Surroundings,
}

/// What all calls of a node have in common.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) states: States,
    pub(crate) peers: Peers,
}

/// One value per type, shared by all calls.
#[derive(Debug, Default)]
pub(crate) struct States(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

/// A type that a handler can have as an argument.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    note = "arguments of handlers are `Params<T>`, `State<T>` and `Peers`"
)]
pub trait FromCall: Sized {
    /// Takes the argument from a call.
    ///
    /// # Errors
    /// What the caller is told when the call does not have it.
    fn from_call(call: &Incoming<'_>) -> Result<Self, ServiceError>;

    /// The type of state that this argument wants and `states` does not have, to be found at start.
    #[doc(hidden)]
    fn missing(_states: &StateTypes<'_>) -> Option<&'static str> {
        None
    }
}

/// The types of state that a node has.
#[derive(Debug)]
pub struct StateTypes<'a>(pub(crate) &'a States);

/// The call's arguments, read as a `T`. Numbers and truth values may come as text, as they do from a query string.
#[derive(Clone, Copy, Debug)]
pub struct Params<T>(pub T);

/// A value that the builder was given with `state`.
#[derive(Debug)]
pub struct State<T>(pub Arc<T>);

/// An async function that can answer calls: up to six arguments that are [`FromCall`], and a `Result` with anything that
/// has a JSON form.
#[diagnostic::on_unimplemented(
    message = "this function cannot handle calls",
    note = "a handler is `async fn(...) -> Result<T, ServiceError>` with arguments `Params<T>`, `State<T>`, `Peers`, and `T: Serialize`"
)]
pub trait Handler<Arguments>: Clone + Send + Sync + 'static {
    /// Begins to answer a call, or says why not.
    #[doc(hidden)]
    fn begin(&self, call: &Incoming<'_>) -> Result<Running, ServiceError>;

    /// The type of state that an argument wants and is not there.
    #[doc(hidden)]
    fn missing(states: &StateTypes<'_>) -> Option<&'static str>;
}

/// A handler whose types are no longer known.
pub(crate) trait AnyHandler: Send + Sync {
    fn begin(&self, call: &Incoming<'_>) -> Result<Running, ServiceError>;
    fn missing(&self, states: &States) -> Option<&'static str>;
}

/// Forgets the types of a handler.
pub(crate) fn boxed<A: 'static, H: Handler<A>>(handler: H) -> Box<dyn AnyHandler> {
    Box::new(Typed { handler, arguments: std::marker::PhantomData })
}

struct Typed<A, H> {
    handler: H,
    arguments: std::marker::PhantomData<fn() -> A>,
}

impl<A, H: Handler<A>> AnyHandler for Typed<A, H> {
    fn begin(&self, call: &Incoming<'_>) -> Result<Running, ServiceError> {
        self.handler.begin(call)
    }

    fn missing(&self, states: &States) -> Option<&'static str> {
        H::missing(&StateTypes(states))
    }
}

macro_rules! handlers {
    ($($argument:ident)*) => {
        impl<F, Fut, T, E, $($argument),*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<T, E>> + Send + 'static,
            T: Serialize,
            E: Into<ServiceError>,
            $($argument: FromCall,)*
        {
            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn begin(&self, call: &Incoming<'_>) -> Result<Running, ServiceError> {
                let future = self($($argument::from_call(call)?),*);
                Ok(Box::pin(async move {
                    let result = future.await.map_err(Into::into)?;
                    serde_json::to_string(&result)
                        .map_err(|error| ServiceError::internal(format!("the result has no JSON form: {error}")))
                }))
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

impl<'a> Incoming<'a> {
    pub(crate) fn new(params: Option<&'a RawValue>, surroundings: &'a Surroundings) -> Self {
        Self { params, surroundings }
    }
}

impl<T: DeserializeOwned> FromCall for Params<T> {
    fn from_call(call: &Incoming<'_>) -> Result<Self, ServiceError> {
        let read = params::read(call.params);
        read.map(Self).map_err(|error| ServiceError::bad_request("bad_params", error.to_string()))
    }
}

impl<T: Send + Sync + 'static> FromCall for State<T> {
    fn from_call(call: &Incoming<'_>) -> Result<Self, ServiceError> {
        let state = call.surroundings.states.find();
        state.map(Self).ok_or_else(|| ServiceError::internal(format!("no state of type {}", type_name::<T>())))
    }

    fn missing(states: &StateTypes<'_>) -> Option<&'static str> {
        states.0.find::<T>().is_none().then(type_name::<T>)
    }
}

impl FromCall for Peers {
    fn from_call(call: &Incoming<'_>) -> Result<Self, ServiceError> {
        Ok(call.surroundings.peers.clone())
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

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, state: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), state);
    }

    fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get(&TypeId::of::<T>())?).downcast().ok()
    }
}
