//! Errors with which the gateway itself answers, as `application/problem+json` (RFC 9457).

use std::time::Duration;

use http::StatusCode;
use node_sdk::CallError;

use crate::message::answer_fields::AnswerFields;
use crate::message::problem_kind::ProblemKind;

/// A fault of a request, or of something that it needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) kind: ProblemKind,
    /// A text for people.
    pub(crate) detail: String,
    /// The methods that the path has, if it lacks that of the request.
    pub(crate) allow: Option<String>,
    /// When to try again, if the node or the limit says so.
    pub(crate) retry_after: Option<Duration>,
    /// The fields that the node gives to the client with it.
    pub(crate) of_node: Option<Box<AnswerFields>>,
}

impl Problem {
    /// The seconds after which a node that restarts has registered again.
    pub(crate) const RETRY_AFTER_SECONDS: u64 = 3;

    pub(crate) fn new(status: StatusCode, kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), allow: None, retry_after: None, of_node: None }
    }

    /// The seconds of `Retry-After`, rounded up: a client that comes earlier comes too early.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let said = self.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        said.or(match self.status {
            StatusCode::SERVICE_UNAVAILABLE => Some(Self::RETRY_AFTER_SECONDS),
            StatusCode::TOO_MANY_REQUESTS => Some(1),
            _ => None,
        })
    }

    /// The problem that a client is told when a call has failed.
    pub(crate) fn from_call(error: &CallError) -> Self {
        let (status, kind) = match error {
            CallError::NoRoute { .. } => (StatusCode::NOT_FOUND, ProblemKind::NO_ROUTE),
            CallError::NoProvider { .. }
            | CallError::OutsideInterests { .. }
            | CallError::NotAsked { .. }
            | CallError::NoList { .. } => (StatusCode::SERVICE_UNAVAILABLE, ProblemKind::NO_PROVIDER),
            CallError::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED),
            CallError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ProblemKind::TOO_LARGE_FOR_NODE),
            CallError::Deadline { .. } => (StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE),
            CallError::Lost { .. } => (StatusCode::BAD_GATEWAY, ProblemKind::NODE_LOST),
            CallError::Refused { .. } | CallError::Response { .. } | CallError::Ended { .. } => {
                (StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER)
            }
            CallError::Params { .. } | CallError::BadUrl { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, ProblemKind::INTERNAL)
            }
        };
        // The address of the lost node is only logged: clients outside need not know it.
        let detail = match error {
            CallError::Lost { url, .. } => format!("the node that handled {url} was lost before it answered"),
            other => other.to_string(),
        };
        Self::new(status, kind, detail)
    }

    /// The body of the response.
    pub(crate) fn body(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let title = self.status.canonical_reason().unwrap_or("Error");
        // In the order in which people read it.
        format!(
            r#"{{"type":{},"title":{},"status":{},"detail":{}}}"#,
            text(&format!("/problems/{}", self.kind)),
            text(title),
            self.status.as_u16(),
            text(&self.detail),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b9_a_client_is_not_told_to_come_too_early() {
        let check = |status: u16, milliseconds: Option<u64>, expected: Option<u64>| {
            let retry_after = milliseconds.map(Duration::from_millis);
            let problem = Problem {
                retry_after,
                ..Problem::new(StatusCode::from_u16(status).unwrap(), ProblemKind::INTERNAL, "")
            };
            assert_eq!(problem.retry_after_seconds(), expected, "{status} {milliseconds:?}");
        };
        check(503, Some(1500), Some(2));
        check(503, Some(2000), Some(2));
        check(429, Some(1), Some(1));
        check(409, Some(10_000), Some(10));
        check(503, None, Some(3));
        check(429, None, Some(1));
        check(409, None, None);
    }

    #[test]
    fn problems_have_the_members_of_rfc_9457() {
        let problem = Problem::from_call(&CallError::NoRoute { url: "GET/\"x\"".to_owned() });
        let body: serde_json::Value = serde_json::from_str(&problem.body()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "/problems/no_route",
                "title": "Not Found",
                "status": 404,
                "detail": "no node offers GET/\"x\"",
            })
        );
    }
}
