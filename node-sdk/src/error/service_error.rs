//! The error that a handler answers with.

use std::borrow::Cow;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use net::{LogThrottle, MAX_ESCAPED_BYTES, error, escaped, warn};
use protocol::ResponseHeaders;
use thiserror::Error;
use tokio::time::Instant;

/// The answer of a handler that has no result: an HTTP status code, a stable word, and a text for
/// people. With `From`, errors of your own become one, and handlers can return them:
///
/// ```
/// use node_sdk::ServiceError;
///
/// enum OrderError {
///     SoldOut,
///     UnknownGood(u64),
/// }
///
/// impl From<OrderError> for ServiceError {
///     fn from(error: OrderError) -> Self {
///         match error {
///             OrderError::SoldOut => Self::conflict("sold_out", "nothing is left"),
///             OrderError::UnknownGood(id) => {
///                 Self::new(422, "unknown_good", format!("there is no good {id}"))
///             }
///         }
///     }
/// }
///
/// async fn order() -> Result<(), OrderError> {
///     Err(OrderError::SoldOut)
/// }
///
/// let node = node_sdk::Node::builder("orders").route("POST/orders", order);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{status} {reason}: {message}")]
pub struct ServiceError {
    /// An HTTP status code, 400 to 599.
    pub status: u16,
    /// A stable word in snake_case, for programs.
    pub reason: Cow<'static, str>,
    /// A text for people. Callers can read it.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Header fields that gateways give to their clients. Callers that are nodes do not get them.
    pub headers: ResponseHeaders,
}

impl ServiceError {
    /// An error with this status, 400 to 599. Any other is not an error of HTTP: it becomes 500,
    /// with a warning in the log.
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let status = error_status(status, reason);
        let (retry_after, headers) = (None, ResponseHeaders::NONE);
        Self { status, reason: Cow::Borrowed(reason), message: message.into(), retry_after, headers }
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Sets a header field, in place of one of the same name. Gateways give it to their clients;
    /// callers that are nodes do not get it.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// 400: the arguments make no sense.
    pub fn bad_request(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, reason, message)
    }

    /// 404: the thing that the arguments name does not exist.
    pub fn not_found(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(404, reason, message)
    }

    /// 409: the thing already exists, or has changed.
    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(409, reason, message)
    }

    /// 500: a fault of this service. Log the details; the caller gets only the text.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "internal", message)
    }
}

/// The status that callers are told: that of an error, whatever a service says.
pub(crate) fn error_status(status: u16, reason: &str) -> u16 {
    static LOG_THROTTLE: Mutex<Option<LogThrottle>> = Mutex::new(None);
    if (400..=599).contains(&status) {
        return status;
    }
    let mut log_throttle = LOG_THROTTLE.lock().unwrap_or_else(PoisonError::into_inner);
    let suppressed = log_throttle.get_or_insert_default().allow(Instant::now().into_std());
    drop(log_throttle);
    if let Some(suppressed) = suppressed {
        let reason = escaped(reason, MAX_ESCAPED_BYTES);
        warn!(?reason, suppressed, "an error has the status {status}, and is sent with 500: errors have 400 to 599");
    }
    500
}

/// The status of a result, if a response can have it.
pub(crate) fn result_status(status: u16) -> Option<u16> {
    (200..=599).contains(&status).then_some(status)
}

/// The error when no memory is left to hold `what` until the caller reads it.
pub(crate) fn no_room(what: &str) -> ServiceError {
    ServiceError::new(503, "no_room", format!("there is no room now for {what}")).retry_after(Duration::from_secs(1))
}

/// An error of the system is a fault of this service: 500, with the details in the log. The caller
/// does not get them, because they may name files and addresses.
impl From<io::Error> for ServiceError {
    fn from(error: io::Error) -> Self {
        static LOG_THROTTLE: Mutex<Option<LogThrottle>> = Mutex::new(None);
        let mut log_throttle = LOG_THROTTLE.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = log_throttle.get_or_insert_default().allow(Instant::now().into_std());
        drop(log_throttle);
        if let Some(suppressed) = suppressed {
            let error = escaped(error, 4 * MAX_ESCAPED_BYTES);
            error!(?error, suppressed, "a handler failed; its caller is told 500 internal");
        }
        Self::internal("the service failed; its log says why")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c16_an_error_of_the_system_is_a_fault_of_the_service_and_shows_no_path() {
        fn read() -> Result<String, ServiceError> {
            Ok(std::fs::read_to_string("/nowhere/secret")?)
        }
        let error = read().unwrap_err();
        assert_eq!((error.status, error.reason.as_ref()), (500, "internal"));
        assert!(!error.message.contains("nowhere") && !error.message.contains("os error"), "{error}");
    }

    #[test]
    fn b9_a_status_that_does_not_mean_an_error_is_sent_as_500() {
        for (status, expected) in [(999, 500), (302, 500), (204, 500), (0, 500), (399, 500), (600, 500)] {
            assert_eq!(ServiceError::new(status, "word", "text").status, expected, "{status}");
        }
        for status in [400, 404, 418, 500, 503, 599] {
            assert_eq!(ServiceError::new(status, "word", "text").status, status);
        }
    }
}
