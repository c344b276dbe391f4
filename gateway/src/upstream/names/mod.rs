//! The names of servers, and their addresses. Here are those of a configuration, which are looked
//! up at the start, after failures, and from time to time, since names move. `advertised` has those
//! that servers register.
//!
//! It must not know prefixes or requests: it knows names and their addresses.

pub(crate) mod advertised;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use net::{LogThrottle, ServerAddress, look_up, sleep_until_opt};
use protocol::{HostName, HostPort};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::config::{Config, FixedAddress};

/// How often a name is looked up whose servers work. The system does not tell for how long its
/// answer holds; other proxies ask as often.
const PERIOD: Duration = Duration::from_secs(10);
/// How often one is looked up that has no address yet.
const UNKNOWN_PERIOD: Duration = Duration::from_secs(3);
/// How soon one is looked up again after a server of it could not be connected to.
const FAILED_PERIOD: Duration = Duration::from_secs(1);
/// How long a look-up may take. The system itself may try for half a minute.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long new names hold up a start, or a change of the configuration. What is not known then is
/// looked up while others are served.
const PREPARE_TIME: Duration = Duration::from_secs(2);
/// Look-ups at a time: each has a thread of the system.
const MAX_AT_ONCE: usize = 16;
/// Log lines in ten seconds.
const MAX_LINES: u32 = 20;

/// The names of all servers that do not register, for all workers.
#[derive(Debug)]
pub(crate) struct ServerNames {
    known: Mutex<BTreeMap<HostPort, NamedServer>>,
    /// Sent to after each change of the addresses.
    changed: watch::Sender<()>,
    /// Wakes the task of the look-ups: one may be due earlier.
    rescheduled: Notify,
    log_throttle: Mutex<LogThrottle>,
}

/// The state of one name.
#[derive(Debug, Default)]
pub(super) struct NamedServer {
    /// The addresses of the name, in order.
    pub(super) addresses: Vec<SocketAddr>,
    looked_up: Option<Instant>,
    /// Why the last look-up found nothing; the addresses before are kept.
    pub(super) failure: Option<String>,
    /// Whether a connect to one of the addresses has failed since.
    pub(super) is_suspect: bool,
}

impl Default for ServerNames {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            changed: watch::Sender::default(),
            rescheduled: Notify::new(),
            log_throttle: Mutex::new(LogThrottle::with_burst(MAX_LINES, LogThrottle::LOG_PERIOD)),
        }
    }
}

impl ServerNames {
    /// The addresses of a server, as far as they are known.
    pub(crate) fn addresses(&self, server: &FixedAddress) -> Vec<ServerAddress> {
        let server = match server {
            FixedAddress::Unix(path) => return vec![ServerAddress::Unix(path.clone())],
            FixedAddress::Host(server) => server,
        };
        if let Some(address) = server.socket_address() {
            return vec![address.into()];
        }
        let known = self.lock();
        known.get(server).map_or_else(Vec::new, |known| known.addresses.iter().copied().map(Into::into).collect())
    }

    /// Names that have no address now, and why.
    pub(crate) fn unknown(&self) -> Vec<(HostPort, String)> {
        let known = self.lock();
        let unknown = known.iter().filter(|(_, known)| known.addresses.is_empty());
        unknown.map(|(server, known)| (server.clone(), known.failure.clone().unwrap_or_default())).collect()
    }

    /// Is told after each change of addresses.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Records that a server could not be connected to: its name may have moved.
    pub(crate) fn record_unreachable(&self, address: SocketAddr) {
        let mut is_new = false;
        for known in self.lock().values_mut().filter(|known| known.addresses.contains(&address)) {
            is_new |= !std::mem::replace(&mut known.is_suspect, true);
        }
        if is_new {
            self.rescheduled.notify_one();
        }
    }

    /// Looks up the names of a configuration that are not known yet, for a while.
    pub(crate) async fn prepare(&self, config: &Config) {
        let new: Vec<HostPort> = {
            let known = self.lock();
            wanted(config).filter(|server| !known.contains_key(server)).cloned().collect()
        };
        if !new.is_empty() {
            let _ = timeout(PREPARE_TIME, self.look_up(new)).await;
        }
    }

    /// Keeps the names of the configuration looked up, for as long as there is one.
    pub(crate) async fn run(self: Arc<Self>, mut config: watch::Receiver<Arc<Config>>) {
        loop {
            let now = Instant::now();
            let due: Vec<HostPort> = {
                let config = Arc::clone(&config.borrow_and_update());
                let mut known = self.lock();
                known.retain(|server, _| wanted(&config).any(|wanted| wanted == server));
                for server in wanted(&config) {
                    if !known.contains_key(server) {
                        known.insert(server.clone(), NamedServer::default());
                    }
                }
                known.iter().filter(|(_, known)| known.due() <= Some(now)).map(|(server, _)| server.clone()).collect()
            };
            if !due.is_empty() {
                self.look_up(due).await;
                continue;
            }
            let next = self.lock().values().filter_map(NamedServer::due).min();
            tokio::select! {
                () = sleep_until_opt(next) => {}
                () = self.rescheduled.notified() => {}
                changed = config.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn look_up(&self, servers: Vec<HostPort>) {
        let looking = iter(servers).map(|server| async move {
            let HostName::Name(name) = &server.host else { return };
            let found = timeout(LOOKUP_TIMEOUT, look_up(name, server.port)).await;
            let found = match found {
                Ok(found) => found.map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("the name {name} could not be looked up within {LOOKUP_TIMEOUT:?}")),
            };
            self.record(&server, found, Instant::now());
        });
        looking.buffer_unordered(MAX_AT_ONCE).collect::<()>().await;
    }

    fn record(&self, server: &HostPort, found: Result<Vec<SocketAddr>, String>, now: Instant) {
        let (changed, failure, addresses) = {
            let mut known = self.lock();
            let known = known.entry(server.clone()).or_default();
            let failed_before = known.failure.clone();
            let changed = known.record(found, now);
            (changed, known.failure.clone().filter(|_| known.failure != failed_before), known.addresses.clone())
        };
        if changed {
            self.changed.send_replace(());
        }
        if !changed && failure.is_none() {
            return;
        }
        let Some(suppressed) = self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(now.into_std())
        else {
            return;
        };
        match failure {
            Some(why) if addresses.is_empty() => {
                let again = UNKNOWN_PERIOD.as_secs();
                warn!(%server, suppressed, "a server has no address: {why}; requests for it get 503, and it is looked up every {again} s");
            }
            Some(why) => warn!(%server, suppressed, "a server keeps the addresses that it had: {why}"),
            None => info!(%server, ?addresses, suppressed, "the name of a server leads to these addresses"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostPort, NamedServer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NamedServer {
    /// Stores the result of a look-up. Returns whether the addresses have changed.
    pub(super) fn record(&mut self, found: Result<Vec<SocketAddr>, String>, now: Instant) -> bool {
        (self.looked_up, self.is_suspect) = (Some(now), false);
        let mut addresses = match found {
            Ok(addresses) => addresses,
            Err(why) => {
                self.failure = Some(why);
                return false;
            }
        };
        self.failure = None;
        // They are sorted, because name servers give them in another order each time.
        addresses.sort_unstable();
        let changed = addresses != self.addresses;
        self.addresses = addresses;
        changed
    }

    /// When to look the name up next; `None` before the first time is as soon as possible.
    pub(super) fn due(&self) -> Option<Instant> {
        let period = match (self.addresses.is_empty(), self.is_suspect) {
            (true, _) => UNKNOWN_PERIOD,
            (false, true) => FAILED_PERIOD,
            (false, false) => PERIOD,
        };
        self.looked_up.map(|at| at + period)
    }
}

/// The servers of a configuration that are named.
fn wanted(config: &Config) -> impl Iterator<Item = &HostPort> {
    let servers = config.routes.iter().flat_map(|route| &route.servers).filter_map(|server| server.address.host());
    servers.filter(|server| server.socket_address().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FixedServer, RouteConfig};

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a10_a11_names_are_looked_up_again_by_time_and_after_failures() {
        let (mut server, start) = (NamedServer::default(), Instant::now());
        assert_eq!(server.due(), None, "at once");
        assert!(!server.record(Err("why".to_owned()), start));
        assert_eq!((server.due(), server.failure.as_deref()), (Some(start + UNKNOWN_PERIOD), Some("why")));
        assert!(server.record(Ok(addresses(&["10.0.0.2:1", "10.0.0.1:1"])), start));
        assert_eq!((server.due(), &server.failure), (Some(start + PERIOD), &None));
        assert!(!server.record(Ok(addresses(&["10.0.0.1:1", "10.0.0.2:1"])), start), "another order");
        server.is_suspect = true;
        assert_eq!(server.due(), Some(start + FAILED_PERIOD));
        assert!(!server.record(Err("gone".to_owned()), start), "what was known is kept");
        assert_eq!((server.addresses.len(), server.due()), (2, Some(start + PERIOD)));
        assert!(server.record(Ok(addresses(&["10.0.0.3:1"])), start));
    }

    #[tokio::test]
    async fn a10_a11_every_address_of_a_name_is_known_and_what_is_unknown_is_said() {
        let server = |text: &str| FixedServer { address: text.parse().unwrap(), weight: 100 };
        let servers = vec![server("localhost:80"), server("no-such-host.invalid:80"), server("10.0.0.1:80")];
        let config = Config {
            routes: vec![RouteConfig { servers, ..RouteConfig::new(vec!["/".to_owned()]) }],
            ..Config::default()
        };
        let names = ServerNames::default();
        let changed = names.subscribe();
        names.prepare(&config).await;
        let at = |text: &str| -> Vec<SocketAddr> {
            names.addresses(&text.parse().unwrap()).iter().filter_map(ServerAddress::tcp).collect()
        };
        assert!(at("localhost:80").iter().any(|address| address.ip().is_loopback()), "{:?}", at("localhost:80"));
        assert_eq!(at("10.0.0.1:80"), addresses(&["10.0.0.1:80"]));
        assert!(at("no-such-host.invalid:80").is_empty() && changed.has_changed().unwrap());
        let unknown = names.unknown();
        assert_eq!(unknown.len(), 1);
        assert!(unknown[0].1.contains("no-such-host.invalid"), "{unknown:?}");
        // A failure brings the next look-up forward.
        names.record_unreachable(at("localhost:80")[0]);
        assert!(names.lock()[&"localhost:80".parse().unwrap()].is_suspect);
    }
}
