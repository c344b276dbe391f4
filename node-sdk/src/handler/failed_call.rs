//! What the caller of a handler is told when a call that the handler made has failed: the kind of
//! fault, and no url, address or text of another service. These are for the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use net::{KeyedThrottle, MAX_ESCAPED_BYTES, escaped, warn};
use protocol::WRONG_INSTANCE;
use tokio::time::Instant;

use crate::context::Context;
use crate::error::{CallError, DeliveryError, ServiceError, error_status};

/// Words with which a node refuses a call that its service has not seen. They say nothing about
/// what the call asked for: a node that does not offer a route knows of no thing that is missing.
const WORDS_OF_NODES: [&str; 3] = ["no_route", WRONG_INSTANCE, "overloaded"];

/// What a handler answers when a call that it made has failed.
///
/// `?` tells its caller that a service which this one needs has failed (502 `inner_call`), is out
/// of reach or busy (503 `no_provider`, `unavailable`), has not answered in time (504 `deadline`),
/// or limits its callers (429 `too_many_requests`), and logs the details. The caller has not made
/// the inner call, so an inner 404 or 400 is not about the caller's request, and its text may name
/// urls and addresses. Where an inner refusal is about the request, say so:
///
/// ```no_run
/// use node_sdk::{OrRefuse, Path, Peers, ServiceError};
///
/// async fn greet(Path(id): Path<u64>, peers: Peers) -> Result<String, ServiceError> {
///     let member: String = peers
///         .call(&format!("GET/members/{id}/name"), &())
///         .await
///         .or_refuse(404, "no_member", "there is no such member")?;
///     Ok(format!("Hello, {member}!"))
/// }
///
/// /// Stands in front of another service, and speaks for it.
/// async fn facade(peers: Peers) -> Result<Vec<u64>, ServiceError> {
///     peers.call("GET/orders", &()).await.or_pass()
/// }
/// ```
pub trait OrRefuse<T>: Sized {
    /// An inner refusal with this status, 400 to 599, is one of this service, with this word and
    /// text. Any other failure is what `?` makes of it.
    ///
    /// # Errors
    /// When the call has failed.
    fn or_refuse(self, status: u16, reason: &'static str, message: impl Into<String>) -> Result<T, ServiceError>;

    /// An inner refusal is passed on as it is, with its status, word and text. Any other failure is
    /// what `?` makes of it, and so is a refusal by a node that has not asked its service.
    ///
    /// # Errors
    /// When the call has failed.
    fn or_pass(self) -> Result<T, ServiceError>;
}

impl<T> OrRefuse<T> for Result<T, CallError> {
    fn or_refuse(self, status: u16, reason: &'static str, message: impl Into<String>) -> Result<T, ServiceError> {
        self.map_err(|error| match error {
            CallError::Refused { status: inner, reason: word, .. } if inner == status && is_of_service(&word) => {
                ServiceError::new(status, reason, message)
            }
            other => other.into(),
        })
    }

    fn or_pass(self) -> Result<T, ServiceError> {
        self.map_err(|error| match error {
            CallError::Refused { status, reason, message, retry_after } if is_of_service(&reason) => {
                let status = error_status(status, &reason);
                ServiceError { reason: reason.into(), retry_after, ..ServiceError::new(status, "", message) }
            }
            other => other.into(),
        })
    }
}

fn is_of_service(reason: &str) -> bool {
    !WORDS_OF_NODES.contains(&reason)
}

/// A failed call becomes the response of the handler that made it, because the handler cannot do
/// without the call: see [`OrRefuse`].
impl From<CallError> for ServiceError {
    fn from(error: CallError) -> Self {
        log(&error);
        let (status, reason, message, retry_after) = answer(&error);
        Self { retry_after, ..Self::new(status, reason, message) }
    }
}

/// As the failure of the first group that has failed.
impl From<DeliveryError> for ServiceError {
    fn from(error: DeliveryError) -> Self {
        error.into_call_error().map_or_else(|| Self::internal("an event was not delivered"), Self::from)
    }
}

/// Status, word, text, and when to try again. The word `overloaded` is never among them: it says
/// that nothing was done, and the handler may have done something before it made the call.
fn answer(error: &CallError) -> (u16, &'static str, &'static str, Option<Duration>) {
    const UNAVAILABLE: (u16, &str, &str) =
        (503, "unavailable", "a service that this one needs cannot answer now; try again later");
    const DEADLINE: (u16, &str, &str) = (504, "deadline", "a service that this one needs has not answered in time");
    const FAILED: (u16, &str, &str) = (502, "inner_call", "a service that this one needs has failed");
    let after = if let CallError::Refused { retry_after, .. } = error { *retry_after } else { None };
    let (status, reason, message) = match error {
        CallError::NoRoute { .. }
        | CallError::NoProvider { .. }
        | CallError::OutsideInterests { .. }
        | CallError::NotAsked { .. }
        | CallError::NoList { .. } => (503, "no_provider", "a service that this one needs cannot be reached"),
        CallError::Overloaded { .. } | CallError::Refused { status: 503, .. } => UNAVAILABLE,
        CallError::Deadline { .. } | CallError::Refused { status: 504, .. } => DEADLINE,
        CallError::Refused { status: 429, .. } => {
            (429, "too_many_requests", "a service that this one needs is called too often; try again later")
        }
        CallError::Refused { status: 508, .. } => (508, "loop", "services call each other in a loop"),
        CallError::Params { .. } | CallError::BadUrl { .. } => {
            (500, "internal", "this service has made a call that is none")
        }
        CallError::TooLarge { .. }
        | CallError::Lost { .. }
        | CallError::Ended { .. }
        | CallError::Response { .. }
        | CallError::Refused { .. } => FAILED,
    };
    (status, reason, message, after)
}

/// Logs the details, which the caller is not told.
fn log(error: &CallError) {
    static LOG_THROTTLE: Mutex<Option<KeyedThrottle>> = Mutex::new(None);
    let now = Instant::now().into_std();
    let mut log_throttle = LOG_THROTTLE.lock().unwrap_or_else(PoisonError::into_inner);
    // Errors of one kind and url are one; the text of a refusal may name another thing each time.
    let kind = std::mem::discriminant(error);
    let suppressed = log_throttle.get_or_insert_default().allow((kind, error.subject(), error.status()), now);
    drop(log_throttle);
    let Some(suppressed) = suppressed else { return };
    let trace = Context::current().trace;
    let trace = trace.as_ref().map_or("none", |trace| trace.id());
    let error = escaped(error, 2 * MAX_ESCAPED_BYTES);
    warn!(?error, trace, suppressed, "a call that a handler made has failed; the caller is told no details");
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const RETRY_AFTER: Option<Duration> = Some(Duration::from_secs(7));

    fn refused(status: u16, reason: &str) -> CallError {
        CallError::Refused { status, reason: reason.to_owned(), message: "inner".to_owned(), retry_after: RETRY_AFTER }
    }

    fn url() -> String {
        "GET/inner".to_owned()
    }

    #[test]
    fn f6_a_failed_call_tells_the_kind_of_fault_and_no_details() {
        #[track_caller]
        fn check(make: impl Fn() -> CallError, expected: (u16, &str), is_sent: bool) {
            assert_eq!((make().was_sent(), make().to_string().is_empty()), (is_sent, false));
            let failed = || Err::<(), _>(make());
            let by_question_mark = || -> Result<(), ServiceError> { Ok(failed()?) };
            for told in [by_question_mark(), failed().or_pass(), failed().or_refuse(404, "no_member", "none")] {
                let told = told.unwrap_err();
                assert_eq!((told.status, told.reason.as_ref()), expected);
                let text = told.to_string();
                for secret in ["inner ", "GET/", "10.0.0.1", "9010", "secret"] {
                    assert!(!text.contains(secret), "{text}");
                }
            }
        }
        let source = || serde_json::from_str::<u8>("\"secret\"").unwrap_err();
        check(|| CallError::NoRoute { url: url() }, (503, "no_provider"), false);
        check(|| CallError::NoProvider { url: url() }, (503, "no_provider"), false);
        check(|| CallError::OutsideInterests { url: url() }, (503, "no_provider"), false);
        check(|| CallError::NotAsked { url: url(), reason: "secret" }, (503, "no_provider"), false);
        check(|| CallError::NoList { url: url() }, (503, "no_provider"), false);
        check(|| CallError::Overloaded { url: url() }, (503, "unavailable"), false);
        check(|| CallError::TooLarge { url: url() }, (502, "inner_call"), false);
        check(|| CallError::Deadline { url: url(), within: Duration::ZERO }, (504, "deadline"), true);
        let node = SocketAddr::from(([10, 0, 0, 1], 9010));
        check(|| CallError::Lost { url: url(), node }, (502, "inner_call"), true);
        check(|| CallError::Ended { url: url() }, (502, "inner_call"), false);
        check(|| CallError::Response { url: url(), source: source() }, (502, "inner_call"), true);
        check(|| CallError::Params { url: url(), source: source() }, (500, "internal"), false);
        check(|| CallError::BadUrl { url: url(), reason: "secret" }, (500, "internal"), false);
        // Refusals of a node whose service has not seen the call.
        check(|| refused(404, "no_route"), (502, "inner_call"), true);
        check(|| refused(421, "wrong_instance"), (502, "inner_call"), true);
        check(|| refused(503, "overloaded"), (503, "unavailable"), true);
    }

    #[test]
    fn f6_an_inner_refusal_is_told_only_where_the_handler_says_so() {
        #[track_caller]
        fn check(inner: (u16, &str), told: (u16, &str), passed: (u16, &str), own: (u16, &str)) {
            let failed = || Err::<(), _>(refused(inner.0, inner.1));
            assert_eq!(failed().unwrap_err().status(), Some(inner.0));
            let check_error = |error: ServiceError, expected: (u16, &str)| {
                assert_eq!((error.status, error.reason.as_ref()), expected, "{error}");
                error
            };
            let by_question_mark = || -> Result<(), ServiceError> { Ok(failed()?) };
            assert_eq!(check_error(by_question_mark().unwrap_err(), told).retry_after, RETRY_AFTER);
            let passed = check_error(failed().or_pass().unwrap_err(), passed);
            assert_eq!((passed.message.as_str(), passed.retry_after), ("inner", RETRY_AFTER));
            check_error(failed().or_refuse(404, "no_member", "there is no such member").unwrap_err(), own);
        }
        let failed = (502, "inner_call");
        check((404, "no_good"), failed, (404, "no_good"), (404, "no_member"));
        check((400, "bad_params"), failed, (400, "bad_params"), failed);
        check((409, "sold_out"), failed, (409, "sold_out"), failed);
        check((401, "who"), failed, (401, "who"), failed);
        check((500, "internal"), failed, (500, "internal"), failed);
        check((429, "slow"), (429, "too_many_requests"), (429, "slow"), (429, "too_many_requests"));
        check((503, "no_room"), (503, "unavailable"), (503, "no_room"), (503, "unavailable"));
        check((504, "late"), (504, "deadline"), (504, "late"), (504, "deadline"));
        check((508, "loop"), (508, "loop"), (508, "loop"), (508, "loop"));
        // What an old node says with a status that is none of HTTP.
        check((302, "errorcode_302"), failed, (500, "errorcode_302"), failed);
    }
}
