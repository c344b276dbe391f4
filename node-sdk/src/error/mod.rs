//! What goes wrong: errors, one variant for each thing that a caller or an author would do
//! differently, and what is counted and logged of the faults that no caller is told of.
//!
//! It must not decide what follows a fault. It must import no other folder.

pub(crate) mod lost;
pub(crate) mod malformed;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use net::{LogThrottle, MAX_ESCAPED_BYTES, error, escaped, warn};
use protocol::{HostPortError, RouteError};
use thiserror::Error;
use tokio::time::Instant;

/// Why a node did not start, or did not stop in order. Nothing is left running.
///
/// Its `Debug` form is a sentence with all causes, because that is what is printed when `main`
/// returns it.
#[derive(Error)]
pub enum StartError {
    /// A route has the wrong form.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Two handlers for one route. Names of parameters make no difference.
    #[error("{}", doubled_text(route, other))]
    DoubledRoute {
        /// The route that was given first.
        other: String,
        /// The same one, as it was given again.
        route: String,
    },
    /// A name with a wrong form.
    #[error("'{0}' is not a valid node name; use 1 to 128 of A-Z a-z 0-9 . _ -")]
    Name(String),
    /// An address that is not `host:port`, or whose name is not known.
    #[error("'{address}' is not an address; write it like 127.0.0.1:9010")]
    Address {
        /// The text as given.
        address: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The address of the Distributor is none.
    #[error("'{address}' is not the address of a Distributor: {reason}")]
    Distributor {
        /// The text as given.
        address: String,
        /// What is wrong with it.
        reason: HostPortError,
    },
    /// The address to advertise is none.
    #[error("'{address}' cannot be advertised: {reason}")]
    Advertise {
        /// The text as given, by the program or in `NODE_ADVERTISE`.
        address: String,
        /// What is wrong with it.
        reason: HostPortError,
    },
    /// The address cannot be listened on.
    #[error("the node cannot start")]
    Bind(#[from] net::BindError),
    /// A handler needs a state that the builder was not given.
    #[error("the handler of {route} needs a state of type {state}; give it with .state(…)")]
    MissingState {
        /// The route of the handler.
        route: String,
        /// The type that is missing.
        state: &'static str,
    },
    /// A setting for the last route, but no route was given before.
    #[error("{0} applies to the route before it, but there is none; write .route(…).{0}(…)")]
    Misplaced(&'static str),
    /// The node has stopped, and had to cut connections with calls in flight, or to leave tasks of
    /// [`spawn`](crate::spawn) at work.
    #[error("stopped before all work was done: {connections} connections were cut, or tasks left")]
    Cut {
        /// How many connections and tasks.
        connections: usize,
    },
    /// The system refuses the signal handlers.
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Why a call to another node has no result.
#[derive(Debug, Error)]
pub enum CallError {
    /// No node has ever offered this. Nothing was sent.
    #[error("no node offers {url}")]
    NoRoute {
        /// The url that was called.
        url: String,
    },
    /// The text is not a url, so no node can offer it. Nothing was sent.
    #[error("no node offers {url}: {reason}")]
    BadUrl {
        /// The url that was called.
        url: String,
        /// How a url is written.
        reason: &'static str,
    },
    /// No node that this one is told of offers this, and its [interests] do not name it. Nothing
    /// was sent; name it among them.
    ///
    /// [interests]: crate::NodeBuilder::interests
    #[error("no known node offers {url}: this node is told only of its interests (needs), and they do not name it")]
    OutsideInterests {
        /// The url that was called.
        url: String,
    },
    /// No known node offers this, this node is told of a [part](crate::Peers::nodes) of the nodes,
    /// and the Distributor could not be asked who does. Nothing was sent; try again later.
    #[error("it is not known who offers {url}: {reason}")]
    NotAsked {
        /// The url that was called.
        url: String,
        /// Why it could not be asked.
        reason: &'static str,
    },
    /// No Distributor has sent a list since this node started, so that its nodes are not known.
    /// Nothing was sent; try again later.
    #[error("it is not known who offers {url}: no Distributor has sent a list")]
    NoList {
        /// The url that was called.
        url: String,
    },
    /// Nodes have offered this, but none can be reached now. Nothing was sent; try again in a few
    /// seconds.
    #[error("no node that offers {url} can be reached")]
    NoProvider {
        /// The url that was called.
        url: String,
    },
    /// The queues of all nodes that offer this are full. Nothing was sent; try again later.
    #[error("too many calls wait for {url}")]
    Overloaded {
        /// The url that was called.
        url: String,
    },
    /// The arguments are larger than the nodes that offer this can take: 64 KiB in version 1, 8 MiB
    /// in version 2. Nothing was sent.
    #[error("the arguments of {url} are larger than its nodes accept (64 KiB in version 1, 8 MiB in version 2)")]
    TooLarge {
        /// The url that was called.
        url: String,
    },
    /// No response in time. The call may have been carried out.
    #[error("no answer from {url} within {}", Waited(*within))]
    Deadline {
        /// The url that was called.
        url: String,
        /// How long was waited: the timeout of the call; or, if it was made while another call was
        /// handled, the time that this one had left, less a margin.
        within: Duration,
    },
    /// The node was lost before it answered. The call may have been carried out.
    #[error("{node} was lost before it answered {url}")]
    Lost {
        /// The url that was called.
        url: String,
        /// The node that was called.
        node: SocketAddr,
    },
    /// The stream has ended, and its end says why. The part was not sent.
    #[error("the stream {url} has ended")]
    Ended {
        /// The url that was called.
        url: String,
    },
    /// The node refused the call, or failed to carry it out.
    #[error("{status} {reason}: {message}")]
    Refused {
        /// An HTTP status code; 500 for any error of a version 1 node.
        status: u16,
        /// A stable word; `errorcode_` and the code for version 1 nodes.
        reason: String,
        /// For a person.
        message: String,
        /// When to try again, if the node says so.
        retry_after: Option<Duration>,
    },
    /// The response is not of the type that was asked for. The call was carried out.
    #[error("the response of {url} is not of the expected type")]
    Response {
        /// The url that was called.
        url: String,
        /// Which part of it does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// The arguments have no JSON form. Nothing was sent.
    #[error("the arguments of {url} have no JSON form")]
    Params {
        /// The url that was called.
        url: String,
        /// What serde says of them.
        #[source]
        source: serde_json::Error,
    },
}

/// A time that was waited, for a person: `0.0ns` would look like a mistake.
struct Waited(Duration);

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() { f.write_str("0 s, all that was left") } else { write!(f, "{:.1?}", self.0) }
    }
}

fn doubled_text(route: &str, other: &str) -> String {
    if route == other {
        format!("the route {route} is given twice; each route has one handler")
    } else {
        format!(
            "the routes {other} and {route} are one, as names of parameters make no difference; each route has one handler"
        )
    }
}

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
    /// For people. Callers can read it.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl ServiceError {
    /// An error with this status, 400 to 599. Any other is no error of HTTP: it becomes 500, with a
    /// warning in the log.
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let status = error_status(status, reason);
        Self { status, reason: Cow::Borrowed(reason), message: message.into(), retry_after: None }
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
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

/// No memory is left to hold `what` until the caller reads it.
pub(crate) fn no_room(what: &str) -> ServiceError {
    ServiceError::new(503, "no_room", format!("there is no room now for {what}")).retry_after(Duration::from_secs(1))
}

/// A failed call becomes the response of the handler that made it, because the handler cannot do
/// without the call.
impl From<CallError> for ServiceError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::NoRoute { .. }
            | CallError::NoProvider { .. }
            | CallError::OutsideInterests { .. }
            | CallError::NotAsked { .. }
            | CallError::NoList { .. } => Self::new(503, "no_provider", message),
            CallError::Overloaded { .. } => Self::new(503, "overloaded", message),
            CallError::TooLarge { .. } => Self::new(413, "too_large", message),
            CallError::Deadline { .. } => Self::new(504, "deadline", message),
            CallError::Lost { .. } => Self::new(502, "lost", message),
            CallError::Ended { .. } => Self::new(502, "ended", message),
            CallError::Response { .. } => Self::new(502, "bad_answer", message),
            CallError::Params { .. } | CallError::BadUrl { .. } => Self::new(500, "internal", message),
            CallError::Refused { status, reason, message, retry_after } => {
                let status = error_status(status, &reason);
                Self { status, reason: Cow::Owned(reason), message, retry_after }
            }
        }
    }
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
    fn b9_a_status_that_is_no_error_is_sent_as_500() {
        for (status, expected) in [(999, 500), (302, 500), (204, 500), (0, 500), (399, 500), (600, 500)] {
            assert_eq!(ServiceError::new(status, "word", "text").status, expected, "{status}");
        }
        for status in [400, 404, 418, 500, 503, 599] {
            assert_eq!(ServiceError::new(status, "word", "text").status, status);
        }
    }

    #[test]
    fn b9_the_time_that_was_waited_is_told_for_a_person() {
        let check = |milliseconds, expected: &str| {
            let within = Duration::from_millis(milliseconds);
            let said = CallError::Deadline { url: "GET/a".to_owned(), within }.to_string();
            assert_eq!(said, format!("no answer from GET/a within {expected}"));
        };
        check(5000, "5.0s");
        check(180, "180.0ms");
        check(0, "0 s, all that was left");
    }
}
