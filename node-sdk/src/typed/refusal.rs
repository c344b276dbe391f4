//! The errors of a service that its callers read back.

use thiserror::Error;

use crate::error::{CallError, ServiceError};
use crate::handler::failed_call::OrRefuse;

/// The errors of a typed service, or of a plain handler: an enum of which each variant is a status,
/// a word and a text. Callers of a [`service`](crate::service) get the variant back. Derive
/// it:
#[cfg_attr(feature = "macros", doc = "```")]
#[cfg_attr(not(feature = "macros"), doc = "```ignore")]
/// use node_sdk::{Refusal, ServiceError};
///
/// #[derive(Debug, PartialEq, Refusal)]
/// enum OrderError {
///     #[refusal(409, "sold_out", "nothing is left")]
///     SoldOut,
///     /// The text is the variant's own.
///     #[refusal(422, "bad_order")]
///     BadOrder(String),
///     /// What `?` makes of failed calls and other errors. Callers get it as a `CallError`.
///     #[refusal(other)]
///     Other(ServiceError),
/// }
///
/// let told: ServiceError = OrderError::SoldOut.into();
/// assert_eq!((told.status, &*told.reason), (409, "sold_out"));
/// assert_eq!(OrderError::read("sold_out", "nothing is left"), Some(OrderError::SoldOut));
/// ```
///
/// A variant has no data, or a `String`, which is the text for people. Nothing else is sent.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a service",
    label = "callers could not read this back",
    note = "use `ServiceError`, or `#[derive(node_sdk::Refusal)]` on an enum of the service's errors"
)]
pub trait Refusal: Into<ServiceError> + Send + Sized + 'static {
    /// The error that callers get.
    type AtCaller: From<CallError> + Send + 'static;

    /// The status, the word and the text of each of its errors; the text is empty if it varies.
    const LISTED: &'static [(u16, &'static str, &'static str)] = &[];

    /// Makes a failed call the error that callers get.
    fn at_caller(error: CallError) -> Self::AtCaller;

    /// Reads an error back from its word and its text; `None` if it is none of these.
    fn read(reason: &str, message: &str) -> Option<Self>;
}

/// A service without errors of its own: callers get the `CallError`.
impl Refusal for ServiceError {
    type AtCaller = CallError;

    fn at_caller(error: CallError) -> CallError {
        error
    }

    fn read(_reason: &str, _message: &str) -> Option<Self> {
        None
    }
}

/// Why a call of a typed client has no result, if the service has errors of its own.
#[derive(Debug, Error)]
pub enum ServiceCallError<E> {
    /// The service refused the call with one of its errors.
    #[error("the service refused the call")]
    Refused(E),
    /// The call failed in any other way. [`CallError::was_sent`] says whether it may have been
    /// carried out.
    #[error(transparent)]
    Failed(#[from] CallError),
}

impl<E: Refusal> ServiceCallError<E> {
    /// Reads the error of a service, if a call has failed with one.
    pub fn read(error: CallError) -> Self {
        if let CallError::Refused { reason, message, .. } = &error
            && let Some(refusal) = E::read(reason, message)
        {
            return Self::Refused(refusal);
        }
        Self::Failed(error)
    }
}

impl<E: Refusal> From<ServiceCallError<E>> for CallError {
    fn from(error: ServiceCallError<E>) -> Self {
        match error {
            ServiceCallError::Failed(error) => error,
            ServiceCallError::Refused(refusal) => {
                let ServiceError { status, reason, message, retry_after, .. } = refusal.into();
                Self::Refused { status, reason: reason.into_owned(), message, retry_after }
            }
        }
    }
}

/// As for a [`CallError`]: the caller of the handler is told the kind of fault, and no details.
impl<E: Refusal> From<ServiceCallError<E>> for ServiceError {
    fn from(error: ServiceCallError<E>) -> Self {
        CallError::from(error).into()
    }
}

impl<T, E: Refusal> OrRefuse<T> for Result<T, ServiceCallError<E>> {
    fn or_refuse(self, status: u16, reason: &'static str, message: impl Into<String>) -> Result<T, ServiceError> {
        self.map_err(CallError::from).or_refuse(status, reason, message)
    }

    fn or_pass(self) -> Result<T, ServiceError> {
        self.map_err(CallError::from).or_pass()
    }
}
