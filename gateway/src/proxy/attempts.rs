//! The attempts of a request at servers: another one is tried when the first has not carried it
//! out.

use std::sync::Arc;

use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, ServerAddress, escaped};
use node_sdk::gateway::{GatewayPeers, PickOptions, is_idempotent};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{Proxy, RequestContext, problem};
use crate::config::{Balance, Sticky};
use crate::message::body::Framing;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseEdits;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{ForwardError, ForwardRequest, Forwarded, forward};
use crate::proxy::request_error::{Ended, RequestError};
use crate::proxy::server_request::location_rewrite;
use crate::upstream::concurrency::holders::PermitKind;
use crate::upstream::concurrency::{Permit, QueueError};
use crate::upstream::endpoint::{ConnectError, Endpoint, Reuse, ServerConnection};
use crate::upstream::group::{PickedEndpoint, UpstreamMatch};

/// Maximum number of servers that are tried for one request: where three have failed, a fourth try
/// is the last.
const MAX_TRIES: usize = 4;
/// While more than half of a server's permits are taken, a request waits for this many bytes of its
/// body, or all of it, before it takes one. A client that sends slowly holds no permit until then.
const BUFFERED_BYTES: usize = 64 * 1024;
/// Maximum number of cookies that are checked: each costs more than the rest of a request.
const MAX_COOKIES: usize = 8;

impl Proxy<'_> {
    /// Passes a request on to one of the servers, and to another one only if the first cannot have
    /// carried it out, or if the request may be carried out twice.
    pub(super) async fn forward_with_retries(
        &self,
        context: &RequestContext<'_>,
        upstream: &UpstreamMatch,
        exchange: &mut impl Exchange,
    ) -> Result<Instant, RequestError> {
        let RequestContext { head, path, client, .. } = *context;
        let mut attempts = Attempts::new(context);
        let mut held = self.budget.reserve(client, 0)?;
        self.retries.deposit();
        loop {
            let Some((picked, set_cookie)) = pick_endpoint(context, upstream, &attempts) else {
                return Err(attempts.none_left(&path[..upstream.prefix_bytes.max(1)]));
            };
            let endpoint = &picked.endpoint;
            // A permit is for a request that the server can handle. While many are taken, a client
            // that sends slowly does not get one.
            if head.framing != Framing::Empty && !attempts.has_buffered && picked.is_half_full() {
                Box::pin(exchange.buffer_body(BUFFERED_BYTES, &mut held)).await?;
                attempts.record_buffered(Instant::now());
            }
            let Some(permit) = acquire_permit(context, &picked, &mut attempts, exchange).await? else { continue };
            let connected = self.connect(endpoint, &mut attempts, permit.acquired_at, exchange).await?;
            let Some(server) = connected else { continue };
            let stripped = if picked.strip { &path[..upstream.prefix_bytes] } else { "" };
            let attempt = Attempt { endpoint, server, permit, stripped, set_cookie };
            if let Some(done) = self.attempt(context, attempt, &mut attempts, exchange).await? {
                return Ok(done);
            }
        }
    }

    /// Sends the request to one server, and passes the response on. Returns when that was done;
    /// `None` when another attempt is to follow.
    async fn attempt(
        &self,
        context: &RequestContext<'_>,
        attempt: Attempt<'_>,
        attempts: &mut Attempts,
        exchange: &mut impl Exchange,
    ) -> Result<Option<Instant>, RequestError> {
        let RequestContext { head, snapshot, route, .. } = *context;
        let Attempt { endpoint, mut server, permit, stripped, set_cookie } = attempt;
        let left = attempts.deadline.saturating_duration_since(attempts.now);
        if left.is_zero() {
            // The client would not see the response.
            return Err(too_late());
        }
        let awaits_continue = head.expects_continue && !attempts.has_buffered;
        let is_first = attempts.may_repeat && !attempts.is_retry;
        let sent_at = attempts.now;
        let request = ForwardRequest {
            head,
            bytes: self.write_head(context, endpoint, stripped, awaits_continue, sent_at),
            now: sent_at,
            timeout: route.try_timeout.filter(|_| is_first).map_or(left, |max| max.min(left)),
            idle_timeout: snapshot.config.response_idle_timeout,
            edits: ResponseEdits {
                set_cookie,
                location: location_rewrite(context, endpoint, stripped),
                hides_cors: route.cors.is_some(),
            },
            awaits_continue,
            permit: &permit,
        };
        exchange.begin_forward(awaits_continue).await?;
        let outcome = {
            let (mut source, mut sink, timer) = exchange.split(head, true, sent_at);
            forward(request, &mut source, &mut sink, server.stream(), timer).await
        };
        let is_whole = exchange.end_forward(&outcome);
        attempts.now = Instant::now();
        match outcome.result {
            Ok(Forwarded::Done { keep_server, response_time }) => {
                let now = attempts.now;
                if exchange.status().is_some_and(counts_as_failure) {
                    endpoint.load.record_failure(now.into_std());
                } else {
                    endpoint.load.record_response(now.into_std(), response_time);
                }
                // A server that has not been sent all of a request would read the next request as
                // the rest of it.
                if let Some(keep) = keep_server.filter(|_| is_whole) {
                    server.return_to_pool(keep, sent_at + response_time, now);
                }
                Ok(Some(now))
            }
            Ok(Forwarded::Tunnel { to_client }) => {
                endpoint.load.reset();
                let (server, idle) = (server.detach(), route.tunnel_idle_timeout);
                Err(RequestError::Ended(exchange.tunnel(server, to_client, permit, idle).await))
            }
            Err(failed) => self.prepare_retry(endpoint, failed, server.is_used, attempts).map(|()| None),
        }
    }

    /// Records a failed attempt, and prepares another one.
    ///
    /// # Errors
    /// The error for the client, if no other attempt may follow.
    fn prepare_retry(
        &self,
        endpoint: &Endpoint,
        failed: ForwardError,
        is_used: bool,
        attempts: &mut Attempts,
    ) -> Result<(), RequestError> {
        // A server closes connections that have been idle for a while, and may have done so while
        // the request was on its way.
        let is_race = is_used && matches!(failed, ForwardError::Unanswered);
        self.record_failure(endpoint, &failed, is_race, attempts.now);
        if !attempts.may_try_again(&failed) || !self.retries.try_withdraw(attempts.now.into_std()) {
            return Err(error_of(failed));
        }
        attempts.is_retry = true;
        if is_race {
            // The other connections have been open for longer.
            endpoint.close_idle();
        } else {
            attempts.tried.push(endpoint.address.clone());
            attempts.lost = Some(failed);
        }
        Ok(())
    }

    /// Takes an open connection to a server, or a new one; `None` when the server cannot be
    /// reached.
    async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        attempts: &mut Attempts,
        acquired_at: Instant,
        exchange: &mut impl Exchange,
    ) -> Result<Option<ServerConnection>, RequestError> {
        let reuse = attempts.reuse();
        let connected = match endpoint.reuse(reuse, acquired_at) {
            Some(server) => Ok(server),
            None => {
                // Waiting is rare, so its future is on the heap.
                let connecting = Box::pin(timeout_at(attempts.deadline, endpoint.connect(reuse, acquired_at)));
                exchange.until_client_gone(connecting).await?.map_err(|_elapsed| too_late())?
            }
        };
        match connected {
            Ok(server) => {
                if server.has_recovered
                    && let Some(address) = endpoint.address.tcp()
                {
                    self.peers.record_reach(address, Ok(()));
                }
                // An open connection has taken no time.
                attempts.now = if server.is_used { acquired_at } else { Instant::now() };
                Ok(Some(server))
            }
            Err(ConnectError::Unreachable(why)) => {
                attempts.now = Instant::now();
                self.upstreams.record_unreachable(&endpoint.address);
                if let Some(address) = endpoint.address.tcp() {
                    self.peers.record_reach(address, Err(why));
                }
                attempts.tried.push(endpoint.address.clone());
                Ok(None)
            }
            Err(ConnectError::Exhausted) => {
                let detail = "the gateway's machine has no port or descriptor left for a connection to a server";
                Err(problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::NO_LOCAL_PORT, detail))
            }
        }
    }

    /// Records a failed attempt against its server, if the server is at fault.
    fn record_failure(&self, endpoint: &Endpoint, failed: &ForwardError, is_race: bool, now: Instant) {
        match failed {
            ForwardError::Unanswered if is_race => {}
            ForwardError::Unanswered => endpoint.load.record_failure(now.into_std()),
            ForwardError::Malformed(why) => {
                endpoint.load.record_failure(now.into_std());
                self.record_malformed(endpoint, why, now);
            }
            ForwardError::Deadline => endpoint.load.record_timeout(now.into_std()),
            ForwardError::Cut(why) => self.record_malformed(endpoint, why, now),
            ForwardError::Client(_) | ForwardError::Ended(_) => {}
        }
    }

    /// Records and logs that a server's response was malformed or cut, because its operator has to
    /// know.
    fn record_malformed(&self, endpoint: &Endpoint, why: &str, now: Instant) {
        let why = escaped(why, MAX_ESCAPED_BYTES).to_string();
        self.metrics.record_malformed_response();
        if let Some(suppressed) =
            self.shared.log_throttles.allow_for("malformed_responses", &endpoint.address, now.into_std())
        {
            warn!(server = %endpoint.address, why, suppressed, "a server's response is malformed, or was cut");
        }
        endpoint.record_malformed(why, now);
    }
}

/// An attempt that is about to be made.
struct Attempt<'a> {
    endpoint: &'a Arc<Endpoint>,
    server: ServerConnection,
    permit: Permit,
    /// The part of the path that the server does not see.
    stripped: &'a str,
    /// The cookie that keeps the client with this server, if it has none.
    set_cookie: Option<String>,
}

/// The attempts of one request so far.
struct Attempts {
    /// The servers that are not tried again.
    tried: Vec<ServerAddress>,
    /// Whether a server had no free permit.
    has_found_full: bool,
    /// Whether a server was sent the request before.
    is_retry: bool,
    /// How the request failed at that server, unless the server was closing the connection.
    lost: Option<ForwardError>,
    /// Whether the request may be carried out twice.
    may_repeat: bool,
    /// Whether the body, or its beginning, was read before a permit was taken.
    has_buffered: bool,
    now: Instant,
    deadline: Instant,
}

impl Attempts {
    fn new(context: &RequestContext<'_>) -> Self {
        let RequestContext { head, begin, deadline, .. } = *context;
        let may_repeat = head.framing == Framing::Empty && is_idempotent(head.method());
        let (has_found_full, is_retry, has_buffered) = (false, false, false);
        Self { tried: Vec::new(), has_found_full, is_retry, lost: None, may_repeat, has_buffered, now: begin, deadline }
    }

    /// Records that the body was read into memory. Time spent on the client does not count against
    /// the server.
    fn record_buffered(&mut self, now: Instant) {
        self.has_buffered = true;
        self.deadline += now.saturating_duration_since(self.now);
        self.now = now;
    }

    /// Which connections the next attempt may use.
    fn reuse(&self) -> Reuse {
        match (self.is_retry, self.may_repeat) {
            (true, _) => Reuse::Never,
            (false, true) => Reuse::Any,
            (false, false) => Reuse::Reliable,
        }
    }

    /// Whether another attempt may follow one that has failed, if the retry budget allows it.
    fn may_try_again(&self, failed: &ForwardError) -> bool {
        let is_without_response = matches!(failed, ForwardError::Unanswered | ForwardError::Deadline);
        is_without_response && self.may_repeat && !self.is_retry && self.now < self.deadline
    }

    /// The error when no further server can be tried.
    fn none_left(&mut self, prefix: &str) -> RequestError {
        if let Some(lost) = self.lost.take() {
            return error_of(lost);
        }
        if self.has_found_full {
            return all_full();
        }
        let detail = format!("no server of {prefix} can be reached");
        problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::NO_PROVIDER, detail)
    }
}

/// Takes a permit of the server that was picked, or waits for one; `None` if another server may
/// have a free one sooner.
async fn acquire_permit(
    context: &RequestContext<'_>,
    picked: &PickedEndpoint,
    attempts: &mut Attempts,
    exchange: &mut impl Exchange,
) -> Result<Option<Permit>, RequestError> {
    let RequestContext { head, route, client, .. } = *context;
    let kind = if head.upgrades { PermitKind::Tunnels } else { PermitKind::Requests };
    let now = attempts.now;
    if let Some(permit) = picked.try_acquire(kind, client, now) {
        return Ok(Some(permit));
    }
    let wait_until = attempts.deadline.min(now + route.queue_timeout);
    // Waiting is rare, so its future is on the heap.
    match exchange.until_client_gone(Box::pin(picked.acquire(kind, client, now, wait_until))).await? {
        Ok(permit) => Ok(Some(permit)),
        Err(QueueError::Full) => {
            attempts.has_found_full = true;
            attempts.tried.push(picked.endpoint.address.clone());
            Ok(None)
        }
        Err(QueueError::TimedOut) => Err(all_full()),
    }
}

/// The error when the last attempt has failed.
fn error_of(failed: ForwardError) -> RequestError {
    match failed {
        ForwardError::Unanswered => {
            let detail = "the server that handled the request was lost before it answered";
            problem(StatusCode::BAD_GATEWAY, ProblemKind::NODE_LOST, detail)
        }
        ForwardError::Malformed(_) => {
            problem(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, "the server's response is malformed")
        }
        ForwardError::Cut(_) => RequestError::Ended(Ended("the server's response did not end as it should")),
        ForwardError::Deadline => {
            problem(StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE, "the server did not answer in time")
        }
        ForwardError::Client(problem) => RequestError::Problem(problem),
        ForwardError::Ended(ended) => RequestError::Ended(ended),
    }
}

fn all_full() -> RequestError {
    let detail = "all servers are at their connection limit";
    problem(StatusCode::SERVICE_UNAVAILABLE, ProblemKind::OVERLOADED, detail)
}

fn too_late() -> RequestError {
    problem(StatusCode::GATEWAY_TIMEOUT, ProblemKind::DEADLINE, "no server could be reached in time")
}

/// Picks the server for the next attempt, with the cookie for the client if it needs one; `None`
/// when there is none left to try.
fn pick_endpoint(
    context: &RequestContext<'_>,
    upstream: &UpstreamMatch,
    attempts: &Attempts,
) -> Option<(PickedEndpoint, Option<String>)> {
    let Attempts { tried, now, .. } = attempts;
    let now = *now;
    if tried.len() >= MAX_TRIES {
        return None;
    }
    let RequestContext { head, snapshot, route, client, origin, .. } = *context;
    let group = &upstream.group;
    let by = |balance| group.pick(&PickOptions { balance, tried, ..PickOptions::default() }, now);
    let balance = match (route.sticky, route.balance) {
        (Some(Sticky::Cookie), _) => {
            let name = snapshot.cookie_name(route, &context.path[..upstream.prefix_bytes]);
            let cookies = head.fields().iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie"));
            let mut ids = cookies.flat_map(|(_, value)| snapshot.cookies.read(name, value)).take(MAX_COOKIES);
            // If there are several, as from two paths or from before a change of servers, any
            // cookie of a present server will do.
            if let Some(picked) = ids.find_map(|id| group.pick_by_cookie(&snapshot.cookies, id, tried, now)) {
                return Some((picked, None));
            }
            let picked = by(Balance::LeastInFlight)?;
            let cookie = snapshot.cookies.set_cookie(name, &picked.endpoint.address, origin.is_tls());
            return Some((picked, Some(cookie)));
        }
        (Some(Sticky::Client), _) => {
            let key = client.to_string();
            let options = PickOptions { sticky: Some(&key), tried, ..PickOptions::default() };
            return group.pick(&options, now).map(|picked| (picked, None));
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
