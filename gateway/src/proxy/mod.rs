//! One request: its destination, a call to a node or a request to a server, and the response.
//!
//! It must not read or write a client's connection: [`Exchange`] stands for it. It must not import
//! `downstream`.

mod attempts;
mod destination;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod node_call;
mod redirect;
pub(crate) mod request_error;
mod server_request;
pub(crate) mod shedding;
pub(crate) mod tunnel;
pub(crate) mod websocket;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::Peers;
use node_sdk::gateway::{RetryBudget, RouteOffer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::destination::Destination;
use self::redirect::CHALLENGES;
use crate::config::RouteConfig;
use crate::config::snapshot::ConfigSnapshot;
use crate::io::budget::{ConnectionBudget, Reservation};
use crate::message::forwarded::{ForwardedInfo, HOPS};
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::request_id::RequestId;
use crate::observe::access_log::{AccessLog, AccessLogEntry};
use crate::observe::metrics::Metrics;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::node_call::translate::JSON;
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::shedding::Shedding;
use crate::route::limits::LimitExceeded;
use crate::route::path::{self, BadPath};
use crate::upstream::WorkerShared;
use crate::upstream::table::UpstreamTable;

/// How many gateways may pass a request on: more is a loop.
const MAX_HOPS: u8 = 5;

/// Problems that operators have to know of, and that no other line tells: a server or a node is
/// missing, late or lost, or there is no room.
static FAULTS: [ProblemKind; 6] = [
    ProblemKind::NO_PROVIDER,
    ProblemKind::OVERLOADED,
    ProblemKind::DEADLINE,
    ProblemKind::NODE_LOST,
    ProblemKind::INTERNAL,
    ProblemKind::LOOP,
];

/// The handler of the requests of one connection.
#[derive(Debug)]
pub(crate) struct Proxy<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) upstreams: &'a UpstreamTable,
    pub(crate) origin: ForwardedInfo,
    /// The peer: a client, or a proxy in front of it.
    pub(crate) peer: IpAddr,
    pub(crate) metrics: &'a Metrics,
    pub(crate) retries: &'a RetryBudget,
    pub(crate) shedding: &'a Shedding,
    pub(crate) access_log: Option<&'a AccessLog>,
    pub(crate) shared: &'a WorkerShared,
    /// The account of the bytes that the connection holds.
    pub(crate) budget: ConnectionBudget,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stop: &'a CancellationToken,
}

/// The client of a request, and where the request comes from.
#[derive(Clone, Copy)]
struct Requester<'a> {
    /// The client, as far as known.
    client: IpAddr,
    origin: &'a ForwardedInfo,
    /// The id of the request; `None` if its head was malformed.
    id: Option<RequestId<'a>>,
}

/// A request that is about to be answered, with all that its path and its client determine.
struct RequestContext<'a> {
    head: &'a RequestHead,
    snapshot: &'a ConfigSnapshot,
    /// The rules of its path.
    route: &'a RouteConfig,
    /// The path in the form that it is routed by.
    path: &'a str,
    /// The path as it was sent, if servers should see it so.
    raw_path: Option<&'a str>,
    query: &'a str,
    /// The client, as far as known.
    client: IpAddr,
    origin: &'a ForwardedInfo,
    /// The id of the request.
    id: &'a str,
    hops: u8,
    begin: Instant,
    deadline: Instant,
}

impl RequestHandler for Proxy<'_> {
    /// Dropping the future, as happens when the client closes, cancels the call.
    async fn handle(&self, head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        let begin = Instant::now();
        let snapshot = self.upstreams.snapshot();
        let trusted = &snapshot.config.trusted;
        let is_trusted_proxy = trusted.iter().any(|network| network.contains(&self.peer));
        let behind_proxy = is_trusted_proxy.then(|| self.origin.through(self.peer, head.fields(), trusted));
        let (client, origin) =
            behind_proxy.as_ref().map_or((self.peer, &self.origin), |(client, origin)| (*client, origin));
        let id = RequestId::of(head.fields(), net::unique_id);
        id.put_field(exchange.own_fields());
        let requester = Requester { client, origin, id: Some(id) };
        let mut unanswered = LogOnDrop { proxy: self, requester, head: &head, begin, is_armed: true };
        let dispatched = self.dispatch(&head, exchange, &snapshot, requester, begin).await;
        let ended = match dispatched {
            Ok(ended) => Ok(ended),
            Err(RequestError::Ended(ended)) => Err(ended),
            Err(RequestError::Problem(problem)) => {
                self.respond_with_problem(&head, id, &problem, &snapshot, exchange).await
            }
        };
        unanswered.is_armed = false;
        let took = ended.unwrap_or_else(|_| Instant::now()).saturating_duration_since(begin);
        self.log(requester, Some(&head), exchange.status(), took);
        ended
    }

    fn record_rejection(&self, status: StatusCode) {
        let requester = Requester { client: self.peer, origin: &self.origin, id: None };
        self.log(requester, None, Some(status), Duration::ZERO);
    }

    fn reservation(&self) -> Option<Reservation> {
        self.budget.reserve(self.peer, 0).ok()
    }
}

/// A request that is dropped midway is logged too: it may have been carried out.
struct LogOnDrop<'a> {
    proxy: &'a Proxy<'a>,
    requester: Requester<'a>,
    head: &'a RequestHead,
    begin: Instant,
    is_armed: bool,
}

impl Drop for LogOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.proxy.log(self.requester, Some(self.head), None, self.begin.elapsed());
        }
    }
}

impl Proxy<'_> {
    /// Counts a request, and writes it to the access log. `head` is `None` if it was malformed.
    fn log(
        &self,
        Requester { client, origin, id }: Requester<'_>,
        head: Option<&RequestHead>,
        status: Option<StatusCode>,
        took: Duration,
    ) {
        let status = status.map(|status| status.as_u16());
        self.metrics.record_request(status, took);
        if let Some(log) = self.access_log {
            let (method, mut target) = head.map_or(("-", "-"), |head| (head.method(), head.target()));
            if !self.upstreams.snapshot().config.access_log_query {
                target = target.split('?').next().unwrap_or_default();
            }
            let id = id.as_ref().map(RequestId::as_str);
            let (scheme, host) = (origin.scheme.name(), origin.host.as_deref().or_else(|| head?.host()));
            log.write(&AccessLogEntry { client, scheme, host, method, target, status, took, id });
        }
    }

    /// Answers with a problem, delayed if the worker lags. Returns when that was done.
    async fn respond_with_problem(
        &self,
        head: &RequestHead,
        id: RequestId<'_>,
        problem: &Problem,
        snapshot: &ConfigSnapshot,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, Ended> {
        self.warn_of_problem(head, id, problem);
        let Problem { status, kind, detail, .. } = problem;
        debug!(id = id.as_str(), status = status.as_u16(), kind = ?escaped(kind, MAX_ESCAPED_BYTES), detail = ?escaped(detail, MAX_ESCAPED_BYTES), "problem");
        if [ProblemKind::OVERLOADED, ProblemKind::TOO_MANY_REQUESTS].contains(kind) && self.shedding.is_delaying() {
            exchange.delay_rejection(Box::pin(self.shedding.delay())).await?;
        }
        let is_empty = snapshot.config.empty_404 && *status == StatusCode::NOT_FOUND && *kind == ProblemKind::NO_ROUTE;
        Ok(exchange.respond(if is_empty { FullResponse::new(*status, JSON, "") } else { FullResponse::from(problem) }))
    }

    /// Logs that a request is not served, if neither its client nor the service is to blame.
    fn warn_of_problem(&self, head: &RequestHead, id: RequestId<'_>, problem: &Problem) {
        let Problem { status, kind, detail, .. } = problem;
        let Some(kind) = FAULTS.iter().find(|fault| *fault == kind).filter(|_| status.is_server_error()) else {
            return;
        };
        let kind = kind.as_str();
        let path = head.target().split('?').next().unwrap_or_default();
        if let Some(suppressed) = self.shared.log_throttles.allow_for(kind, path, Instant::now().into_std()) {
            let [path, detail] = [path, detail].map(|text| escaped(text, MAX_ESCAPED_BYTES));
            warn!(status = status.as_u16(), kind, method = head.method(), %path, id = id.as_str(), suppressed, "a request is not served: {detail}");
        }
    }

    /// Sends the request to its destination, and responds with what comes back.
    async fn dispatch(
        &self,
        head: &RequestHead,
        exchange: &mut impl Exchange,
        snapshot: &ConfigSnapshot,
        Requester { client, origin, id }: Requester<'_>,
        begin: Instant,
    ) -> Result<Instant, RequestError> {
        if self.shedding.should_reject(fastrand::f64) {
            let detail = "the gateway is overloaded";
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail));
        }
        let (method, target) = (head.method(), head.target());
        if target == "*" {
            // A request to the gateway itself, usually to check that it is alive: RFC 9110, 9.3.7.
            return Ok(exchange.respond(FullResponse::new(StatusCode::OK, "text/plain", "")));
        }
        let (sent, query) = target.split_once('?').unwrap_or((target, ""));
        let RoutedPath { path, raw_path, route } = find_route(snapshot, sent)?;
        if let Some(port) = snapshot.config.redirect
            && !origin.is_tls()
            && !path.starts_with(CHALLENGES)
        {
            let response = redirect::to_tls(head, origin, port, raw_path.unwrap_or(&path), query);
            return Ok(exchange.respond(response.map_err(RequestError::Problem)?));
        }
        if let Some(cors) = &route.cors {
            if cors.put_preflight(exchange.own_fields(), head) {
                return Ok(exchange.respond(FullResponse::new(StatusCode::NO_CONTENT, "", "")));
            }
            cors.put_fields(exchange.own_fields(), head);
        }
        let id = id.as_ref().map_or("", RequestId::as_str);
        let hops = hops_before(head)?;
        let header = route.limits.header().map(|name| head.fields().get(name).unwrap_or_default());
        let guard = route.limits.admit(client, header, begin);
        let _guard = guard.map_err(|exceeded| limit_problem(exceeded, route))?;
        let deadline = begin + route.timeout.unwrap_or(snapshot.config.request_timeout);
        let context = |path| RequestContext {
            head,
            snapshot,
            route,
            path,
            raw_path,
            query,
            client,
            origin,
            id,
            hops,
            begin,
            deadline,
        };
        match self.destination(route, &snapshot.access(route, &path), method, &path) {
            Destination::Upstream(upstream) => {
                Box::pin(self.forward_with_retries(&context(&path), &upstream, exchange)).await
            }
            Destination::Node(node_method, path, RouteOffer { socket: Some(socket), .. }) if node_method == "GET" => {
                Box::pin(self.hold_socket(&context(&path), node_method, socket, exchange)).await
            }
            Destination::Node(node_method, path, _) if head.upgrades && node_method == "GET" => {
                Box::pin(self.open_websocket(&context(&path), node_method, exchange)).await
            }
            Destination::Node(node_method, path, offer) => {
                self.call_node(&context(&path), (node_method, offer), exchange).await
            }
            // The client is told before it sends a body that nothing would read.
            Destination::None(missing) => {
                let response = missing.response(method, &path, snapshot.config.empty_404);
                Ok(exchange.respond(response.map_err(RequestError::Problem)?))
            }
        }
    }
}

/// The path of a request, and the rules for it.
struct RoutedPath<'a> {
    /// The path in the form that it is routed by.
    path: Cow<'a, str>,
    /// The path as it was sent, if servers should see it so.
    raw_path: Option<&'a str>,
    route: &'a RouteConfig,
}

/// Finds the rules for a path as it was sent.
fn find_route<'a>(snapshot: &'a ConfigSnapshot, sent: &'a str) -> Result<RoutedPath<'a>, RequestError> {
    let refused = |bad: BadPath| RequestError::Problem(bad.into());
    match path::normalize(sent) {
        Ok(path) => {
            let route = snapshot.route(&path);
            if route.raw_path {
                path::check_raw(sent).map_err(refused)?;
            }
            Ok(RoutedPath { path, raw_path: route.raw_path.then_some(sent), route })
        }
        // Servers that see paths as they were sent may understand it.
        Err(bad) => {
            let path = path::raw_route(sent).ok().map(|path| (snapshot.route(&path), path));
            let (route, path) = path.filter(|(route, _)| route.raw_path).ok_or_else(|| refused(bad))?;
            Ok(RoutedPath { path: Cow::Owned(path), raw_path: Some(sent), route })
        }
    }
}

/// How many gateways have passed the request on.
fn hops_before(head: &RequestHead) -> Result<u8, RequestError> {
    let hops = head.fields().get(HOPS).and_then(|hops| std::str::from_utf8(hops).ok()?.parse().ok()).unwrap_or(0);
    if hops >= MAX_HOPS {
        let detail = format!("the request has been passed on by {hops} gateways, so it goes round in a loop");
        return Err(problem(StatusCode::LOOP_DETECTED, ProblemKind::LOOP, detail));
    }
    Ok(hops)
}

fn limit_problem(exceeded: LimitExceeded, route: &RouteConfig) -> RequestError {
    match exceeded {
        LimitExceeded::Rate { wait } => {
            let rate = route.limits.rate.as_ref();
            let rate = rate.map_or_else(String::new, |rate| format!("{} requests per {:?}", rate.requests, rate.every));
            let detail = format!("rate limit exceeded: {rate}");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, ProblemKind::TOO_MANY_REQUESTS, detail);
            RequestError::Problem(Problem { retry_after: Some(wait), ..problem })
        }
        LimitExceeded::Concurrency => {
            let detail = "concurrency limit reached";
            problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail)
        }
    }
}

fn problem(status: StatusCode, kind: ProblemKind, detail: impl Into<String>) -> RequestError {
    RequestError::Problem(Problem::new(status, kind, detail))
}
