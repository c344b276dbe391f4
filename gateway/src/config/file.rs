//! The configuration file: TOML, with the names that the command line has, and what takes more than a line to say.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use net::{duration, listen_address};
use protocol::Advert;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::{Balance, CertificateFiles, Check, FixedServer, Route, Sticky};
use crate::observe::access_log::AccessLogFormat;
use crate::process::cli::{AdminAddress, admin_address, host_and_port};
use crate::route::cookie::MIN_SECRET_BYTES;
use crate::route::limits::{Rate, RateBy, RouteLimits};
use crate::route::path::normalize;
use crate::upstream::server_checks::MIN_PERIOD;

/// Names that are this alike may have been meant.
const ALIKE: f64 = 0.8;

/// What a file says; the rest is as the command line, or nobody, says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) listen: Option<Parsed<SocketAddr>>,
    pub(crate) admin: Option<Parsed<AdminAddress>>,
    #[serde(deserialize_with = "distributor")]
    pub(crate) distributor: Option<String>,
    pub(crate) workers: Option<u16>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) request_timeout: Option<Parsed<Duration>>,
    pub(crate) response_idle_timeout: Option<Parsed<Duration>>,
    pub(crate) max_body_bytes: Option<usize>,
    pub(crate) max_held_bytes: Option<usize>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) header_timeout: Option<Parsed<Duration>>,
    pub(crate) idle_timeout: Option<Parsed<Duration>>,
    pub(crate) write_timeout: Option<Parsed<Duration>>,
    pub(crate) drain_timeout: Option<Parsed<Duration>>,
    pub(crate) empty_404: Option<bool>,
    pub(crate) access_log: Option<Parsed<AccessLogFormat>>,
    pub(crate) handshake_timeout: Option<Parsed<Duration>>,
    pub(crate) h2c: Option<bool>,
    pub(crate) redirect: bool,
    pub(crate) proxy_protocol: Vec<Parsed<IpNet>>,
    pub(crate) trusted: Vec<Parsed<IpNet>>,
    #[serde(deserialize_with = "secret")]
    pub(crate) cookie_secret: Option<String>,
    pub(crate) tls: Option<TlsTable>,
    #[serde(deserialize_with = "routes")]
    pub(crate) route: Vec<Route>,
}

/// `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsTable {
    pub(crate) listen: Parsed<SocketAddr>,
    #[serde(deserialize_with = "certificates")]
    pub(crate) certificates: Vec<CertificateFiles>,
}

/// Who is asked by a check, and what.
#[derive(Debug)]
enum CheckTarget {
    Servers(Check),
    Nodes(String),
}

/// A text with a form of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<T>(pub(crate) T);

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(crate) struct FileError {
    file: PathBuf,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    message: String,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`] says what to change.
    pub(crate) fn read(file: &Path) -> Result<Self, FileError> {
        let wrong = |place, message| FileError { file: file.to_owned(), place, message };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(None, error.to_string()))?;
        Self::parse(&text).map_err(|(place, message)| wrong(place, message))
    }

    /// A file that says nothing at all is taken for one that was lost, or cut while it was written: defaults need no file.
    pub(crate) fn parse(text: &str) -> Result<Self, (Option<(usize, usize)>, String)> {
        let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if !text.trim_start_matches('\u{feff}').lines().any(says) {
            return Err((None, "it says nothing; a gateway that is to have the defaults needs no file".to_owned()));
        }
        toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| {
                let before = &text[..span.start];
                let line = before.rsplit('\n').next().unwrap_or_default();
                (before.matches('\n').count() + 1, line.chars().count() + 1)
            });
            (place, explained(error.message()))
        })
    }
}

/// In an error about a name, the one that was meant.
fn explained(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), message.starts_with("unknown field")) else {
        return message.replace('\n', "; ");
    };
    let alike = names.map(|name| (strsim::jaro_winkler(unknown, name), name));
    let meant = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    match meant {
        Some((_, meant)) => format!("unknown key `{unknown}`; did you mean `{meant}`?"),
        None => message.replacen("unknown field", "unknown key", 1),
    }
}

fn distributor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    host_and_port(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let secret = String::deserialize(deserializer)?;
    if secret.len() < MIN_SECRET_BYTES {
        let why = format!("`cookie_secret` has at least {MIN_SECRET_BYTES} characters: openssl rand -hex 32");
        return Err(D::Error::custom(why));
    }
    Ok(Some(secret))
}

fn certificates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CertificateFiles>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct CertificateEntry {
        chain: PathBuf,
        key: PathBuf,
    }
    let tables: Vec<CertificateEntry> = Deserialize::deserialize(deserializer)?;
    if tables.is_empty() {
        return Err(D::Error::custom("TLS needs a certificate: { chain = \"cert.pem\", key = \"key.pem\" }"));
    }
    Ok(tables.into_iter().map(|CertificateEntry { chain, key }| CertificateFiles { chain, key }).collect())
}

/// `[[route]]`, each with one prefix or several.
fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RouteEntry {
        prefix: OneOrMore,
        #[serde(default)]
        servers: Vec<ServerEntry>,
        #[serde(default)]
        strip: bool,
        balance: Option<BalanceName>,
        timeout: Option<Parsed<Duration>>,
        try_timeout: Option<Parsed<Duration>>,
        max_connections: Option<usize>,
        max_tunnels: Option<usize>,
        client_share: Option<u8>,
        tunnel_idle_timeout: Option<Parsed<Duration>>,
        queue_timeout: Option<Parsed<Duration>>,
        check: Option<Parsed<CheckTarget>>,
        check_every: Option<Parsed<Duration>>,
        at_most: Option<usize>,
        rate: Option<RateTable>,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a path such as \"/api\", or a list of them")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a server such as \"10.0.0.1:8080\", or { address = \"10.0.0.1:8080\", weight = 50 }"
    )]
    enum ServerEntry {
        Address(Parsed<SocketAddr>),
        Weighted { address: Parsed<SocketAddr>, weight: u16 },
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum BalanceName {
        RoundRobin,
        LeastConnections,
        LeastCost,
        Client,
        Cookie,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RateTable {
        requests: u32,
        every: Option<Parsed<Duration>>,
        burst: Option<u32>,
        #[serde(default)]
        by: Option<Parsed<RateBy>>,
    }
    let tables: Vec<RouteEntry> = Deserialize::deserialize(deserializer)?;
    let mut seen: Vec<String> = Vec::new();
    let routes = tables.into_iter().map(|table| {
        let prefixes = match table.prefix {
            OneOrMore::One(prefix) => vec![prefix],
            OneOrMore::More(prefixes) => prefixes,
        };
        if prefixes.is_empty() {
            return Err(D::Error::custom("a route has a prefix, such as \"/\" for all"));
        }
        for prefix in &prefixes {
            let normal = normalize(prefix).map_err(|bad| D::Error::custom(format!("prefix `{prefix}`: {}", bad.0)))?;
            let normal = normal.trim_end_matches('/').to_owned();
            if seen.contains(&normal) {
                return Err(D::Error::custom(format!("prefix `{prefix}` has a route already")));
            }
            seen.push(normal);
        }
        let servers = table.servers.into_iter().map(|server| match server {
            ServerEntry::Address(Parsed(address)) => FixedServer { address, weight: Advert::DEFAULT_WEIGHT },
            ServerEntry::Weighted { address: Parsed(address), weight } => FixedServer { address, weight },
        });
        let servers: Vec<_> = servers.collect();
        if servers.iter().any(|server| !(1..=Advert::MAX_WEIGHT).contains(&server.weight)) {
            return Err(D::Error::custom(format!("weights are from 1 to {}", Advert::MAX_WEIGHT)));
        }
        if table.max_connections == Some(0)
            || table.max_tunnels == Some(0)
            || table.at_most == Some(0)
            || table.rate.as_ref().is_some_and(|rate| rate.requests == 0)
        {
            return Err(D::Error::custom("a limit of 0 would let nothing through"));
        }
        if table.client_share.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err(D::Error::custom("`client_share` is in percent, from 1 to 100"));
        }
        if table.check_every.is_some_and(|Parsed(every)| every < MIN_PERIOD) {
            return Err(D::Error::custom(format!("`check_every` is at least {MIN_PERIOD:?}")));
        }
        let rate = table.rate.map(|rate| Rate {
            requests: rate.requests,
            every: rate.every.map_or(Duration::from_secs(1), |Parsed(every)| every),
            burst: rate.burst.unwrap_or(rate.requests),
            by: rate.by.map_or(RateBy::Address, |Parsed(by)| by),
        });
        let (balance, sticky) = match table.balance {
            None => (None, None),
            Some(BalanceName::RoundRobin) => (Some(Balance::RoundRobin), None),
            Some(BalanceName::LeastConnections) => (Some(Balance::LeastInFlight), None),
            Some(BalanceName::LeastCost) => (Some(Balance::PeakEwma), None),
            Some(BalanceName::Client) => (None, Some(Sticky::Client)),
            Some(BalanceName::Cookie) => (None, Some(Sticky::Cookie)),
        };
        let (check, node_check) = match table.check {
            None => (None, None),
            Some(Parsed(CheckTarget::Servers(check))) => (Some(check), None),
            Some(Parsed(CheckTarget::Nodes(_))) if !servers.is_empty() => {
                return Err(D::Error::custom(
                    "servers speak HTTP: check them by \"tcp\" or a path such as \"/health\"",
                ));
            }
            Some(Parsed(CheckTarget::Nodes(url))) => (None, Some(url)),
        };
        let default = Route::new(prefixes);
        let time = |time: Option<Parsed<Duration>>, default| time.map_or(default, |Parsed(time)| time);
        Ok(Route {
            servers,
            strip: table.strip,
            balance,
            sticky,
            timeout: table.timeout.map(|Parsed(time)| time),
            try_timeout: table.try_timeout.map(|Parsed(time)| time),
            max_connections: table.max_connections.unwrap_or(default.max_connections),
            max_tunnels: table.max_tunnels.or(table.max_connections).unwrap_or(default.max_tunnels),
            client_share: table.client_share.unwrap_or(default.client_share),
            tunnel_idle_timeout: time(table.tunnel_idle_timeout, default.tunnel_idle_timeout),
            queue_timeout: time(table.queue_timeout, default.queue_timeout),
            check,
            node_check,
            check_every: time(table.check_every, default.check_every),
            limits: RouteLimits::new(table.at_most, rate, table.client_share.unwrap_or(default.client_share)),
            ..default
        })
    });
    routes.collect()
}

impl<'de> Deserialize<'de> for Parsed<IpNet> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let network = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
        network
            .map(Self)
            .map_err(|_| D::Error::custom(format!("`{text}`: write a network like 10.0.0.0/8, or an address")))
    }
}

impl<'de> Deserialize<'de> for Parsed<CheckTarget> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (method, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let is_path = normalize(path).is_ok_and(|normal| normal == path) && !path.contains(['{', '}', '?', '#']);
        match method {
            "tcp" if path.is_empty() => Ok(Self(CheckTarget::Servers(Check::Tcp))),
            "" if is_path => Ok(Self(CheckTarget::Servers(Check::Http(text)))),
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" if is_path => Ok(Self(CheckTarget::Nodes(text))),
            _ => Err(D::Error::custom(
                "write \"tcp\", the path that a server answers when it is well, such as \"/health\", or what a node does, such as \"GET/health\"",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Parsed<RateBy> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match (text.as_str(), text.strip_prefix("header:")) {
            ("route", _) => Ok(Self(RateBy::Route)),
            ("address", _) => Ok(Self(RateBy::Address)),
            (_, Some(name)) if http::HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self(RateBy::Header(name.to_ascii_lowercase())))
            }
            _ => Err(D::Error::custom("write \"address\", \"route\" or \"header:NAME\"")),
        }
    }
}

impl<'de> Deserialize<'de> for Parsed<Duration> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Parsed<AdminAddress> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        admin_address(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Parsed<AccessLogFormat> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        AccessLogFormat::from_str(&text, false).map(Self).map_err(|_| D::Error::custom("write off, text or json"))
    }
}

impl<'de> Deserialize<'de> for Parsed<SocketAddr> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        listen_address(&text).map(Self).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_wants_to() {
        let file = ConfigFile::parse(
            r#"
            listen = "0.0.0.0:80"
            request_timeout = "250ms"
            empty_404 = true
            redirect = true
            trusted = ["10.0.0.0/8", "::1"]
            [tls]
            listen = "0.0.0.0:443"
            certificates = [{ chain = "a.pem", key = "b.pem" }]
            [[route]]
            prefix = "/old"
            servers = ["127.0.0.1:8080", { address = "[::1]:8080", weight = 50 }]
            strip = true
            balance = "cookie"
            check = "/health"
            rate = { requests = 5, by = "header:X-Key" }
            [[route]]
            prefix = ["/a", "/b"]
            timeout = "1m"
            at_most = 7
            check = "GET/health"
            "#,
        )
        .unwrap();
        assert_eq!(file.request_timeout.unwrap().0, Duration::from_millis(250));
        assert_eq!((file.listen.unwrap().0.port(), file.empty_404, file.workers), (80, Some(true), None));
        let tls = file.tls.unwrap();
        assert_eq!((tls.listen.0.port(), tls.certificates.len(), file.redirect, file.trusted.len()), (443, 1, true, 2));
        let [old, both] = &file.route[..] else { panic!("two") };
        assert_eq!([100, 50], [old.servers[0].weight, old.servers[1].weight]);
        assert_eq!(
            (old.strip, old.sticky, &old.check),
            (true, Some(Sticky::Cookie), &Some(Check::Http("/health".to_owned())))
        );
        let rate = old.limits.rate.clone().unwrap();
        assert_eq!((rate.requests, rate.burst, rate.by), (5, 5, RateBy::Header("x-key".to_owned())));
        assert_eq!(both.prefixes, ["/a", "/b"]);
        assert_eq!((both.timeout, both.limits.max_concurrency), (Some(Duration::from_secs(60)), Some(7)));
        assert_eq!((&both.check, both.node_check.as_deref()), (&None, Some("GET/health")));
    }

    #[test]
    fn oe16_a_file_that_says_nothing_is_refused() {
        for (text, expected) in [
            ("", false),
            ("\n \t\n", false),
            ("# listen = \"127.0.0.1:1\"\n", false),
            ("\u{feff}", false),
            ("workers = 1", true),
            ("# a\n[[route]]\nprefix = \"/\"", true),
        ] {
            assert_eq!(ConfigFile::parse(text).is_ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn oe1_oe2_what_is_wrong_is_named_with_its_place() {
        for (text, place, message) in [
            ("lisen = \"a\"", (1, 1), "unknown key `lisen`; did you mean `listen`?"),
            (
                "workers = 1\n  request_timout = \"1s\"",
                (2, 3),
                "unknown key `request_timout`; did you mean `request_timeout`?",
            ),
            ("xyzzy = 1", (1, 1), "unknown key `xyzzy`, expected one of `listen`"),
            ("listen = \"nowhere\"", (1, 10), "write it like 127.0.0.1:9000"),
            ("listen = \"nowhere.invalid:80\"", (1, 10), "nowhere.invalid"),
            ("distributor = \"nowhere\"", (1, 15), "registry.example:9000"),
            ("idle_timeout = 10", (1, 16), "expected a string"),
            ("idle_timeout = \"soon\"", (1, 16), "write it like 10s"),
            ("workers = -1", (1, 11), "invalid value: integer `-1`"),
            ("listen = ", (1, 10), ""),
            ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"", (2, 1), "duplicate key"),
            ("[[route]]\nstrip = true", (1, 1), "missing field `prefix`"),
            ("[[route]]\nprefix = []", (1, 1), "a route has a prefix"),
            ("[[route]]\nprefix = \"/..\"", (1, 1), "out of the root"),
            ("[[route]]\nprfix = \"/a\"", (2, 1), "did you mean `prefix`?"),
            ("[[route]]\nprefix = [\"/a\", \"/a/\"]", (1, 1), "has a route already"),
            ("[[route]]\nprefix = \"/\"\nservers = [\"a\"]", (3, 11), "a server such as"),
            ("[[route]]\nprefix = \"/\"\nat_most = 0", (1, 1), "a limit of 0"),
            ("[[route]]\nprefix = \"/\"\nmax_tunnels = 0", (1, 1), "a limit of 0"),
            ("[[route]]\nprefix = \"/\"\nclient_share = 0", (1, 1), "from 1 to 100"),
            ("[[route]]\nprefix = \"/\"\nclient_share = 101", (1, 1), "from 1 to 100"),
            ("[[route]]\nprefix = \"/\"\ncheck_every = \"0s\"", (1, 1), "at least 10ms"),
            ("[[route]]\nprefix = \"/\"\nbalance = \"best\"", (3, 11), "round_robin"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"x\"", (3, 9), "/health"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"get/health\"", (3, 9), "GET/health"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"GET/a\"\nservers = [\"[::1]:1\"]", (1, 1), "servers speak HTTP"),
            ("[[route]]\nprefix = \"/\"\nrate = { requests = 1, by = \"x\" }", (3, 29), "header:NAME"),
            ("cookie_secret = \"\"", (1, 17), "at least 16 characters"),
            ("cookie_secret = \"fifteen letters\"", (1, 17), "at least 16 characters"),
            ("trusted = [\"x\"]", (1, 11), "10.0.0.0/8"),
            ("[tls]\nlisten = \"127.0.0.1:1\"\ncertificates = []", (3, 16), "TLS needs a certificate"),
        ] {
            let (seen_place, seen) = ConfigFile::parse(text).unwrap_err();
            assert!(seen.contains(message), "{text}: {seen}");
            assert_eq!(seen_place, Some(place), "{text}: {seen}");
        }
    }
}
