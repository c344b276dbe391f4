//! One client from its first byte: its real address, whether it speaks TLS, and its version of
//! HTTP.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, escaped};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::config::Config;
use crate::downstream::clients::ClientGuard;
use crate::downstream::http1;
use crate::downstream::http2;
use crate::downstream::proxy_protocol::{self, ProxyHeader};
use crate::downstream::tls::Tls;
use crate::downstream::worker::Worker;
use crate::io::budget::{ConnectionBudget, Reservation};
use crate::io::stream::MaybeTlsStream;
use crate::message::forwarded::ForwardedInfo;
use crate::message::head::{RequestHead, Scheme};
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::Proxy;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::request_error::Ended;

/// The first bytes of a client that speaks HTTP/2 without TLS's negotiation: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// While the first bytes are incomplete, they are examined again after this time, then after twice
/// as long, up to the longest.
const RECHECK_INTERVAL: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A client that has just connected.
pub(crate) struct DownstreamConnection<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) address: SocketAddr,
    pub(crate) client: &'a ClientGuard,
    /// The certificates, if the client has to speak TLS.
    pub(crate) tls: Option<&'a Tls>,
}

/// What is known from the first bytes of a client.
enum PeekResult<T> {
    Known(T),
    /// More bytes are needed.
    More,
}

impl DownstreamConnection<'_> {
    /// Serves the client until its connection ends. Returns why it ended.
    pub(crate) async fn serve(self, mut stream: TcpStream) -> &'static str {
        let config = Arc::clone(&self.worker.upstreams.snapshot().config);
        let start = Instant::now();
        let deadline = start + config.header_timeout;
        let (mut address, mut scheme) = (self.address, Scheme::Http);
        let peer = address.ip().to_canonical();
        if config.proxy_protocol.iter().any(|network| network.contains(&peer)) {
            match timeout_at(deadline, Box::pin(proxy_protocol::read(&mut stream))).await {
                Ok(Ok(ProxyHeader::Client { address: announced, is_tls })) => {
                    address = announced;
                    scheme = if is_tls { Scheme::Https } else { Scheme::Http };
                    self.client.set_client(announced.ip());
                }
                // The balancer connects for itself, for example to check whether we are alive.
                Ok(Ok(ProxyHeader::Local)) => {}
                Ok(Err(_)) => return self.refuse_balancer("no PROXY header"),
                Err(_elapsed) => return self.refuse_balancer("no PROXY header in time"),
            }
        }
        let Some(tls) = self.tls else {
            if config.h2c {
                let look = |bytes: &[u8]| match bytes {
                    bytes if bytes.starts_with(&PREFACE[..4]) => PeekResult::Known(true),
                    bytes if PREFACE.starts_with(bytes) => PeekResult::More,
                    // Anything else is an invalid preface: RFC 9113, 3.4.
                    bytes => PeekResult::Known(!begins_http1(bytes)),
                };
                match timeout_at(deadline, peek(&stream, look)).await {
                    Ok(Some(true)) => {
                        return Box::pin(self.http2(MaybeTlsStream::from(stream), &config, address, scheme)).await;
                    }
                    Ok(Some(false)) => {}
                    Ok(None) => return "closed by the client",
                    Err(_elapsed) => return "idle",
                }
            }
            return self.http1(MaybeTlsStream::from(stream), &config, address, scheme).await;
        };
        // Boxed, so that clients without TLS hold no memory for it.
        Box::pin(self.tls(stream, tls, &config, address, deadline)).await
    }

    async fn tls(
        &self,
        stream: TcpStream,
        tls: &Tls,
        config: &Arc<Config>,
        address: SocketAddr,
        deadline: Instant,
    ) -> &'static str {
        // A client that wrote http instead of https is told so.
        let look = |bytes: &[u8]| match bytes.first() {
            Some(first) => PeekResult::Known(first.is_ascii_alphabetic()),
            None => PeekResult::More,
        };
        match timeout_at(deadline, peek(&stream, look)).await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => {
                let handler = PlainOnTlsHandler { proxy: &self.proxy(address, Scheme::Http) };
                return http1::run(MaybeTlsStream::from(stream), config, self.client, &handler).await;
            }
            Ok(None) => return "closed by the client",
            Err(_elapsed) => return "idle",
        }
        let is_crowded = self.client.is_crowded();
        let _session_bytes = self.worker.metrics.count_uncounted(Tls::session_bytes(is_crowded));
        let accepted = {
            let handshake = pin!(tls.accept(stream, is_crowded));
            // A handshake takes as long as a dozen requests, so it is shared out.
            timeout(config.handshake_timeout, self.share(address, handshake, || true)).await
        };
        match accepted {
            Ok(Ok(stream)) => {
                let is_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let stream = MaybeTlsStream::from(stream);
                if is_2 {
                    self.http2(stream, config, address, Scheme::Https).await
                } else {
                    self.http1(stream, config, address, Scheme::Https).await
                }
            }
            Ok(Err(error)) => {
                self.log_failed_tls(address, &error);
                "no TLS"
            }
            Err(elapsed) => {
                self.log_failed_tls(address, &elapsed);
                "no TLS in time"
            }
        }
    }

    /// Logs that a balancer has not begun with its header. Its operator has to know; its clients
    /// see a close.
    fn refuse_balancer(&self, why: &'static str) -> &'static str {
        let (balancer, throttles) = (self.address.ip(), &self.worker.shared.log_throttles);
        if let Some(suppressed) = throttles.allow_for("no_proxy_header", balancer, Instant::now().into_std()) {
            warn!(%balancer, suppressed, "a connection of this balancer is closed: \
                  {why}; let the balancer speak the PROXY protocol, or remove it from proxy_protocol");
        }
        why
    }

    /// Clients fail at TLS for many reasons, and most of these are not our fault.
    fn log_failed_tls(&self, client: SocketAddr, error: &dyn std::fmt::Display) {
        let throttles = &self.worker.shared.log_throttles;
        if let Some(suppressed) = throttles.allow("no_tls", Instant::now().into_std()) {
            let error = escaped(error, MAX_ESCAPED_BYTES);
            info!(%client, %error, suppressed, "a client could not begin with TLS");
        }
    }

    async fn http1(
        &self,
        stream: MaybeTlsStream,
        config: &Arc<Config>,
        address: SocketAddr,
        scheme: Scheme,
    ) -> &'static str {
        let proxy = self.proxy(address, scheme);
        let _bytes = self.worker.metrics.count_uncounted(http1::UNCOUNTED_BYTES);
        let serving = pin!(http1::run(stream, config, self.client, &proxy));
        // What a client that is behind reads next takes long, and the system has some more for it.
        self.share(address, serving, || self.client.pace.is_waiting()).await
    }

    async fn http2(
        &self,
        stream: MaybeTlsStream,
        config: &Arc<Config>,
        address: SocketAddr,
        scheme: Scheme,
    ) -> &'static str {
        let proxy = self.proxy(address, scheme);
        let _bytes = self.worker.metrics.count_uncounted(http2::UNCOUNTED_BYTES);
        let serving = pin!(http2::run(stream, config, self.client, &proxy));
        // What a client that is behind reads next takes long, and the system has some more for it.
        self.share(address, serving, || self.client.pace.is_waiting()).await
    }

    /// Runs `work` in this client's share of the worker's time.
    async fn share<F: Future>(&self, address: SocketAddr, work: Pin<&mut F>, is_bulk: impl Fn() -> bool) -> F::Output {
        self.worker.time.share(address.ip(), work, is_bulk, || self.worker.metrics.record_turn_wait()).await
    }

    fn proxy(&self, address: SocketAddr, scheme: Scheme) -> Proxy<'_> {
        let Worker { peers, upstreams, metrics, retries, shedding, shared, access_log, stop, .. } = self.worker;
        let peer = address.ip().to_canonical();
        let origin = ForwardedInfo::new(peer, scheme);
        let budget = ConnectionBudget::new(&shared.budget);
        let access_log = access_log.as_deref();
        Proxy { peers, upstreams, origin, peer, metrics, retries, shedding, access_log, shared, budget, stop }
    }
}

/// Whether this may become a request line, or was meant to be one and deserves a readable answer.
/// No target begins with a capital letter, except an absolute url and the target of CONNECT.
fn begins_http1(bytes: &[u8]) -> bool {
    let mut words = bytes.splitn(2, |byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    matches!(method, b"CONNECT" | b"PROXY")
        || target.first().is_none_or(|first| *first == b'H' || !first.is_ascii_uppercase())
}

/// Examines the first bytes of a client without consuming them. `None` when it closes before there
/// are enough.
async fn peek<T>(stream: &TcpStream, look: impl Fn(&[u8]) -> PeekResult<T>) -> Option<T> {
    let mut first = [0; PREFACE.len()];
    let (mut before, mut pause) = (0, RECHECK_INTERVAL);
    loop {
        let peeked = stream.peek(&mut first).await.ok().filter(|peeked| *peeked > 0)?;
        match look(&first[..peeked]) {
            PeekResult::Known(known) => return Some(known),
            // The system does not report further bytes after those that it has reported, so they
            // are polled for. It does not report a close either.
            PeekResult::More if pause > MAX_PAUSE => return None,
            PeekResult::More if peeked == before => {
                sleep(pause).await;
                pause *= 2;
            }
            PeekResult::More => (before, pause) = (peeked, RECHECK_INTERVAL),
        }
    }
}

/// Answers clients that speak HTTP on a port for TLS.
struct PlainOnTlsHandler<'a, 'b> {
    proxy: &'a Proxy<'b>,
}

impl RequestHandler for PlainOnTlsHandler<'_, '_> {
    async fn handle(&self, _head: RequestHead, exchange: &mut impl Exchange) -> Result<Instant, Ended> {
        let problem =
            Problem::new(StatusCode::BAD_REQUEST, ProblemKind::TLS_WANTED, "this port speaks TLS: use https://");
        Ok(exchange.respond(FullResponse::from(&problem)))
    }

    fn record_rejection(&self, _status: StatusCode) {}

    fn reservation(&self) -> Option<Reservation> {
        self.proxy.reservation()
    }
}
