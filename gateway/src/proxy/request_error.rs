//! Why a request, or the connection of its client, ends without a response.

use std::io;

use http::StatusCode;

use crate::io::budget::OverBudget;
use crate::io::stream::WriteError;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;

/// Why a client's connection, or one request of it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) &'static str);

impl Ended {
    /// The client has gone, in both directions.
    pub(crate) const BROKEN: Self = Self("broken");
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::BROKEN
    }
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stalled => Self("the client does not read its response"),
            WriteError::Broken => Self::BROKEN,
        }
    }
}

/// Why a request gets no response from its destination.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The client is answered with this problem.
    Problem(Problem),
    /// The client gets no response.
    Ended(Ended),
}

impl From<OverBudget> for Problem {
    fn from(_: OverBudget) -> Self {
        let detail = "the memory limit for clients is reached: read the responses that were asked for, or retry later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail)
    }
}

impl From<OverBudget> for RequestError {
    fn from(over: OverBudget) -> Self {
        Self::Problem(over.into())
    }
}

impl From<Ended> for RequestError {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}
