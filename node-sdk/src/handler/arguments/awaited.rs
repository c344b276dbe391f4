//! Arguments that are awaited before their handler begins.

use std::any::type_name;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::error::ServiceError;
use crate::handler::http::Wants;
use crate::handler::{FromCall, IncomingCall, Missing, StateTypes};

/// An argument that is awaited before the handler begins: what a database or another node has to be
/// asked for. Its type is an [`AsyncFromCall`].
///
/// A handler with such an argument has its arguments one after the other, in their order: the first
/// that fails is the response. The time is that of the call, and a call that is cancelled drops the
/// future. Each such handler costs a copy of the call; handlers without one pay nothing.
///
/// Two handlers or guards that take the same type find it out twice. What one guard finds out for
/// all is an [`Extension`](crate::Extension).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited<T>(pub T);

/// A type that a handler can have as an argument as [`Awaited<T>`](Awaited). It is made from other
/// arguments: one, or a tuple of up to eight, which may be awaited themselves.
///
/// ```
/// use node_sdk::{AsyncFromCall, Awaited, Cookies, Node, OrRefuse, Peers, ServiceError};
///
/// #[derive(serde::Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// impl AsyncFromCall for User {
///     type Arguments = (Cookies, Peers);
///
///     async fn from_arguments((cookies, peers): Self::Arguments) -> Result<Self, ServiceError> {
///         let session = cookies.get("session").unwrap_or_default();
///         let user = peers.call("GET/sessions/user", &session).await;
///         user.or_refuse(401, "sign_in", "sign in first")
///     }
/// }
///
/// async fn greet(Awaited(user): Awaited<User>) -> Result<String, ServiceError> {
///     Ok(format!("Hello, {}!", user.name))
/// }
///
/// let node = Node::builder("hello").route("GET/hello", greet).public();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not made by awaiting",
    note = "`Awaited<T>` is for a `T` that implements `AsyncFromCall`; other arguments are taken as they are"
)]
pub trait AsyncFromCall: Sized + Send + 'static {
    /// The argument, or the tuple of arguments, from which it is made.
    type Arguments: FromCall;

    /// Makes the argument.
    ///
    /// # Errors
    /// The response, when the call lacks the argument. `Option<Awaited<Self>>` is `None` if it is
    /// 4xx.
    fn from_arguments(arguments: Self::Arguments) -> impl Future<Output = Result<Self, ServiceError>> + Send;
}

impl<T: AsyncFromCall> FromCall for Awaited<T> {
    const IS_AWAITED: bool = true;

    fn from_call(_call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        Err(ServiceError::internal(format!(
            "{} has to be awaited: take it as an argument of a handler, or among the `Arguments` of an AsyncFromCall",
            type_name::<T>()
        )))
    }

    fn wants(wants: &mut Wants) {
        T::Arguments::wants(wants);
    }

    fn missing(given: &StateTypes<'_>) -> Option<Missing> {
        T::Arguments::missing(given)
    }

    fn begin_from_call(call: &IncomingCall<'_>) -> Result<Argument<Self>, ServiceError> {
        let arguments = T::Arguments::begin_from_call(call)?;
        Ok(Argument::awaited(async move { T::from_arguments(arguments.get().await?).await.map(Self) }))
    }

    fn begin_optional(call: &IncomingCall<'_>) -> Result<Argument<Option<Self>>, ServiceError> {
        Argument::optional(Self::begin_from_call(call))
    }
}

/// An argument that has been read from a call, or is awaited.
#[doc(hidden)]
pub enum Argument<T> {
    /// It is there.
    Read(T),
    /// It is not there yet.
    Awaited(Pin<Box<dyn Future<Output = Result<T, ServiceError>> + Send>>),
}

impl<T: Send + 'static> Argument<T> {
    fn awaited(future: impl Future<Output = Result<T, ServiceError>> + Send + 'static) -> Self {
        Self::Awaited(Box::pin(future))
    }

    /// Waits for it. Cancel safe.
    ///
    /// # Errors
    /// The response, when the call lacks the argument.
    pub async fn get(self) -> Result<T, ServiceError> {
        match self {
            Self::Read(argument) => Ok(argument),
            Self::Awaited(future) => future.await,
        }
    }

    /// `None` in place of a refusal with 4xx.
    pub(crate) fn optional(begun: Result<Self, ServiceError>) -> Result<Argument<Option<T>>, ServiceError> {
        match begun {
            Ok(Self::Read(argument)) => Ok(Argument::Read(Some(argument))),
            Ok(Self::Awaited(future)) => Ok(Argument::awaited(async { unless_refused(future.await) })),
            Err(error) => unless_refused(Err(error)).map(Argument::Read),
        }
    }

    /// The error as a value.
    pub(crate) fn result(begun: Result<Self, ServiceError>) -> Argument<Result<T, ServiceError>> {
        match begun {
            Ok(Self::Read(argument)) => Argument::Read(Ok(argument)),
            Ok(Self::Awaited(future)) => Argument::awaited(async { Ok(future.await) }),
            Err(error) => Argument::Read(Err(error)),
        }
    }
}

impl<T> fmt::Debug for Argument<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Argument")
    }
}

/// `None` in place of a refusal with 4xx: the call lacks the argument.
pub(crate) fn unless_refused<T>(read: Result<T, ServiceError>) -> Result<Option<T>, ServiceError> {
    match read {
        Ok(argument) => Ok(Some(argument)),
        Err(error) if error.status < 500 => Ok(None),
        Err(error) => Err(error),
    }
}

macro_rules! tuples {
    ($($argument:ident)*) => {
        /// Several arguments at once.
        impl<$($argument: FromCall),*> FromCall for ($($argument,)*) {
            const IS_AWAITED: bool = false $(|| $argument::IS_AWAITED)*;

            fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
                Ok(($($argument::from_call(call)?,)*))
            }

            fn wants(wants: &mut Wants) {
                $($argument::wants(wants);)*
            }

            fn missing(given: &StateTypes<'_>) -> Option<Missing> {
                None$(.or_else(|| $argument::missing(given)))*
            }

            fn begin_from_call(call: &IncomingCall<'_>) -> Result<Argument<Self>, ServiceError> {
                if !Self::IS_AWAITED {
                    return Self::from_call(call).map(Argument::Read);
                }
                #[expect(non_snake_case, reason = "each value has the name of its type")]
                let ($($argument,)*) = ($($argument::begin_from_call(call)?,)*);
                Ok(Argument::awaited(async move { Ok(($($argument.get().await?,)*)) }))
            }

            fn begin_optional(call: &IncomingCall<'_>) -> Result<Argument<Option<Self>>, ServiceError> {
                Argument::optional(Self::begin_from_call(call))
            }
        }
    };
}

tuples!(A1);
tuples!(A1 A2);
tuples!(A1 A2 A3);
tuples!(A1 A2 A3 A4);
tuples!(A1 A2 A3 A4 A5);
tuples!(A1 A2 A3 A4 A5 A6);
tuples!(A1 A2 A3 A4 A5 A6 A7);
tuples!(A1 A2 A3 A4 A5 A6 A7 A8);
