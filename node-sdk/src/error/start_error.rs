//! Why a node did not start, or did not stop in order.

use std::fmt;
use std::io;

use protocol::{HostPortError, RouteError};
use thiserror::Error;

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
        /// The route as it was given again.
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
    /// The Distributor's address is not valid.
    #[error("'{address}' is not the address of a Distributor: {reason}")]
    Distributor {
        /// The text as given.
        address: String,
        /// What is wrong with it.
        reason: HostPortError,
    },
    /// The advertised address is not valid.
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
    /// A handler takes a value that no guard before it returns.
    #[error("the handler of {route} takes an Extension<{value}>; write a guard that returns one before the route")]
    MissingExtension {
        /// The route of the handler.
        route: String,
        /// The type of the value.
        value: &'static str,
    },
    /// A setting for the last route, but no route was given before.
    #[error("{0} applies to the route before it, but there is none; write .route(…).{0}(…)")]
    Misplaced(&'static str),
    /// A guard or a layer that no route follows.
    #[error("the {kind} {name} stands before no route; write it before the routes that it is for")]
    CoversNothing {
        /// `guard` or `layer`.
        kind: &'static str,
        /// The path of its function.
        name: &'static str,
    },
    /// A handler reads a header field that no request can have.
    #[error("{route} reads the header field '{name}', and no field can have that name; write one like x-signature")]
    HeaderName {
        /// The route of the handler.
        route: String,
        /// The name as given.
        name: String,
    },
    /// A handler reads too many header fields.
    #[error("{route} reads {count} header fields of requests; a route can read {max}")]
    HeaderCount {
        /// The route of the handler.
        route: String,
        /// How many it reads.
        count: usize,
        /// How many it can read.
        max: usize,
    },
    /// An event was made public.
    #[error("the event {event} cannot be public: clients of a gateway call routes, and only nodes emit events")]
    PublicEvent {
        /// The name of the event.
        event: String,
    },
    /// Variables of the environment with wrong values: see
    /// [`NodeBuilder::environment`](crate::NodeBuilder::environment).
    #[error("wrong settings in the environment: {}", .0.join("; "))]
    Environment(Vec<String>),
    /// A prefix of an HTTP server that gateways would ignore.
    #[error("'{prefix}' is not a prefix of paths: {reason}")]
    Prefix {
        /// The prefix as given; empty if there is none.
        prefix: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An HTTP server was given a route or a hook.
    #[error("offer_http takes no routes and no hooks: the HTTP server has its own")]
    HandlersOfHttp,
    /// A hook of the start has failed, and the node has not started; or a hook of the stop has
    /// failed, and the node has stopped all the same.
    #[error("the {kind} hook {name} has failed")]
    Hook {
        /// `start` or `stop`.
        kind: &'static str,
        /// The path of its function.
        name: &'static str,
        /// The error of the hook, or that it panicked or took too long.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file of the event log cannot be used.
    #[cfg(feature = "event-log")]
    #[error("the event log {path} cannot be opened")]
    EventLog {
        /// The path of the file.
        path: String,
        /// Why not.
        #[source]
        source: crate::error::LogError,
    },
    /// The name of a durable subscription has a wrong form.
    #[cfg(feature = "event-log")]
    #[error("'{0}' is not the name of a durable subscription; use 1 to 64 of A-Z a-z 0-9 . _ -")]
    SubscriptionName(String),
    /// The work of [`serve_with`](crate::NodeBuilder::serve_with) has failed, and the node has
    /// stopped in order.
    #[error("the work beside the node has failed")]
    Work(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node has stopped, and had to cut connections with calls in flight, or to leave tasks of
    /// [`detach`](crate::detach) at work.
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

fn doubled_text(route: &str, other: &str) -> String {
    if route == other {
        format!("the route {route} is given twice; each route has one handler")
    } else {
        format!(
            "the routes {other} and {route} are one, as names of parameters make no difference; each route has one handler"
        )
    }
}
