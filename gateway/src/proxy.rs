//! One request: whose it is, a call to a node or a request to a server, and the response.

use std::borrow::Cow;
use std::net::IpAddr;

use http::StatusCode;
use node_sdk::{CallError, Peers, RawAnswer};
use tokio::time::{Duration, Instant};
use tracing::debug;

use crate::access_log::{AccessLog, Entry};
use crate::buffers;
use crate::config::Config;
use crate::http1::connection::{Answer, BodyError, Connection, Ended};
use crate::http1::forward::{Failed, Forwarded};
use crate::http1::head::{Framing, Head};
use crate::http1::headers::{Origin, put_request};
use crate::http1::write::Full;
use crate::metrics::Metrics;
use crate::path::{self, BadPath};
use crate::problem::Problem;
use crate::translate::{JSON, body_params, form_params, has_body, readable_path, response};
use crate::upstreams::{Picked, Target, Upstreams};

/// What answers the requests of one connection.
#[derive(Debug)]
pub(crate) struct Proxy<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) upstreams: &'a Upstreams,
    pub(crate) config: &'a Config,
    pub(crate) origin: Origin,
    pub(crate) client: IpAddr,
    pub(crate) metrics: &'a Metrics,
    pub(crate) access_log: Option<&'a AccessLog>,
}

/// Whose a request is.
#[derive(Debug)]
enum Route<'a> {
    /// A node's that is called with packets, under this method and path.
    Node(&'a str, Cow<'a, str>),
    /// A server's that speaks HTTP.
    Server(Target),
    /// A node's that is not there now.
    Gone,
    Unknown,
}

impl Answer for Proxy<'_> {
    /// Dropping the future, as happens when the client goes, takes the call back.
    async fn answer(&mut self, head: Head, connection: &mut Connection) -> Result<(), Ended> {
        let begin = Instant::now();
        let answered = self.answer_it(&head, connection).await;
        let (status, took) = (connection.status().map(|status| status.as_u16()), begin.elapsed());
        self.metrics.request(status, took);
        if let Some(log) = self.access_log {
            log.take(&Entry { client: self.client, method: head.method(), target: head.target(), status, took });
        }
        answered
    }

    fn refused(&mut self, status: StatusCode) {
        let (status, took) = (Some(status.as_u16()), Duration::ZERO);
        self.metrics.request(status, took);
        if let Some(log) = self.access_log {
            log.take(&Entry { client: self.client, method: "-", target: "-", status, took });
        }
    }
}

impl Proxy<'_> {
    async fn answer_it(&self, head: &Head, connection: &mut Connection) -> Result<(), Ended> {
        let problem = match self.respond(head, connection).await {
            Ok(()) => return Ok(()),
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

    async fn respond(&self, head: &Head, connection: &mut Connection) -> Result<(), BodyError> {
        let deadline = Instant::now() + self.config.request_timeout;
        let (path, query) = head.target().split_once('?').unwrap_or_else(|| (head.target(), ""));
        let path = path::normal(path).map_err(|BadPath(why)| problem(StatusCode::BAD_REQUEST, "bad_path", why))?;
        let url = || format!("{}{path}", head.method());
        match self.route(head.method(), &path) {
            // Said before the client sends a body that nobody would take.
            Route::Gone => Err(BodyError::Problem(Problem::of_call(&CallError::NoProvider { url: url() }))),
            Route::Unknown => Err(BodyError::Problem(Problem::of_call(&CallError::NoRoute { url: url() }))),
            Route::Server(target) => self.forward(head, &path, query, &target, connection).await,
            Route::Node(method, path) => {
                let params = params(head, query, connection, self.config.max_body_bytes, deadline).await?;
                let answer = self.call(method, &path, &params, connection, deadline).await?;
                let (status, body) = response(&answer).map_err(BodyError::Problem)?;
                connection.respond(&Full { status, content_type: JSON, retry_after: None, body: &body });
                Ok(())
            }
        }
    }

    /// Nodes that offer the very route come first, then the longest prefix of a server, then whoever offered the route once.
    fn route<'a>(&self, method: &'a str, path: &'a str) -> Route<'a> {
        // What has GET has HEAD (RFC 9110, 9.3.2), without the body.
        let methods = if method == "HEAD" { &["HEAD", "GET"][..] } else { std::slice::from_ref(&method) };
        let readable = readable_path(path);
        for path in [Some(Cow::Borrowed(path)), readable.clone().map(Cow::Owned)].into_iter().flatten() {
            if let Some(method) = methods.iter().find(|method| self.peers.offers(method, &path)) {
                return Route::Node(method, path);
            }
        }
        if let Some(target) = self.upstreams.find(path) {
            return Route::Server(target);
        }
        let mut paths = [Some(path), readable.as_deref()].into_iter().flatten();
        let is_known = paths.any(|path| methods.iter().any(|method| self.peers.knows(method, path)));
        if is_known { Route::Gone } else { Route::Unknown }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        params: &str,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<RawAnswer, BodyError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let called = connection.unless_gone(self.peers.call_raw(method, path, params).within(left)).await?;
        called.map_err(|error| BodyError::Problem(Problem::of_call(&error)))
    }

    /// Passes a request on to one of the servers, and to another one only if nobody can have carried it out.
    async fn forward(
        &self,
        head: &Head,
        path: &str,
        query: &str,
        target: &Target,
        connection: &mut Connection,
    ) -> Result<(), BodyError> {
        let mut tried = Vec::new();
        let mut lost = 0;
        let mut fresh = false;
        loop {
            let Some(Picked { upstream, strip }) = target.service.pick(&tried, head.upgrades, Instant::now()) else {
                let detail = format!("no server that answers {} can be reached", &path[..target.prefix_bytes.max(1)]);
                return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no_provider", detail));
            };
            let Some(mut server) = connection.unless_gone(upstream.connect(fresh)).await? else {
                tried.push(upstream.address);
                continue;
            };
            let mut request = buffers::take();
            request.reserve(1024);
            let seen = if strip { &path[target.prefix_bytes..] } else { path };
            let slash = if seen.starts_with('/') { "" } else { "/" };
            let mark = if head.target().contains('?') { "?" } else { "" };
            put_request(&mut request, head, [slash, seen, mark, query], upstream.address, &self.origin);
            let idle = self.config.response_idle_timeout;
            match connection.forward(head, request, server.stream(), self.config.request_timeout, idle).await {
                Ok(Forwarded::Done { keep_server }) => {
                    if keep_server {
                        server.keep();
                    }
                    return Ok(());
                }
                Ok(Forwarded::Tunnel { to_client }) => {
                    return Ok(connection.tunnel(server.stream(), to_client).await?);
                }
                // A server closes what it has not used for a while, and may have done so while the request was on its way.
                Err(Failed::Unanswered)
                    if head.framing == Framing::Empty && is_idempotent(head.method()) && lost == 0 =>
                {
                    lost += 1;
                    fresh = true;
                    if !server.is_used {
                        tried.push(upstream.address);
                    }
                }
                Err(Failed::Unanswered) => {
                    let detail = "the server that worked on the request was lost before it answered";
                    return Err(problem(StatusCode::BAD_GATEWAY, "node_lost", detail));
                }
                Err(Failed::Nonsense(why)) => {
                    debug!(server = %upstream.address, why, "a response makes no sense");
                    let detail = "the server's response makes no sense";
                    return Err(problem(StatusCode::BAD_GATEWAY, "bad_answer", detail));
                }
                Err(Failed::Deadline) => {
                    let detail = "the server did not answer in time";
                    return Err(problem(StatusCode::GATEWAY_TIMEOUT, "deadline", detail));
                }
                Err(Failed::Client(problem)) => return Err(BodyError::Problem(problem)),
                Err(Failed::Ended(ended)) => return Err(BodyError::Ended(ended)),
            }
        }
    }
}

/// The arguments of a call: in the body, or else in the query.
async fn params(
    head: &Head,
    query: &str,
    connection: &mut Connection,
    max_body_bytes: usize,
    deadline: Instant,
) -> Result<String, BodyError> {
    if !has_body(head.method()) {
        return Ok(form_params(query.as_bytes()));
    }
    let body = connection.whole_body(max_body_bytes, deadline).await?;
    let content_type = head.fields().get("content-type").map(|value| std::str::from_utf8(value).unwrap_or_default());
    body_params(content_type, &body).map_err(BodyError::Problem)
}

/// Carrying it out twice does no harm: RFC 9110, 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

fn problem(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> BodyError {
    BodyError::Problem(Problem::new(status, kind, detail))
}
