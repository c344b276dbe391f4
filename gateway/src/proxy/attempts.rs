//! The attempts of a request at servers: another one is tried when the first has not carried it
//! out.

use std::net::SocketAddr;

use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, buffers, escaped};
use node_sdk::gateway::{GatewayPeers, PickOptions, is_idempotent};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{Proxy, RequestContext, problem};
use crate::config::{Balance, Sticky};
use crate::http1::request_writer::{UpstreamRequest, put_request};
use crate::message::body::Framing;
use crate::message::head::RequestHead;
use crate::message::location::LocationRewrite;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseEdits;
use crate::proxy::ended::{BodyError, Ended};
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{ForwardError, ForwardRequest, Forwarded, forward};
use crate::route::path::after_prefix;
use crate::upstream::concurrency::QueueError;
use crate::upstream::endpoint::{ConnectError, Endpoint, Reuse};
use crate::upstream::group::{PickedEndpoint, UpstreamMatch};
use crate::upstream::holders::PermitKind;

/// Most servers that are tried for one request: where three have failed, a fourth try is the last.
const MAX_TRIES: usize = 4;
/// While more than half of a server's permits are taken, a request waits for this many bytes of its
/// body, or all of it, before it takes one. A client that sends slowly holds no permit until then.
const BUFFERED_BYTES: usize = 64 * 1024;
/// Most cookies that are checked: each costs more than the rest of a request.
const MAX_COOKIES: usize = 8;

impl Proxy<'_> {
    /// Passes a request on to one of the servers, and to another one only if the first cannot have
    /// carried it out, or if the request may be carried out twice.
    pub(super) async fn forward_with_retries(
        &self,
        context: &RequestContext<'_>,
        target: &UpstreamMatch,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, BodyError> {
        let RequestContext { head, snapshot, route, path, raw_path, query, client, origin, .. } = *context;
        let RequestContext { hops, begin, mut deadline, .. } = *context;
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
                let detail = "all servers are at their connection limit";
                problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail)
            };
            let prefix = &path[..target.prefix_bytes];
            let Some((picked, set_cookie)) =
                pick_endpoint(context, target, &tried, now).filter(|_| tried.len() < MAX_TRIES)
            else {
                if full {
                    return Err(overloaded());
                }
                let detail = format!("no server of {} can be reached", &path[..target.prefix_bytes.max(1)]);
                return Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::NO_PROVIDER, detail));
            };
            let endpoint = &picked.endpoint;
            // A permit is for a request that the server can handle. While many are taken, a client
            // that sends slowly does not get one.
            if head.framing != Framing::Empty && !has_buffered && picked.is_half_full() {
                has_buffered = true;
                Box::pin(exchange.buffer_body(BUFFERED_BYTES, &mut held)).await?;
                let buffered = Instant::now();
                // Time spent on the client does not count against the server.
                deadline += buffered.saturating_duration_since(now);
                now = buffered;
            }
            let wait_until = deadline.min(now + route.queue_timeout);
            // There is hardly ever a wait, here or below, so the waiting future is on the heap.
            let permit = match picked.try_acquire(kind, client, now) {
                Some(permit) => Ok(permit),
                None => exchange.until_client_gone(Box::pin(picked.acquire(kind, client, now, wait_until))).await?,
            };
            let permit = match permit {
                Ok(permit) => permit,
                // Another server may have a free permit sooner.
                Err(QueueError::Full) => {
                    full = true;
                    tried.push(endpoint.address);
                    continue;
                }
                Err(QueueError::TimedOut) => return Err(overloaded()),
            };
            let too_late =
                || problem(StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE, "no server could be reached in time");
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
                Ok(server) => {
                    if server.has_recovered {
                        self.peers.record_reach(endpoint.address, Ok(()));
                    }
                    server
                }
                Err(ConnectError::Unreachable(why)) => {
                    now = Instant::now();
                    self.upstreams.record_unreachable(endpoint.address);
                    self.peers.record_reach(endpoint.address, Err(why));
                    tried.push(endpoint.address);
                    continue;
                }
                Err(ConnectError::Exhausted) => {
                    let detail = "the gateway's machine has no port or descriptor left for a connection to a server";
                    return Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::NO_LOCAL_PORT, detail));
                }
            };
            // An open connection has taken no time.
            now = if server.is_used { permit.acquired_at } else { Instant::now() };
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                // The client would not see the response.
                return Err(too_late());
            }
            let mut bytes = buffers::acquire();
            bytes.reserve(1024);
            let stripped = if picked.strip { prefix } else { "" };
            let seen = match raw_path {
                Some(raw) => after_prefix(raw, stripped),
                None => &path[stripped.len()..],
            };
            let slash = if seen.starts_with('/') { "" } else { "/" };
            let mark = if head.target().contains('?') { "?" } else { "" };
            let awaits_continue = head.expects_continue && !has_buffered;
            let request = UpstreamRequest {
                target: [slash, seen, mark, query],
                server: endpoint.address,
                origin,
                hops,
                stripped,
                underscores: route.underscores,
                expects_continue: awaits_continue,
                make_id: net::unique_id,
            };
            let left_out = put_request(&mut bytes, head, request);
            if left_out > 0 {
                self.metrics.record_fields_left_out(left_out);
                self.warn_of_fields(head, now);
            }
            let rewrites = (route.rewrite_location || route.rewrite_cookies) && !stripped.is_empty();
            let location = rewrites.then(|| LocationRewrite {
                prefix: stripped,
                host: origin.host.as_deref().or_else(|| head.host()),
                server: endpoint.address,
                redirects: route.rewrite_location,
                cookies: route.rewrite_cookies,
            });
            let edits = ResponseEdits { set_cookie, location };
            let timeout = route.try_timeout.filter(|_| may_repeat && !again).map_or(left, |most| most.min(left));
            let idle_timeout = config.response_idle_timeout;
            let request =
                ForwardRequest { head, bytes, now, timeout, idle_timeout, edits, awaits_continue, permit: &permit };
            let asked = now;
            exchange.begin_forward(awaits_continue).await?;
            let outcome = {
                let (mut source, mut sink, timer) = exchange.split(head, true, now);
                forward(request, &mut source, &mut sink, server.stream(), timer).await
            };
            let is_whole = exchange.end_forward(&outcome);
            now = Instant::now();
            let failed = match outcome.result {
                Ok(Forwarded::Done { keep_server, answered }) => {
                    if exchange.status().is_some_and(counts_as_failure) {
                        endpoint.load.record_failure(now.into_std(), true);
                    } else {
                        endpoint.load.record_response(now.into_std(), answered);
                    }
                    // A server that was not given all of a request would take the next one for the
                    // rest of it.
                    if let Some(keep) = keep_server.filter(|_| is_whole) {
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
            // A server closes connections that have been idle for a while, and may have done so
            // while the request was on its way.
            let is_race = server.is_used && matches!(failed, ForwardError::Unanswered);
            if !is_race && !matches!(failed, ForwardError::Client(_) | ForwardError::Ended(_) | ForwardError::Cut(_)) {
                endpoint.load.record_failure(now.into_std(), !matches!(failed, ForwardError::Deadline));
            }
            let in_vain = match failed {
                ForwardError::Unanswered => {
                    let detail = "the server that handled the request was lost before it answered";
                    problem(StatusCode::BAD_GATEWAY, ProblemKind::NODE_LOST, detail)
                }
                ForwardError::Malformed(why) => {
                    self.record_malformed(endpoint, &why, now);
                    return Err(problem(
                        StatusCode::BAD_GATEWAY,
                        ProblemKind::BAD_ANSWER,
                        "the server's response is malformed",
                    ));
                }
                ForwardError::Cut(why) => {
                    self.record_malformed(endpoint, why, now);
                    return Err(BodyError::Ended(Ended("the server's response did not end as it should")));
                }
                ForwardError::Deadline => {
                    problem(StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE, "the server did not answer in time")
                }
                ForwardError::Client(problem) => return Err(BodyError::Problem(problem)),
                ForwardError::Ended(ended) => return Err(BodyError::Ended(ended)),
            };
            if !may_repeat || again || now >= deadline || !self.retries.try_withdraw(now.into_std()) {
                return Err(in_vain);
            }
            again = true;
            if is_race {
                // The other connections have been open for longer.
                endpoint.close_idle();
            } else {
                tried.push(endpoint.address);
            }
        }
    }
}

impl Proxy<'_> {
    /// A server is not given a field with `_` in its name. Neither it nor its client learns of that.
    fn warn_of_fields(&self, head: &RequestHead, now: Instant) {
        let Some((name, _)) = head.fields().iter().find(|(name, _)| name.contains(&b'_')) else { return };
        if let Some(suppressed) = self.shared.log_throttles.allow_for("fields_left_out", name, now.into_std()) {
            let field = escaped(String::from_utf8_lossy(name), MAX_ESCAPED_BYTES);
            warn!(%field, suppressed, "a field of a request is left out, as servers may read its _ as a -; underscores = true on its route passes on what imitates no other field");
        }
    }

    /// A server has sent what is no whole response. Its operator has to know.
    fn record_malformed(&self, endpoint: &Endpoint, why: &str, now: Instant) {
        let why = escaped(why, MAX_ESCAPED_BYTES).to_string();
        self.metrics.record_malformed_response();
        if let Some(suppressed) =
            self.shared.log_throttles.allow_for("malformed_responses", endpoint.address, now.into_std())
        {
            warn!(server = %endpoint.address, why, suppressed, "a server's response is malformed, or was cut");
        }
        endpoint.record_malformed(why, now);
    }
}

/// Picks the server for a request, with the cookie for the client if it needs one.
fn pick_endpoint(
    context: &RequestContext<'_>,
    target: &UpstreamMatch,
    tried: &[SocketAddr],
    now: Instant,
) -> Option<(PickedEndpoint, Option<String>)> {
    let RequestContext { head, snapshot, route, client, origin, .. } = *context;
    let group = &target.group;
    let by = |balance| group.pick(&PickOptions { balance, tried, ..PickOptions::default() }, now);
    let balance = match (route.sticky, route.balance) {
        (Some(Sticky::Cookie), _) => {
            let name = snapshot.cookie_name(route, &context.path[..target.prefix_bytes]);
            let cookies = head.fields().iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
            let mut ids = cookies.flat_map(|(_, value)| snapshot.cookies.read(name, value)).take(MAX_COOKIES);
            // If there are several, as from two paths or from before a change of servers, any
            // cookie of a present server will do.
            if let Some(picked) = ids.find_map(|id| group.pick_by_cookie(&snapshot.cookies, id, tried, now)) {
                return Some((picked, None));
            }
            let picked = by(Balance::LeastInFlight)?;
            let cookie = snapshot.cookies.set_cookie(name, picked.endpoint.address, origin.is_tls());
            return Some((picked, Some(cookie)));
        }
        (Some(Sticky::Client), _) => {
            let key = client.to_string();
            let choice = PickOptions { sticky: Some(&key), tried, ..PickOptions::default() };
            return group.pick(&choice, now).map(|picked| (picked, None));
        }
        // Long-lived connections are balanced by their number.
        (None, None | Some(Balance::RoundRobin)) if head.upgrades => Balance::LeastInFlight,
        (None, balance) => balance.unwrap_or(Balance::RoundRobin),
    };
    by(balance).map(|picked| (picked, None))
}

/// Whether a status says that the server, or one behind it, cannot do its work, so that another
/// server may succeed.
fn counts_as_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}
