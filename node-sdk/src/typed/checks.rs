//! What the attributes check of types, so that the compiler's errors stand at them.

use serde::de::DeserializeOwned;

use crate::error::ServiceError;
use crate::handler::FromCall;
use crate::handler::respond::Respond;
use crate::typed::refusal::Refusal;

/// The result of a handler.
#[diagnostic::on_unimplemented(
    message = "a handler returns a `Result`, and this is `{Self}`",
    label = "this is not a `Result`",
    note = "write `Result<{Self}, ServiceError>`, and `Ok(…)` around the value"
)]
pub trait HandlerResult {}

impl<T: Respond, E: Into<ServiceError>> HandlerResult for Result<T, E> {}

/// The type is an argument of handlers.
pub const fn check_argument<T: FromCall>() {}

/// The type is the value of a handler's result.
pub const fn check_value<T: Respond>() {}

/// Callers can read the type.
pub const fn check_read<T: DeserializeOwned>() {}

/// The type is the error of a service.
pub const fn check_refusal<E: Refusal>() {}

/// The type is the error of a handler's result.
pub const fn check_error<E: Into<ServiceError>>() {}

/// The type is the result of a handler.
pub const fn check_result<R: HandlerResult>() {}

/// The future of a handler can go from thread to thread.
pub fn check_future<F: Future + Send>(future: F) {
    drop(future);
}
