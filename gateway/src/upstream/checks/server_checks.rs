//! Checks whether servers are alive, between the requests of clients.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use net::{LogThrottle, QueuedSocket, ServerAddress};
use protocol::HostPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::{self, RouteConfig};
use crate::http1::response_reader::ResponseReader;
use crate::upstream::connector::Connector;
use crate::upstream::drop_unused;
use crate::upstream::endpoint::Endpoint;

/// How long a server may take to answer a check.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// Checks that have to fail in a row: a single one may fail in a busy moment.
pub(crate) const MAX_FAILURES: u32 = 2;

/// The checks of all workers: each server is checked once, however many workers use it.
#[derive(Debug)]
pub(crate) struct ServerChecks {
    known: Mutex<HashMap<CheckKey, Weak<ServerCheck>>>,
    /// Throttles of the log.
    log_throttle: Arc<Mutex<LogThrottle>>,
}

/// Log lines about servers in ten seconds: each is of interest, unless one server flaps, or all of
/// them do.
const MAX_LINES: u32 = 20;

impl Default for ServerChecks {
    fn default() -> Self {
        let log_throttle = LogThrottle::with_burst(MAX_LINES, LogThrottle::LOG_PERIOD);
        Self { known: Mutex::default(), log_throttle: Arc::new(Mutex::new(log_throttle)) }
    }
}

/// The key of a check. Two routes may check the same server in different ways, and the Distributor
/// may list two servers at one address.
type CheckKey = (ServerAddress, Option<HostPort>, config::Check, Duration);

/// The check of one server, until this is dropped.
#[derive(Debug)]
pub(crate) struct ServerCheck {
    connector: Connector,
    how: config::Check,
    every: Duration,
    is_alive: AtomicBool,
}

impl ServerChecks {
    /// The check of a server. A new check begins at once, in the runtime of the first caller, and
    /// counts the server as alive until a check fails.
    pub(crate) fn get(&self, endpoint: &Endpoint, how: &config::Check, every: Duration) -> Arc<ServerCheck> {
        let every = every.max(RouteConfig::MIN_CHECK_PERIOD);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, name) = endpoint.connector.key();
        let key = (address, name, how.clone(), every);
        if let Some(check) = known.get(&key).and_then(Weak::upgrade) {
            return check;
        }
        drop_unused(&mut known);
        let check = Arc::new(ServerCheck {
            connector: endpoint.connector.clone(),
            how: how.clone(),
            every,
            is_alive: AtomicBool::new(true),
        });
        known.insert(key, Arc::downgrade(&check));
        tokio::spawn(run(Arc::downgrade(&check), Arc::clone(&self.log_throttle)));
        check
    }
}

impl ServerCheck {
    pub(crate) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Relaxed)
    }
}

async fn run(check: Weak<ServerCheck>, log_throttle: Arc<Mutex<LogThrottle>>) {
    let mut failed = 0;
    while let Some(held) = check.upgrade() {
        let ServerCheck { connector, how, every, is_alive } = &*held;
        let sign = timeout(TIMEOUT, probe(connector, how)).await.unwrap_or(Err("no answer in time"));
        failed = if sign.is_ok() { 0 } else { failed + 1 };
        let passes = failed < MAX_FAILURES;
        if is_alive.swap(passes, Ordering::Relaxed) != passes {
            let now = Instant::now().into_std();
            let allowed = log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(now);
            match (sign, allowed) {
                (Ok(()), Some(suppressed)) => {
                    info!(server = %connector.address(), suppressed, "the server is healthy again")
                }
                (Err(why), Some(suppressed)) => {
                    warn!(
                        server = %connector.address(), why, suppressed,
                        "a server gets no requests: its health check failed; it is checked again every {every:?}"
                    );
                }
                (_, None) => {}
            }
        }
        let every = *every;
        drop(held);
        sleep(every).await;
    }
}

async fn probe(connector: &Connector, how: &config::Check) -> Result<(), &'static str> {
    let socket = connector.connect().await.map_err(|_| "it cannot be reached")?;
    let config::Check::Http(path) = how else { return Ok(()) };
    let (mut stream, address) = (QueuedSocket::direct(socket), connector.address());
    let host = address.host();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: gateway-check\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|_| "it does not read the request")?;
    let (mut input, mut reader) = (BytesMut::new(), ResponseReader::default());
    loop {
        match reader.next(&mut input, false) {
            Ok(Some(head)) if head.status.as_u16() < 400 => return Ok(()),
            Ok(Some(_)) => return Err("it answers with an error"),
            Ok(None) => {}
            Err(_) => return Err("its answer is not HTTP"),
        }
        if stream.read_buf(&mut input).await.map_err(|_| "it was lost")? == 0 {
            return Err("it does not answer");
        }
    }
}
