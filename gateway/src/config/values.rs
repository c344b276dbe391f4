//! The types that only the gateway's settings have.

use clap::ValueEnum;
use http::HeaderName;
use net::{SettingValue, ValueKind};

use crate::config::{Balance, CertificateFiles, Check, Sticky};
use crate::observe::access_log::AccessLogFormat;
use crate::route::access::RequestPattern;
use crate::route::cookie::{MAX_NAME_BYTES, MIN_SECRET_BYTES};
use crate::route::cors::Cors;
use crate::route::limits::{Rate, RateBy};
use crate::route::params::ParamsTemplate;
use crate::route::path::normalize;

net::word_setting!(AccessLogFormat, "off|text|json");

/// How a route picks one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum BalanceName {
    RoundRobin,
    LeastConnections,
    LeastCost,
    Client,
    Cookie,
}
net::word_setting!(BalanceName, "round_robin|least_connections|least_cost|client|cookie");

impl BalanceName {
    /// How one is picked, or how a client is kept with one.
    pub(super) fn rule(self) -> (Option<Balance>, Option<Sticky>) {
        match self {
            Self::RoundRobin => (Some(Balance::RoundRobin), None),
            Self::LeastConnections => (Some(Balance::LeastInFlight), None),
            Self::LeastCost => (Some(Balance::PowerOfTwo), None),
            Self::Client => (None, Some(Sticky::Client)),
            Self::Cookie => (None, Some(Sticky::Cookie)),
        }
    }
}

/// The target of a check: servers or nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckTarget {
    Servers(Check),
    Nodes(String),
}

impl SettingValue for CheckTarget {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "CHECK";
    const EXAMPLE: &'static str = "/health";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        let (method, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let is_path = normalize(path).is_ok_and(|normal| normal == path) && !path.contains(['{', '}', '?', '#']);
        match method {
            "tcp" if path.is_empty() => Ok(Self::Servers(Check::Tcp)),
            "" if is_path => Ok(Self::Servers(Check::Http(text.to_owned()))),
            "GET" | "POST" | "PUT" | "PATCH" | "DELETE" if is_path => Ok(Self::Nodes(text.to_owned())),
            _ => Err("write \"tcp\", a path that servers answer such as \"/health\", or a url of nodes such as \"GET/health\"".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Servers(Check::Tcp) => Some("tcp".to_owned()),
            Self::Servers(Check::Http(text)) | Self::Nodes(text) => Some(text.clone()),
        }
    }
}

impl SettingValue for RequestPattern {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "REQUEST";
    const EXAMPLE: &'static str = "GET/api/goods";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Method(method) => method.clone(),
            Self::Route(route) => route.to_string(),
        })
    }
}

impl SettingValue for RateBy {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "address|route|header:NAME";
    const EXAMPLE: &'static str = "address";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        match (text, text.strip_prefix("header:")) {
            ("route", _) => Ok(Self::Route),
            ("address", _) => Ok(Self::Address),
            (_, Some(name)) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self::Header(name.to_ascii_lowercase()))
            }
            _ => Err("write \"address\", \"route\" or \"header:NAME\"".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Route => Some("route".to_owned()),
            Self::Address => Some("address".to_owned()),
            Self::Header(name) => Some(format!("header:{name}")),
        }
    }
}

/// Types that are tables: their keys are read elsewhere.
macro_rules! table_setting {
    ($($Type:ty, $unit:literal, $example:literal;)*) => { $(
        impl SettingValue for $Type {
            const KIND: ValueKind = ValueKind::Table;
            const UNIT: &'static str = $unit;
            const EXAMPLE: &'static str = $example;
            type Rule = ();

            fn read(_text: &str, _rule: Option<&()>) -> Result<Self, String> {
                Err(concat!("write ", $example).to_owned())
            }

            fn show(&self) -> Option<String> {
                None
            }
        }
    )* };
}
table_setting! {
    Rate, "RATE", "{ requests = 100, every = \"1s\" }";
    Cors, "CORS", "{ origins = [\"https://shop.example\"] }";
    ParamsTemplate, "MEMBERS", "{ data = \"body\" }";
    CertificateFiles, "CERTIFICATE", "{ chain = \"cert.pem\", key = \"key.pem\" }";
}

/// Checks that a secret is so long that it cannot be guessed.
pub(super) fn long_enough(secret: &str) -> Result<(), String> {
    match secret.len() < MIN_SECRET_BYTES {
        true => Err(format!("write at least {MIN_SECRET_BYTES} characters: openssl rand -hex 32")),
        false => Ok(()),
    }
}

/// Checks that a text can be the name of a cookie: a token (RFC 6265, 4.1.1).
pub(super) fn cookie_name(name: &str) -> Result<(), String> {
    match name.len() <= MAX_NAME_BYTES && HeaderName::from_bytes(name.as_bytes()).is_ok() {
        true => Ok(()),
        false => Err(format!("write letters, digits, `-` and `_`, such as \"backend\", {MAX_NAME_BYTES} at most")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_settings_are_those_that_there_are() {
        fn check<T: SettingValue + ValueEnum>() {
            let words: Vec<_> = T::value_variants().iter().filter_map(T::show).collect();
            assert_eq!(words.join("|"), T::UNIT);
        }
        check::<AccessLogFormat>();
        check::<BalanceName>();
    }
}
