//! One request: its arguments, a call to a node, and the response.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Version};
use node_sdk::{CallError, Peers, RawAnswer};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::config::Config;
use crate::problem::Problem;
use crate::translate::{JSON, body_params, form_params, has_body, readable_path, response};

/// Answers one request. Dropping the future, as happens when the client goes, takes the call back.
pub(crate) async fn handle(
    request: Request<Incoming>,
    peers: &Peers,
    config: &Config,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = answer(request, peers, config).await;
    Ok(match answered {
        Ok((status, body)) => build(status, JSON, body),
        Err(problem) if config.empty_404 && problem.status == StatusCode::NOT_FOUND && problem.kind == "no_route" => {
            build(problem.status, JSON, Bytes::new())
        }
        Err(problem) => {
            debug!(status = problem.status.as_u16(), kind = problem.kind, detail = problem.detail, "problem");
            let mut response = build(problem.status, "application/problem+json", Bytes::from(problem.body()));
            if problem.status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(Problem::RETRY_AFTER_SECONDS));
            }
            response
        }
    })
}

async fn answer(request: Request<Incoming>, peers: &Peers, config: &Config) -> Result<(StatusCode, Bytes), Problem> {
    let deadline = Instant::now() + config.request_timeout;
    let (head, body) = request.into_parts();
    // RFC 9112, 3.2: one Host, and only one, in every request of HTTP/1.1.
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        let detail = format!("a request has one Host header; this one has {hosts}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_host", detail));
    }
    let params = if has_body(&head.method) {
        let content_type = head.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let body = read_body(body, deadline, config).await?;
        body_params(content_type, &body)?
    } else {
        form_params(head.uri.query().unwrap_or_default().as_bytes())
    };
    let path = head.uri.path();
    let mut called = call(peers, &head.method, path, &params, deadline).await;
    if let (Err(CallError::NoRoute { .. }), Some(path)) = (&called, readable_path(path)) {
        called = call(peers, &head.method, &path, &params, deadline).await;
    }
    match called {
        Ok(answer) => response(&answer),
        Err(error) => Err(Problem::of_call(&error)),
    }
}

async fn call(
    peers: &Peers,
    method: &Method,
    path: &str,
    params: &str,
    deadline: Instant,
) -> Result<RawAnswer, CallError> {
    let left = deadline.saturating_duration_since(Instant::now());
    match peers.call_raw(method.as_str(), path, params).within(left).await {
        // What has GET has HEAD (RFC 9110, 9.3.2); hyper leaves the body out.
        Err(CallError::NoRoute { .. }) if method == Method::HEAD => {
            peers.call_raw(Method::GET.as_str(), path, params).within(left).await
        }
        called => called,
    }
}

/// The whole body, within its limits of size and time.
async fn read_body(body: Incoming, deadline: Instant, config: &Config) -> Result<Bytes, Problem> {
    let limit = config.max_body_bytes;
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("a body may have {limit} bytes"));
    // Said before the client is asked to go on with what cannot be taken.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match timeout_at(deadline, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", error.to_string())),
        Err(_elapsed) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body did not arrive in time")),
    }
}

fn build(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
