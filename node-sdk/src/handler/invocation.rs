//! A running handler of any type: one allocation for the whole call.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use crate::context::Context;
use crate::error::ServiceError;
use crate::handler::arguments::extension::ExtensionValue;
use crate::handler::call_stream::Parts;
use crate::handler::http::Wants;
use crate::handler::kept_call::{AwaitedCall, KeptCall};
use crate::handler::respond::{Outcome, Respond};
use crate::handler::response_sink::{ResponseSink, WriteProgress};
use crate::handler::{FromCall, Handler, IncomingCall, Missing, StateTypes};

/// A running handler.
pub(crate) type RunningHandler = Pin<Box<dyn PollHandler>>;

/// Work that ends with a response.
pub(crate) trait PollHandler: Send {
    /// Polls the work. When it is done, the response is in `sink`.
    fn poll_response(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress>;

    /// Does the same for layers, which see the response before the caller does.
    fn poll_outcome(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<Outcome, ServiceError>>;
}

/// A running handler.
#[doc(hidden)]
pub struct HandlerWork(pub(crate) RunningHandler);

/// A handler with erased types.
pub(crate) trait AnyHandler: Send + Sync {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError>;
    /// Adds what its arguments read of a client's request.
    fn wants(&self, wants: &mut Wants);
    /// What an argument needs and the node lacks.
    fn missing(&self, given: &StateTypes<'_>) -> Option<Missing>;
    /// The type of the value that it hands on as a guard.
    fn provides(&self) -> Option<TypeId>;
}

/// Erases the types of a handler.
pub(crate) fn erased<A: 'static, H: Handler<A>>(handler: H) -> Arc<dyn AnyHandler> {
    Arc::new(TypedHandler { handler, arguments: std::marker::PhantomData })
}

struct TypedHandler<A, H> {
    handler: H,
    arguments: std::marker::PhantomData<fn() -> A>,
}

impl<A, H: Handler<A>> AnyHandler for TypedHandler<A, H> {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        self.handler.begin(call).map(|work| work.0)
    }

    fn wants(&self, wants: &mut Wants) {
        H::wants(wants);
    }

    fn missing(&self, given: &StateTypes<'_>) -> Option<Missing> {
        H::missing(given)
    }

    fn provides(&self) -> Option<TypeId> {
        H::provides()
    }
}

/// What a [layer](crate::NodeBuilder::layer) wraps: the layers inside it, and the handler. An
/// argument of the layer's function. A layer that drops it answers in place of the handler. Nothing
/// inside of a layer begins, and no argument is read, before the layer runs it.
pub struct Next {
    inner: Arc<dyn AnyHandler>,
    call: KeptCall,
}

impl Next {
    pub(crate) fn new(inner: Arc<dyn AnyHandler>, call: KeptCall) -> Self {
        Self { inner, call }
    }

    /// Hands a value to what it wraps, which takes it as an [`Extension`](crate::Extension).
    #[must_use = "nothing is run yet"]
    pub fn with<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.call.extend(Some(ExtensionValue::new(value)));
        self
    }

    /// Runs the inner layers and the handler, and returns their response. Cancel safe: the handler
    /// is dropped.
    ///
    /// # Errors
    /// The error of the handler, or why it could not begin.
    pub async fn run(self) -> Result<Outcome, ServiceError> {
        let mut running = self.call.begin(&*self.inner)?;
        poll_fn(|task| running.as_mut().poll_outcome(task)).await
    }
}

impl FromCall for Next {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let next = call.next.borrow_mut().take();
        next.ok_or_else(|| ServiceError::internal("only a layer can take Next, and only once"))
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

pin_project! {
    /// The future of a handler's function. One allocation for the whole call.
    struct Invocation<F> {
        #[pin]
        future: F,
        // The function has returned a stream.
        parts: Option<Parts>,
    }
}

impl<F, T, E> PollHandler for Invocation<F>
where
    F: Future<Output = Result<T, E>> + Send,
    T: Respond,
    E: Into<ServiceError>,
{
    fn poll_response(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        sink: &mut ResponseSink<'_>,
    ) -> Poll<WriteProgress> {
        let this = self.project();
        if let Some(parts) = this.parts {
            return sink.poll_parts(parts, task);
        }
        match ready!(this.future.poll(task)).map(Respond::into_parts) {
            Ok(Ok(mut parts)) => {
                if sink.open(&mut parts) {
                    Context::open_stream();
                    return sink.poll_parts(this.parts.insert(parts), task);
                }
            }
            Ok(Err(result)) => sink.result(&result),
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
            const IS_AWAITED: bool = false $(|| $argument::IS_AWAITED)*;

            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn begin(&self, call: &IncomingCall<'_>) -> Result<HandlerWork, ServiceError> {
                if Self::IS_AWAITED {
                    #[allow(unused_mut, reason = "a handler may have no arguments")]
                    let (handler, mut call) = (self.clone(), AwaitedCall::new(call)?);
                    let future = async move {
                        // Each argument is read when those before it are there.
                        let future = handler($(call.begin::<$argument>()?.get().await?),*);
                        drop(call);
                        future.await.map_err(Into::into)
                    };
                    return Ok(HandlerWork(Box::pin(Invocation { future, parts: None })));
                }
                let future = self($($argument::from_call(call)?),*);
                Ok(HandlerWork(Box::pin(Invocation { future, parts: None })))
            }

            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn wants(wants: &mut Wants) {
                $($argument::wants(wants);)*
                T::wants(wants);
            }

            #[allow(unused_variables, reason = "a handler may have no arguments")]
            fn missing(given: &StateTypes<'_>) -> Option<Missing> {
                None$(.or_else(|| $argument::missing(given)))*
            }

            fn provides() -> Option<TypeId> {
                T::provides()
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
