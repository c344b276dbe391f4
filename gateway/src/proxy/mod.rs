//! One request: whose it is, a call to a node or a request to a server, and the response.

pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod stream_body;
pub(crate) mod translate;
pub(crate) mod tunnel;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;
use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::balance::{PickOptions, RetryBudget};
use node_sdk::{CallError, Duplex, Peers, RawCall, RawReply};
use serde_json::value::RawValue;
use tokio::time::{Duration, Instant, timeout_at};
use tracing::debug;

use crate::config::snapshot::ConfigSnapshot;
use crate::config::{Balance, Route};
use crate::downstream::shedding::Shedding;
use crate::http1::head::{Framing, RequestHead};
use crate::http1::headers::{ForwardedInfo, HOPS, UpstreamRequest, put_request};
use crate::io::budget::{ConnectionBudget, OverBudget, Reservation};
use crate::io::buffers;
use crate::message::problem::Problem;
use crate::observe::access_log::{AccessLog, AccessLogEntry};
use crate::observe::metrics::Metrics;
use crate::proxy::exchange::{BodyError, Ended, Exchange, FullResponse, Handler};
use crate::proxy::forward::{ForwardError, ForwardRequest, Forwarded};
use crate::proxy::stream_body::StreamFormat;
use crate::proxy::translate::{JSON, body_params, form_params, has_body, is_one_json, readable_path, response};
use crate::route::limits::Limited;
use crate::route::path;
use crate::upstream::concurrency::QueueError;
use crate::upstream::endpoint::{ConnectError, Reuse};
use crate::upstream::holders::PermitKind;
use crate::upstream::table::{PickedEndpoint, UpstreamMatch, UpstreamTable};

/// Servers that are tried for one request.
const MAX_TRIES: usize = 4;
/// Bytes of a node's stream that wait for a client; there may be thousands who do not read.
const STREAM_WINDOW: u32 = 16 * 1024;
/// While more than half of a server's places are taken, a body is given to it when so much of it has come, or all: who sends little
/// by little has no place until then.
const BUFFERED_BYTES: usize = 64 * 1024;
/// Cookies that are looked at: each costs more than a request without one may.
const MAX_COOKIES: usize = 8;
/// How often a request may be passed on by gateways: more is a circle.
const MAX_HOPS: u8 = 5;

/// What answers the requests of one connection.
#[derive(Debug)]
pub(crate) struct Proxy<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) upstreams: &'a UpstreamTable,
    pub(crate) origin: ForwardedInfo,
    /// Who is connected.
    pub(crate) client: IpAddr,
    pub(crate) metrics: &'a Metrics,
    pub(crate) retries: &'a RetryBudget,
    pub(crate) shedding: &'a Shedding,
    pub(crate) access_log: Option<&'a AccessLog>,
    /// Of what it holds.
    pub(crate) budget: ConnectionBudget,
}

/// What is known of a request before it is answered.
struct RequestContext<'a> {
    head: &'a RequestHead,
    snapshot: &'a ConfigSnapshot,
    /// What holds for its path.
    route: &'a Route,
    /// In normal form.
    path: &'a str,
    query: &'a str,
    /// Who asks.
    client: IpAddr,
    origin: &'a ForwardedInfo,
    hops: u8,
    begin: Instant,
    deadline: Instant,
}

/// Whose a request is.
#[derive(Debug)]
enum Destination<'a> {
    /// A node's that is called with packets, under this method and path.
    Node(&'a str, Cow<'a, str>),
    /// A server's that speaks HTTP.
    Upstream(UpstreamMatch),
    /// A node's that is not there now.
    Unavailable,
    Unknown,
}

impl Handler for Proxy<'_> {
    /// Dropping the future, as happens when the client goes, takes the call back.
    async fn handle(&self, head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        let begin = Instant::now();
        let snapshot = self.upstreams.snapshot();
        let trusted = &snapshot.config.trusted;
        let believed = trusted.iter().any(|network| network.contains(&self.client));
        let through = believed.then(|| self.origin.through(self.client, head.fields(), trusted));
        let (client, origin) =
            through.as_ref().map_or((self.client, &self.origin), |(client, origin)| (*client, origin));
        let mut unanswered = LogOnDrop(Some((self, client, &head, begin)));
        let ended = self.handle_request(&head, exchange, &snapshot, (client, origin), begin).await;
        unanswered.0 = None;
        let took = ended.unwrap_or_else(|_| Instant::now()).saturating_duration_since(begin);
        self.log(client, Some(&head), exchange.status(), took);
        ended
    }

    fn record_rejection(&self, status: StatusCode) {
        self.log(self.client, None, Some(status), Duration::ZERO);
    }

    fn reservation(&self) -> Option<Reservation> {
        self.budget.reserve(self.client, 0).ok()
    }
}

/// A request that is dropped in the middle is told of too: it may have been carried out.
struct LogOnDrop<'a>(Option<(&'a Proxy<'a>, IpAddr, &'a RequestHead, Instant)>);

impl Drop for LogOnDrop<'_> {
    fn drop(&mut self) {
        if let Some((proxy, client, head, begin)) = self.0 {
            proxy.log(client, Some(head), None, begin.elapsed());
        }
    }
}

impl Proxy<'_> {
    /// A request was answered by somebody else.
    pub(crate) fn record_answer(&self, head: &RequestHead, status: StatusCode) {
        self.log(self.client, Some(head), Some(status), Duration::ZERO);
    }

    /// `head`: of a request that made sense.
    fn log(&self, client: IpAddr, head: Option<&RequestHead>, status: Option<StatusCode>, took: Duration) {
        let status = status.map(|status| status.as_u16());
        self.metrics.request(status, took);
        if let Some(log) = self.access_log {
            let (method, target) = head.map_or(("-", "-"), |head| (head.method(), head.target()));
            log.write(&AccessLogEntry { client, method, target, status, took });
        }
    }

    /// Gives when that was done.
    async fn handle_request(
        &self,
        head: &RequestHead,
        exchange: &mut impl Exchange,
        snapshot: &ConfigSnapshot,
        (client, origin): (IpAddr, &ForwardedInfo),
        begin: Instant,
    ) -> Result<Instant, Ended> {
        let problem = match self.dispatch(head, exchange, snapshot, (client, origin), begin).await {
            Ok(ended) => return Ok(ended),
            Err(BodyError::Problem(problem)) => problem,
            Err(BodyError::Ended(ended)) => return Err(ended),
        };
        let Problem { status, kind, detail } = &problem;
        debug!(status = status.as_u16(), kind = ?escaped(kind, MAX_ESCAPED_BYTES), detail = ?escaped(detail, MAX_ESCAPED_BYTES), "problem");
        if matches!(&**kind, "overloaded" | "too_many_requests") && self.shedding.is_delaying() {
            exchange.delay_rejection(Box::pin(self.shedding.delay())).await?;
        }
        let is_empty = snapshot.config.empty_404 && *status == StatusCode::NOT_FOUND && kind == "no_route";
        Ok(exchange.respond(if is_empty { FullResponse::new(*status, JSON, "") } else { FullResponse::from(&problem) }))
    }

    async fn dispatch(
        &self,
        head: &RequestHead,
        exchange: &mut impl Exchange,
        snapshot: &ConfigSnapshot,
        (client, origin): (IpAddr, &ForwardedInfo),
        begin: Instant,
    ) -> Result<Instant, BodyError> {
        if self.shedding.should_reject(fastrand::f64) {
            let detail = "there are more requests than can be answered in time";
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
        }
        let (method, target) = (head.method(), head.target());
        if target == "*" {
            // Asked of the gateway itself, mostly to see whether it is there: RFC 9110, 9.3.7.
            return Ok(exchange.respond(FullResponse::new(StatusCode::NO_CONTENT, "text/plain", "")));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path::normalize(path).map_err(|bad| BodyError::Problem(bad.into()))?;
        let hops = head.fields().get(HOPS).and_then(|hops| std::str::from_utf8(hops).ok()?.parse().ok()).unwrap_or(0);
        if hops >= MAX_HOPS {
            let detail = format!("the request has been passed on by {hops} gateways: it goes round in a circle");
            return Err(problem(StatusCode::LOOP_DETECTED, "loop", detail));
        }
        let route = snapshot.route(&path);
        let header = route.limits.header().map(|name| head.fields().get(name).unwrap_or_default());
        let guard = route.limits.admit(client, header, begin);
        let _guard = guard.map_err(|limited| limit_problem(limited, route))?;
        let deadline = begin + route.timeout.unwrap_or(snapshot.config.request_timeout);
        let (path, context) = (&*path, |path| RequestContext {
            head,
            snapshot,
            route,
            path,
            query,
            client,
            origin,
            hops,
            begin,
            deadline,
        });
        let url = || format!("{method}{path}");
        match self.destination(method, path) {
            // Said before the client sends a body that nobody would take.
            Destination::Unavailable => Err(call_problem(CallError::NoProvider { url: url() })),
            Destination::Unknown => Err(call_problem(CallError::NoRoute { url: url() })),
            Destination::Upstream(target) => {
                Box::pin(self.forward_with_retries(&context(path), &target, exchange)).await
            }
            Destination::Node(node_method, path) => {
                let mut held = self.budget.reserve(client, 0)?;
                let params =
                    read_params(head, query, exchange, snapshot.config.max_body_bytes, deadline, &mut held).await?;
                let key = client_key(route, client);
                let call = with_balance(self.peers.call_raw(node_method, &path, &params), route, key.as_deref());
                // What has no body has taken no time.
                let now = if has_body(method) { Instant::now() } else { begin };
                let call = call.started_at(now).timeout(deadline.saturating_duration_since(now));
                let form = StreamFormat::accepted(head.fields()).filter(|_| method != "HEAD");
                let answer = match form {
                    None => exchange.until_client_gone(call).await?.map_err(call_problem)?,
                    Some(form) => {
                        match exchange
                            .until_client_gone(Box::pin(call.open(STREAM_WINDOW)))
                            .await?
                            .map_err(call_problem)?
                        {
                            RawReply::Response(answer) => answer,
                            RawReply::Stream(parts) => {
                                drop(held);
                                let hold = |bytes| self.budget.reserve(client, bytes);
                                return Box::pin(respond_with_parts(parts, form, head, exchange, hold)).await;
                            }
                        }
                    }
                };
                let (status, body) = response(&answer).map_err(BodyError::Problem)?;
                drop(held);
                // A client that does not read its answers does not get more and more of them.
                let held = Some(self.budget.reserve(client, body.len())?);
                Ok(exchange.respond(FullResponse { held, ..FullResponse::new(status, JSON, body) }))
            }
        }
    }

    /// Nodes that offer the very route come first, then the longest prefix of a server, then whoever offered the route once.
    fn destination<'a>(&self, method: &'a str, path: &'a str) -> Destination<'a> {
        // What has GET has HEAD (RFC 9110, 9.3.2), without the body.
        let methods = if method == "HEAD" { &["HEAD", "GET"][..] } else { std::slice::from_ref(&method) };
        let readable = readable_path(path);
        for path in [Some(Cow::Borrowed(path)), readable.clone().map(Cow::Owned)].into_iter().flatten() {
            if let Some(method) = methods.iter().find(|method| self.peers.offers(method, &path)) {
                return Destination::Node(method, path);
            }
        }
        if let Some(target) = self.upstreams.find(path) {
            return Destination::Upstream(target);
        }
        let mut paths = [Some(path), readable.as_deref()].into_iter().flatten();
        let is_known = paths.any(|path| methods.iter().any(|method| self.peers.has_known(method, path)));
        if is_known { Destination::Unavailable } else { Destination::Unknown }
    }

    /// Passes a request on to one of the servers, and to another one only if nobody can have carried it out, or if it may be carried
    /// out twice.
    async fn forward_with_retries(
        &self,
        context: &RequestContext<'_>,
        target: &UpstreamMatch,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, BodyError> {
        let RequestContext { head, snapshot, route, path, query, client, origin, hops, begin, mut deadline } = *context;
        let kind = if head.upgrades { PermitKind::Tunnels } else { PermitKind::Requests };
        let may_repeat = head.framing == Framing::Empty && is_idempotent(head.method());
        let config = &snapshot.config;
        let mut tried = Vec::new();
        let (mut again, mut full, mut has_buffered) = (false, false, false);
        let mut held = self.budget.reserve(client, 0)?;
        self.retries.deposit();
        let mut now = begin;
        loop {
            let overloaded = || {
                let detail = "the servers have as much to do as they may have";
                problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
            };
            let Some((picked, set_cookie)) =
                pick_endpoint(context, target, &tried, now).filter(|_| tried.len() < MAX_TRIES)
            else {
                if full {
                    return Err(overloaded());
                }
                let detail = format!("no server that answers {} can be reached", &path[..target.prefix_bytes.max(1)]);
                return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no_provider", detail));
            };
            let endpoint = &picked.endpoint;
            // A place is for what there is something to do for. While many are taken, a client that sends little is not given one.
            if head.framing != Framing::Empty && !has_buffered && picked.is_half_full() {
                has_buffered = true;
                Box::pin(exchange.buffer_body(BUFFERED_BYTES, &mut held)).await?;
                let buffered = Instant::now();
                // The client's time is not the server's.
                deadline += buffered.saturating_duration_since(now);
                now = buffered;
            }
            let wait_until = deadline.min(now + route.queue_timeout);
            // Nearly always there is nothing to wait for, neither here nor below: what waits is on the heap.
            let permit = match picked.try_acquire(kind, client, now) {
                Some(permit) => Ok(permit),
                None => exchange.until_client_gone(Box::pin(picked.acquire(kind, client, now, wait_until))).await?,
            };
            let permit = match permit {
                Ok(permit) => permit,
                // Somebody else may have a place sooner.
                Err(QueueError::Full) => {
                    full = true;
                    tried.push(endpoint.address);
                    continue;
                }
                Err(QueueError::TimedOut) => return Err(overloaded()),
            };
            let too_late = || problem(StatusCode::GATEWAY_TIMEOUT, "deadline", "no server could be reached in time");
            let reuse = match (again, may_repeat) {
                (true, _) => Reuse::Never,
                (false, true) => Reuse::Any,
                (false, false) => Reuse::Sure,
            };
            let connected = match endpoint.reuse(reuse, permit.acquired_at) {
                Some(server) => Ok(server),
                None => {
                    let connecting = Box::pin(timeout_at(deadline, endpoint.connect(reuse, permit.acquired_at)));
                    exchange.until_client_gone(connecting).await?.map_err(|_elapsed| too_late())?
                }
            };
            let mut server = match connected {
                Ok(server) => server,
                Err(ConnectError::Unreachable) => {
                    now = Instant::now();
                    tried.push(endpoint.address);
                    continue;
                }
                Err(ConnectError::Exhausted) => {
                    let detail = "this machine has no port or descriptor left to connect to a server with";
                    return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "no_local_port", detail));
                }
            };
            // What was open has taken no time.
            now = if server.is_used { permit.acquired_at } else { Instant::now() };
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                // Asking now would be work for nobody.
                return Err(too_late());
            }
            let mut bytes = buffers::acquire();
            bytes.reserve(1024);
            let seen = if picked.strip { &path[target.prefix_bytes..] } else { path };
            let slash = if seen.starts_with('/') { "" } else { "/" };
            let mark = if head.target().contains('?') { "?" } else { "" };
            let target = [slash, seen, mark, query];
            put_request(&mut bytes, head, UpstreamRequest { target, server: endpoint.address, origin, hops });
            let timeout = route.try_timeout.filter(|_| may_repeat && !again).map_or(left, |most| most.min(left));
            let idle_timeout = config.response_idle_timeout;
            let request = ForwardRequest { head, bytes, now, timeout, idle_timeout, set_cookie, permit: &permit };
            let asked = now;
            let forwarded = exchange.forward(request, server.stream()).await;
            now = Instant::now();
            let failed = match forwarded {
                Ok(Forwarded::Done { keep_server, answered }) => {
                    if exchange.status().is_some_and(counts_as_failure) {
                        endpoint.load.record_failure(now.into_std(), true);
                    } else {
                        endpoint.load.record_response(now.into_std(), answered);
                    }
                    if let Some(keep) = keep_server {
                        server.return_to_pool(keep, asked + answered, now);
                    }
                    return Ok(now);
                }
                Ok(Forwarded::Tunnel { to_client }) => {
                    endpoint.load.reset();
                    let (server, idle) = (server.detach(), route.tunnel_idle_timeout);
                    return Err(BodyError::Ended(exchange.tunnel(server, to_client, permit, idle).await));
                }
                Err(failed) => failed,
            };
            // A server closes what it has not used for a while, and may have done so while the request was on its way.
            let is_race = server.is_used && matches!(failed, ForwardError::Unanswered);
            if !is_race && !matches!(failed, ForwardError::Client(_) | ForwardError::Ended(_)) {
                endpoint.load.record_failure(now.into_std(), !matches!(failed, ForwardError::Deadline));
            }
            let in_vain = match failed {
                ForwardError::Unanswered => {
                    let detail = "the server that worked on the request was lost before it answered";
                    problem(StatusCode::BAD_GATEWAY, "node_lost", detail)
                }
                ForwardError::Malformed(why) => {
                    debug!(server = %endpoint.address, why, "a response makes no sense");
                    return Err(problem(StatusCode::BAD_GATEWAY, "bad_answer", "the server's response makes no sense"));
                }
                ForwardError::Deadline => {
                    problem(StatusCode::GATEWAY_TIMEOUT, "deadline", "the server did not answer in time")
                }
                ForwardError::Client(problem) => return Err(BodyError::Problem(problem)),
                ForwardError::Ended(ended) => return Err(BodyError::Ended(ended)),
            };
            if !may_repeat || again || now >= deadline || !self.retries.try_withdraw(now.into_std()) {
                return Err(in_vain);
            }
            again = true;
            if is_race {
                // The others have been open for longer.
                endpoint.close_idle();
            } else {
                tried.push(endpoint.address);
            }
        }
    }
}

/// Gives a client what a node tells little by little, for as long as both are there.
async fn respond_with_parts(
    parts: Duplex<Box<RawValue>>,
    form: StreamFormat,
    head: &RequestHead,
    exchange: &mut impl Exchange,
    hold: impl Fn(usize) -> Result<Reservation, OverBudget> + Send + Sync,
) -> Result<Instant, BodyError> {
    // Its arguments have been sent: whoever takes more of them is told that there are none.
    parts.sender().finish();
    let mut held = None;
    let parts = parts.map(|part| match part {
        Ok(part) if !is_one_json(part.get().as_bytes()) => Err(Ended("a part of a node's stream is no JSON")),
        Ok(part) => {
            // The one before has left, or is about to.
            held = None;
            let _until_the_next = held.insert(hold(part.get().len()).map_err(|_over| Ended("holds more than it may"))?);
            Ok(form.write(part.get()))
        }
        Err(error) => {
            debug!(%error, "a node's stream has ended before its end");
            Err(Ended("a node's stream has ended before its end"))
        }
    });
    exchange.respond_with_stream(head, &form.head(), parts).await?;
    Ok(Instant::now())
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn call_problem(error: CallError) -> BodyError {
    BodyError::Problem(Problem::from_call(&error))
}

/// The arguments of a call: in the body, or else in the query.
async fn read_params(
    head: &RequestHead,
    query: &str,
    exchange: &mut impl Exchange,
    max_body_bytes: usize,
    deadline: Instant,
    held: &mut Reservation,
) -> Result<String, BodyError> {
    if !has_body(head.method()) {
        return Ok(form_params(query.as_bytes()));
    }
    let body = exchange.whole_body(max_body_bytes, deadline, held).await?;
    let content_type = head.fields().get("content-type").map(|value| std::str::from_utf8(value).unwrap_or_default());
    body_params(content_type, &body).map_err(BodyError::Problem)
}

/// What a client's calls have in common, if they are to be answered by the same node.
fn client_key(route: &Route, client: IpAddr) -> Option<String> {
    (route.balance == Some(Balance::Client)).then(|| client.to_string())
}

/// A call to the node whose turn it is.
fn with_balance<'a>(call: RawCall<'a>, route: &Route, key: Option<&'a str>) -> RawCall<'a> {
    use node_sdk::Balance as By;
    match (route.balance, key) {
        (_, Some(key)) => call.sticky_key(key),
        (Some(Balance::RoundRobin), _) => call.balance(By::RoundRobin),
        (Some(Balance::LeastConnections), _) => call.balance(By::LeastInFlight),
        (Some(Balance::LeastCost | Balance::Client | Balance::Cookie) | None, _) => call,
    }
}

/// Who is to be asked, with the cookie that the client is to keep for the next time.
fn pick_endpoint(
    context: &RequestContext<'_>,
    target: &UpstreamMatch,
    tried: &[SocketAddr],
    now: Instant,
) -> Option<(PickedEndpoint, Option<String>)> {
    use node_sdk::Balance as By;
    let RequestContext { head, snapshot, route, client, origin, .. } = *context;
    let group = &target.group;
    let by = |balance| group.pick(&PickOptions { balance, tried, ..PickOptions::default() }, now);
    match route.balance.unwrap_or(Balance::RoundRobin) {
        Balance::Cookie => {
            let cookies = head.fields().iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
            let mut ids = cookies.flat_map(|(_, value)| snapshot.cookies.read(value)).take(MAX_COOKIES);
            // Of several, as from two paths or from before a change of servers, any will do that leads somewhere.
            if let Some(picked) = ids.find_map(|id| group.pick_by_cookie(&snapshot.cookies, id, tried, now)) {
                return Some((picked, None));
            }
            let picked = by(By::LeastInFlight)?;
            let cookie = snapshot.cookies.set_cookie(picked.endpoint.address, origin.is_tls());
            Some((picked, Some(cookie)))
        }
        Balance::Client => {
            let key = client.to_string();
            let choice = PickOptions { sticky: Some(&key), tried, ..PickOptions::default() };
            group.pick(&choice, now).map(|picked| (picked, None))
        }
        Balance::LeastConnections => by(By::LeastInFlight).map(|picked| (picked, None)),
        Balance::LeastCost => by(By::PeakEwma).map(|picked| (picked, None)),
        Balance::RoundRobin => {
            // Those that stay for long are spread by how many there are.
            let balance = if head.upgrades { By::LeastInFlight } else { By::RoundRobin };
            by(balance).map(|picked| (picked, None))
        }
    }
}

/// What a server says that cannot do its work, or somebody behind it: others may do better.
fn counts_as_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn limit_problem(limited: Limited, route: &Route) -> BodyError {
    match limited {
        Limited::Rate => {
            let rate = route.limits.rate.as_ref();
            let rate = rate.map_or_else(String::new, |rate| format!("{} in {:?}", rate.requests, rate.every));
            problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", format!("there may be {rate}; ask more slowly"))
        }
        Limited::Concurrency => {
            let detail = "there are as many requests at a time as may be";
            problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
        }
    }
}

/// Carrying it out twice does no harm: RFC 9110, 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

fn problem(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> BodyError {
    BodyError::Problem(Problem::new(status, kind, detail))
}
