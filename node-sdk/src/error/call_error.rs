//! Why a call has no result.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

/// Why a call to another node has no result. With `?` in a handler, its caller is told the kind of
/// fault, and no details: see [`OrRefuse`](crate::OrRefuse).
///
/// ```no_run
/// use node_sdk::{CallError, Peers};
///
/// async fn find_name(peers: &Peers) -> Result<Option<String>, CallError> {
///     match peers.call("GET/members/7/name", &()).await {
///         Ok(name) => Ok(Some(name)),
///         Err(CallError::Refused { status: 404, .. }) => Ok(None),
///         Err(error) if error.was_sent() => {
///             eprintln!("{error}; the call may have been carried out");
///             Err(error)
///         }
///         Err(error) => Err(error),
///     }
/// }
/// ```
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
    /// No known node offers this, this node has a [partial view](crate::Peers::nodes), and the
    /// Distributor could not be asked who offers it. Nothing was sent; try again later.
    #[error("the providers of {url} are not known: {reason}")]
    NotAsked {
        /// The url that was called.
        url: String,
        /// Why it could not be asked.
        reason: &'static str,
    },
    /// No Distributor has sent a list since this node started, so that its nodes are not known.
    /// Nothing was sent; try again later.
    #[error("the providers of {url} are not known: no Distributor has sent a list")]
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
    #[error("no answer from {url} within {}", WaitedTime(*within))]
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
        /// A text for people.
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

impl CallError {
    /// Whether the call was sent, so that it may have been carried out. If not, nothing has
    /// happened, and it can be made again.
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Lost { .. } | Self::Refused { .. } | Self::Response { .. } => true,
            Self::NoRoute { .. }
            | Self::BadUrl { .. }
            | Self::OutsideInterests { .. }
            | Self::NotAsked { .. }
            | Self::NoList { .. }
            | Self::NoProvider { .. }
            | Self::Overloaded { .. }
            | Self::TooLarge { .. }
            | Self::Ended { .. }
            | Self::Params { .. } => false,
        }
    }

    /// The HTTP status code with which the node has refused the call; `None` for any other failure.
    pub fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self { Some(*status) } else { None }
    }

    /// What the failure concerns: the url, or the word of a refusal.
    pub(crate) fn subject(&self) -> &str {
        match self {
            Self::Refused { reason, .. } => reason,
            Self::NoRoute { url }
            | Self::BadUrl { url, .. }
            | Self::OutsideInterests { url }
            | Self::NotAsked { url, .. }
            | Self::NoList { url }
            | Self::NoProvider { url }
            | Self::Overloaded { url }
            | Self::TooLarge { url }
            | Self::Deadline { url, .. }
            | Self::Lost { url, .. }
            | Self::Ended { url }
            | Self::Response { url, .. }
            | Self::Params { url, .. } => url,
        }
    }
}

/// A time that was waited, for a person: `0.0ns` would look like a mistake.
struct WaitedTime(Duration);

impl fmt::Display for WaitedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() { f.write_str("0 s (no time was left)") } else { write!(f, "{:.1?}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b9_the_time_that_was_waited_is_told_for_a_person() {
        let check = |milliseconds, expected: &str| {
            let within = Duration::from_millis(milliseconds);
            let said = CallError::Deadline { url: "GET/a".to_owned(), within }.to_string();
            assert_eq!(said, format!("no answer from GET/a within {expected}"));
        };
        check(5000, "5.0s");
        check(180, "180.0ms");
        check(0, "0 s (no time was left)");
    }
}
