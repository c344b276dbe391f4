//! One request: its arguments, a call to a node, and the response.

use http::StatusCode;
use node_sdk::{CallError, Peers, RawAnswer};
use tokio::time::Instant;
use tracing::debug;

use crate::config::Config;
use crate::http1::connection::{Answer, BodyError, Connection, Ended};
use crate::http1::head::Head;
use crate::http1::write::Full;
use crate::path::{self, BadPath};
use crate::problem::Problem;
use crate::translate::{JSON, body_params, form_params, has_body, readable_path, response};

/// What answers the requests of one connection.
#[derive(Debug)]
pub(crate) struct Proxy<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) config: &'a Config,
}

impl Answer for Proxy<'_> {
    /// Dropping the future, as happens when the client goes, takes the call back.
    async fn answer(&mut self, head: Head, connection: &mut Connection) -> Result<(), Ended> {
        let problem = match self.call(&head, connection).await {
            Ok(answer) => match response(&answer) {
                Ok((status, body)) => {
                    connection.respond(&Full { status, content_type: JSON, retry_after: None, body: &body });
                    return Ok(());
                }
                Err(problem) => problem,
            },
            Err(BodyError::Problem(problem)) => problem,
            Err(BodyError::Ended(ended)) => return Err(ended),
        };
        let Problem { status, kind, detail } = &problem;
        debug!(status = status.as_u16(), kind, detail, "problem");
        if self.config.empty_404 && *status == StatusCode::NOT_FOUND && kind == "no_route" {
            connection.respond(&Full { status: *status, content_type: JSON, retry_after: None, body: b"" });
        } else {
            connection.problem(&problem);
        }
        Ok(())
    }
}

impl Proxy<'_> {
    async fn call(&self, head: &Head, connection: &mut Connection) -> Result<RawAnswer, BodyError> {
        let deadline = Instant::now() + self.config.request_timeout;
        let (path, query) = head.target().split_once('?').unwrap_or_else(|| (head.target(), ""));
        let path = path::normal(path)
            .map_err(|BadPath(why)| BodyError::Problem(Problem::new(StatusCode::BAD_REQUEST, "bad_path", why)))?;
        let method = head.method();
        let params = if has_body(method) {
            let body = connection.whole_body(self.config.max_body_bytes, deadline).await?;
            let content_type = head.field("content-type").map(|value| std::str::from_utf8(value).unwrap_or_default());
            body_params(content_type, &body).map_err(BodyError::Problem)?
        } else {
            form_params(query.as_bytes())
        };
        let called = connection.unless_gone(self.route(method, &path, &params, deadline)).await?;
        called.map_err(|error| BodyError::Problem(Problem::of_call(&error)))
    }

    /// Calls what offers the path as it stands, or else as services write it.
    async fn route(&self, method: &str, path: &str, params: &str, deadline: Instant) -> Result<RawAnswer, CallError> {
        let called = self.call_path(method, path, params, deadline).await;
        match (&called, readable_path(path)) {
            (Err(CallError::NoRoute { .. }), Some(path)) => self.call_path(method, &path, params, deadline).await,
            _ => called,
        }
    }

    async fn call_path(
        &self,
        method: &str,
        path: &str,
        params: &str,
        deadline: Instant,
    ) -> Result<RawAnswer, CallError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.peers.call_raw(method, path, params).within(left).await {
            // What has GET has HEAD (RFC 9110, 9.3.2), without the body.
            Err(CallError::NoRoute { .. }) if method == "HEAD" => {
                self.peers.call_raw("GET", path, params).within(left).await
            }
            called => called,
        }
    }
}
