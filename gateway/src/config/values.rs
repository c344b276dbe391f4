//! The values of a configuration file, each with what may be wrong with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use net::{duration, listen_address};
use protocol::{Advert, HostPort};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::settings::{AdminAddress, admin_address, host_and_port};
use crate::config::{Balance, CertificateFiles, Check, FixedServer, Route, Sticky};
use crate::observe::access_log::AccessLogFormat;
use crate::route::cookie::{MAX_NAME_BYTES, MIN_SECRET_BYTES};
use crate::route::limits::{Rate, RateBy, RouteLimits};
use crate::route::path::normalize;
use crate::upstream::server_checks::MIN_PERIOD;

/// What a check calls, and how.
#[derive(Debug)]
enum CheckTarget {
    Servers(Check),
    Nodes(String),
}

/// A text with a form of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<T>(pub(crate) T);

pub(super) fn distributor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    host_and_port(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let secret = String::deserialize(deserializer)?;
    if secret.len() < MIN_SECRET_BYTES {
        let why = format!("`cookie_secret` has at least {MIN_SECRET_BYTES} characters: openssl rand -hex 32");
        return Err(D::Error::custom(why));
    }
    Ok(Some(secret))
}

/// The name of a cookie: a token (RFC 6265, 4.1.1).
fn cookie<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.len() > MAX_NAME_BYTES || http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        let why = "the name of a cookie has letters, digits, `-` and `_`, such as \"backend\", and 64 of them at most";
        return Err(D::Error::custom(why));
    }
    Ok(Some(name))
}

pub(super) fn certificates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CertificateFiles>, D::Error> {
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
pub(super) fn routes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Route>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RouteEntry {
        prefix: OneOrMore,
        #[serde(default)]
        servers: Vec<ServerEntry>,
        #[serde(default)]
        strip: bool,
        #[serde(default)]
        raw_path: bool,
        #[serde(default)]
        rewrite_location: bool,
        #[serde(default)]
        underscores: bool,
        #[serde(default, deserialize_with = "cookie")]
        cookie: Option<String>,
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
        Address(Parsed<HostPort>),
        Weighted { address: Parsed<HostPort>, weight: u16 },
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
    let mut cookies: Vec<String> = Vec::new();
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
        if table.cookie.is_some() && !matches!(table.balance, Some(BalanceName::Cookie)) {
            return Err(D::Error::custom("`cookie` is the name of the cookie of `balance = \"cookie\"`"));
        }
        if let Some(cookie) = &table.cookie {
            if cookies.contains(cookie) {
                return Err(D::Error::custom(format!("the cookie `{cookie}` is another route's already")));
            }
            cookies.push(cookie.clone());
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
            raw_path: table.raw_path,
            rewrite_location: table.rewrite_location,
            underscores: table.underscores,
            cookie: table.cookie,
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

impl<'de> Deserialize<'de> for Parsed<HostPort> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
    }
}

impl<'de> Deserialize<'de> for Parsed<SocketAddr> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        listen_address(&text).map(Self).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
    }
}
