//! Values that guards and layers hand to what they stand before.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use crate::error::ServiceError;
use crate::handler::respond::Respond;
use crate::handler::{FromCall, IncomingCall, Missing, StateTypes};

/// A value that a guard hands to the guards, layers and the handler behind it. The guard returns
/// it, and the others take it as an argument, each a clone of its own. So what the guard has found
/// out, such as who the user is, is found out once. One value per type: a later one replaces it.
///
/// A node does not start whose handler takes a value that no guard before it returns. A layer hands
/// values on by [`Next::with`](crate::Next::with); behind a layer only a call shows that a value is
/// missing, as a 500.
///
/// ```
/// use node_sdk::{Extension, Node, Params, Peers, ServiceError};
///
/// #[derive(Clone, serde::Deserialize)]
/// struct User {
///     name: String,
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Login {
///     token: String,
/// }
///
/// async fn signed_in(
///     Params(login): Params<Login>,
///     peers: Peers,
/// ) -> Result<Extension<User>, ServiceError> {
///     let user = peers.call("GET/users/by-token", &login.token).await;
///     user.map(Extension).map_err(|_| ServiceError::new(401, "unknown_token", "sign in first"))
/// }
///
/// async fn greet(Extension(user): Extension<User>) -> Result<String, ServiceError> {
///     Ok(format!("Hello, {}!", user.name))
/// }
///
/// let node = Node::builder("hello").guard(signed_in).route("GET/hello", greet);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<T>(pub T);

/// A value of any type.
#[doc(hidden)]
#[derive(Clone)]
pub struct ExtensionValue(Arc<dyn Any + Send + Sync>);

/// The values of one call; the newest last. Most calls have none.
pub(crate) type Extensions = Vec<ExtensionValue>;

impl ExtensionValue {
    pub(crate) fn new<T: Send + Sync + 'static>(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl fmt::Debug for ExtensionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExtensionValue")
    }
}

impl<T: Clone + Send + Sync + 'static> FromCall for Extension<T> {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let value = find(call);
        value.map(Self).ok_or_else(|| {
            ServiceError::internal(format!("no guard or layer has handed on a value of type {}", type_name::<T>()))
        })
    }

    /// `None` if no guard or layer has handed one on.
    fn optional(call: &IncomingCall<'_>) -> Result<Option<Self>, ServiceError> {
        Ok(find(call).map(Self))
    }

    fn missing(given: &StateTypes<'_>) -> Option<Missing> {
        (!given.has_extension(TypeId::of::<T>())).then(|| Missing::Extension(type_name::<T>()))
    }
}

fn find<T: Clone + 'static>(call: &IncomingCall<'_>) -> Option<T> {
    let values = call.extensions.borrow();
    values.iter().rev().find_map(|value| value.0.downcast_ref::<T>()).cloned()
}

/// As the result of a handler, it is a response without a body: it is for guards.
impl<T: Clone + Send + Sync + 'static> Respond for Extension<T> {
    fn status(&self) -> u16 {
        204
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        out.extend_from_slice(b"null");
        Ok(())
    }

    fn extension(&self) -> Option<ExtensionValue> {
        Some(ExtensionValue::new(self.0.clone()))
    }

    fn provides() -> Option<TypeId> {
        Some(TypeId::of::<T>())
    }
}
