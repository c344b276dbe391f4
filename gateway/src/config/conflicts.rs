//! Settings that conflict, and settings without effect. Pure.

use std::net::SocketAddr;

use crate::config::Sticky;
use crate::config::settings::{AdminAddress, Settings};

/// A conflict between settings.
#[derive(Debug)]
pub(super) struct Conflict {
    /// The key in the file, if the file has it: `redirect`, `tls.listen`, `route.0.try_timeout`.
    pub(super) key: String,
    /// Keys whose own mistakes hide this conflict.
    pub(super) depends_on: Vec<&'static str>,
    pub(super) message: String,
    /// Whether it is a mistake, with which the gateway does not start; otherwise it is a warning.
    pub(super) is_mistake: bool,
}

/// Finds all conflicts.
pub(super) fn conflicts(settings: &Settings) -> Vec<Conflict> {
    let Settings { process, tls, config, warnings: _ } = settings;
    let mut all = Vec::new();
    if process.redirect && tls.is_none() && config.trusted.is_empty() && config.proxy_protocol.is_empty() {
        let why = "`redirect` sends clients to https, which this gateway does not speak: add [tls], or name in \
                   `trusted` or `proxy_protocol` the proxies that speak it";
        all.push(Conflict::mistake("redirect", &["tls.listen", "trusted", "proxy_protocol"], why.to_owned()));
    }
    let admin = match process.admin {
        Some(AdminAddress::At(address)) => Some(address),
        Some(AdminAddress::Off) | None => None,
    };
    let addresses = [("listen", Some(process.listen)), ("tls.listen", *tls), ("admin", admin)];
    let addresses: Vec<_> = addresses.into_iter().filter_map(|(key, address)| Some((key, address?))).collect();
    for (at, (key, address)) in addresses.iter().enumerate() {
        if let Some((other, taken)) = addresses[..at].iter().find(|(_, other)| overlap(*other, *address)) {
            let why = format!("`{key}` is {address}, where `{other}` ({taken}) listens already");
            all.push(Conflict::mistake(key, &[key, other], why));
        }
    }
    let has_cookies = config.routes.iter().any(|route| route.sticky == Some(Sticky::Cookie));
    if config.cookie_secret.is_some() && !has_cookies {
        let why = "`cookie_secret` has no effect: no route has balance = \"cookie\"";
        all.push(Conflict::warning("cookie_secret", why.to_owned()));
    }
    // One client alone may hold half of the budget.
    let half = config.max_held_bytes / 2;
    if config.max_body_bytes > half {
        let why = format!(
            "bodies for nodes have {half} bytes at most, half of `max_held_bytes`, whatever `max_body_bytes` says"
        );
        all.push(Conflict::warning("max_body_bytes", why));
    }
    for (number, route) in config.routes.iter().enumerate() {
        let timeout = route.timeout.unwrap_or(config.request_timeout);
        if route.try_timeout.is_some_and(|one| one >= timeout) {
            let why = format!("`try_timeout` has no effect: the whole request may take {timeout:?}");
            all.push(Conflict::warning(&format!("route.{number}.try_timeout"), why));
        }
    }
    all
}

impl Conflict {
    fn mistake(key: &str, depends_on: &[&'static str], message: String) -> Self {
        Self { key: key.to_owned(), depends_on: depends_on.to_vec(), message, is_mistake: true }
    }

    fn warning(key: &str, message: String) -> Self {
        Self { key: key.to_owned(), depends_on: Vec::new(), message, is_mistake: false }
    }
}

/// Whether a socket that listens at one of these takes the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |one: SocketAddr, other: SocketAddr| {
        one.ip() == other.ip() || one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    one.port() != 0 && one.port() == other.port() && (takes(one, other) || takes(other, one))
}
