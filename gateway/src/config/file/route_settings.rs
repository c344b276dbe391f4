//! The keys of `[[route]]`, of its servers, and of its rate.

use std::time::Duration;

use protocol::{Advert, foreign_prefix};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cors_settings::read_cors;
use super::file_reader::{Entry, FileReader, entries};
use crate::config::settings_error::shown;
use crate::config::values::{BalanceName, CheckTarget, cookie_name};
use crate::config::{FixedAddress, FixedServer, MAX_TIME, MIN_TIME, RouteConfig};
use crate::route::access::{RequestPattern, RouteAccess};
use crate::route::cors::Cors;
use crate::route::limits::{Rate, RateBy, RouteLimits};
use crate::route::params::ParamsTemplate;
use crate::route::path::{longest_prefix, normal_prefix, normalize};

net::settings! {
    /// The keys of a `[[route]]`.
    #[derive(Debug)]
    pub(crate) struct RouteSettings {
        /// A path or a list of paths, with all paths below.
        @File prefix: Vec<String> = Vec::new(), "PATH", like "/api";
        /// A list of `"host:port"`, `"unix:/path"` or `{ address = "host:port", weight = 50 }`;
        /// those that register unless given.
        @File servers: Vec<FixedServer> = Vec::new();
        /// Requests are sent to servers without the prefix; they see it in `X-Forwarded-Prefix`.
        @File strip: bool = false;
        /// With `strip`: `Location` and `Content-Location` of servers are put below the prefix.
        @File rewrite_location: bool = false;
        /// With `strip`: the paths of cookies that servers set are put below the prefix.
        @File rewrite_cookies: bool = false;
        /// Servers see the path as it was sent; see Paths.
        @File raw_path: bool = false;
        /// Servers get fields with `_` in their names; see Fields.
        @File underscores: bool = false;
        /// A list of methods such as `GET`, and routes such as `POST/orders/{id}`: other requests
        /// are answered as if there were no such route; see Public and internal.
        @File allow: Option<Vec<RequestPattern>> = None;
        /// A list of such requests that are answered as if there were no such route; it counts
        /// before `allow`.
        @File deny: Vec<RequestPattern> = Vec::new();
        /// Which pages of other origins may read the answers; see Pages of other origins.
        @File cors: Option<Cors> = None;
        /// Nodes are called with packets; otherwise only servers are asked.
        @File nodes: bool = true;
        /// The `params` of calls; see Services of another dialect.
        @File params: Option<ParamsTemplate> = None;
        /// Bodies for nodes are read whatever their media type: as a JSON object, or else as a
        /// form.
        @File any_body: bool = false;
        /// How one of several is picked; see below.
        @File balance: Option<BalanceName> = None, like "cookie";
        /// The name of the cookie of `balance = "cookie"`; see Cookies.
        @File cookie: Option<String> = None, where cookie_name, like "backend";
        /// How long a request may take; `request_timeout` unless given.
        @File timeout: Option<Duration> = None, where MIN_TIME..=MAX_TIME;
        /// How long one server may take, before a repeatable request is tried at another.
        @File try_timeout: Option<Duration> = None, where MIN_TIME..=MAX_TIME;
        /// Requests that one server has at a time, over all workers.
        @File max_connections: usize = RouteConfig::MAX_CONNECTIONS, where 1..=usize::MAX;
        /// How long further requests for a server wait.
        @File queue_timeout: Duration = Duration::from_secs(1);
        /// WebSockets that one server has at a time, beside its requests; `max_connections` unless
        /// given.
        @File max_tunnels: Option<usize> = None, where 1..=usize::MAX;
        /// How long an idle WebSocket stays.
        @File tunnel_idle_timeout: Duration = Duration::from_secs(600), where MIN_TIME..=MAX_TIME;
        /// Percent of a server's permits, and of `at_most`, that one client may have; see Permits.
        @File client_share: u8 = RouteConfig::CLIENT_SHARE, where 1..=100;
        /// How the health of a server or node is checked; see below.
        @File check: Option<CheckTarget> = None;
        /// Time between checks.
        @File check_every: Duration = Duration::from_secs(2), where RouteConfig::MIN_CHECK_PERIOD..=MAX_TIME;
        /// Requests at a time below the prefix.
        @File at_most: Option<usize> = None, where 1..=usize::MAX;
        /// Requests per period: `{ requests = 100, every = "1s", burst = 200, by = "address" }`.
        @File rate: Option<Rate> = None;
    }
}

net::settings! {
    /// A server that is a table.
    #[derive(Debug)]
    struct ServerSettings {
        /// Its address.
        @File address: Option<FixedAddress> = None;
        /// Its share, in hundredths of the usual one.
        @File weight: u16 = Advert::DEFAULT_WEIGHT, where 1..=Advert::MAX_WEIGHT;
    }
}

net::settings! {
    /// The rate of a route.
    #[derive(Debug)]
    struct RateSettings {
        /// Requests.
        @File requests: Option<u32> = None, where 1..=u32::MAX;
        /// The period in which they are counted.
        @File every: Duration = Duration::from_secs(1), where MIN_TIME..=MAX_TIME;
        /// Requests that may arrive at once; `requests` unless given.
        @File burst: Option<u32> = None, where 1..=u32::MAX;
        /// Which requests count together.
        @File by: RateBy = RateBy::Address;
    }
}

/// Reads all `[[route]]` of a file.
pub(super) fn read_routes<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Vec<RouteConfig> {
    let mut routes = Vec::new();
    let mut seen = UniqueNames::default();
    let list = reader.list("route", value, "[[route]] with two brackets").unwrap_or_default();
    for (number, value) in list.iter().enumerate() {
        if let Some(table) = reader.table("route", value, "[[route]]") {
            let at = value.span().start;
            routes.push(read_route(reader, &format!("route.{number}."), at, table, &mut seen));
        }
    }
    seen.check_listed(reader);
    routes
}

/// Prefixes and cookies, which no two routes may share, each with its line.
#[derive(Debug, Default)]
struct UniqueNames {
    /// The prefixes in normal form.
    prefixes: Vec<(String, usize)>,
    cookies: Vec<(String, usize)>,
    listed: Vec<ListedPath>,
}

/// A path of `allow` or `deny`.
#[derive(Debug)]
struct ListedPath {
    key: &'static str,
    at: usize,
    path: String,
    /// The prefix of its route that it is below.
    prefix: String,
}

impl UniqueNames {
    /// Checks that each path of `allow` and `deny` is listed where it counts.
    fn check_listed(&self, reader: &mut FileReader<'_>) {
        for ListedPath { key, at, path, prefix } in &self.listed {
            let line_of = |prefix: &str| self.prefixes.iter().find(|(other, _)| other == prefix);
            if let Some((_, (owner, line))) = longest_prefix(path, line_of)
                && owner.len() > prefix.len()
            {
                let (path, owner, line) = (shown(path), shown(owner), line + 1);
                let why =
                    format!("{key}: the lists of prefix `{owner}`, in line {line}, count for `{path}`: write it there");
                reader.mistake(*at, why);
            }
        }
    }
}

fn read_route<'t>(
    reader: &mut FileReader<'t>,
    scope: &str,
    at: usize,
    table: &DeTable<'t>,
    seen: &mut UniqueNames,
) -> RouteConfig {
    let mut keys = RouteSettings::default();
    let mut unknown: Vec<Entry<'_, 't>> = Vec::new();
    for (key, value) in reader.apply(scope, entries(table), &mut keys) {
        match &**key.get_ref() {
            "servers" => keys.servers = read_servers(reader, value),
            "rate" => keys.rate = read_rate(reader, value),
            "params" => keys.params = read_params(reader, value),
            "cors" => keys.cors = read_cors(reader, value),
            _ => unknown.push((key, value)),
        }
    }
    reader.unknown_in::<RouteSettings>(unknown, "[[route]]");
    let route = RouteTable { scope, at, table };
    route.check_prefixes(reader, &keys.prefix, seen);
    route.check_cookie(reader, &keys, seen);
    route.check_targets(reader, &keys);
    route.check_access(reader, &keys, seen);
    route.warn_of_no_effect(reader, &keys);
    keys.route()
}

/// A `[[route]]` whose settings have been read, with its offset.
struct RouteTable<'a, 't> {
    scope: &'a str,
    at: usize,
    table: &'a DeTable<'t>,
}

impl RouteTable<'_, '_> {
    /// The offset of a key's value, if the route has it.
    fn offset(&self, reader: &FileReader<'_>, key: &str) -> Option<usize> {
        reader.offset(&format!("{}{key}", self.scope))
    }

    /// Adds a warning about a key.
    fn warn(&self, reader: &mut FileReader<'_>, key: &str, message: String) {
        reader.warning(&format!("{}{key}", self.scope), message);
    }

    /// Checks that each prefix has a normal form and stands in no other route.
    fn check_prefixes(&self, reader: &mut FileReader<'_>, prefixes: &[String], seen: &mut UniqueNames) {
        let Some(at) = self.offset(reader, "prefix") else {
            return reader.mistake(self.at, "this [[route]] has no `prefix`, such as prefix = \"/\" for all");
        };
        let list = self.table.get("prefix").and_then(|value| value.get_ref().as_array());
        if list.is_some_and(|list| list.is_empty()) {
            reader.mistake(at, "prefix: write a path such as \"/\", which is all, or a list of paths");
        }
        for prefix in prefixes {
            let named = shown(prefix);
            match normalize(prefix) {
                Ok(normal) => {
                    let normal = normal.trim_end_matches('/').to_owned();
                    if let Some((_, line)) = seen.prefixes.iter().find(|(other, _)| *other == normal) {
                        reader.mistake(at, format!("prefix `{named}` has a route already, in line {}", line + 1));
                    }
                    seen.prefixes.push((normal, reader.line(at)));
                    if let Some(why) = foreign_prefix(prefix) {
                        self.warn(reader, "prefix", format!("prefix `{named}` matches only itself: {why}"));
                    }
                }
                Err(bad) => reader.mistake(at, format!("prefix `{named}`: {}", bad.0)),
            }
        }
    }

    /// Checks that the cookie is used, and by this route only.
    fn check_cookie(&self, reader: &mut FileReader<'_>, keys: &RouteSettings, seen: &mut UniqueNames) {
        let (Some(cookie), Some(at)) = (&keys.cookie, self.offset(reader, "cookie")) else { return };
        if let Some((_, line)) = seen.cookies.iter().find(|(other, _)| other == cookie) {
            reader.mistake(at, format!("cookie `{cookie}` is that of another route already, in line {}", line + 1));
        }
        seen.cookies.push((cookie.clone(), reader.line(at)));
        if keys.balance != Some(BalanceName::Cookie) {
            reader.mistake(at, "cookie: this is the name of the cookie of `balance = \"cookie\"`, which is not set");
        }
    }

    /// Checks that the route has nodes or servers where a setting is about them.
    fn check_targets(&self, reader: &mut FileReader<'_>, keys: &RouteSettings) {
        let checks_nodes = matches!(keys.check, Some(CheckTarget::Nodes(_)));
        if checks_nodes
            && self.offset(reader, "servers").is_some()
            && let Some(at) = self.offset(reader, "check")
        {
            reader.mistake(at, "check: servers speak HTTP: check them by \"tcp\" or a path such as \"/health\"");
        }
        if !keys.nodes {
            for key in ["params", "any_body", "check"].into_iter().filter(|key| *key != "check" || checks_nodes) {
                if let Some(at) = self.offset(reader, key) {
                    reader.mistake(at, format!("{key}: with `nodes = false` no node is called here"));
                }
            }
        }
    }

    /// Checks that the requests that are allowed or denied are below a prefix of the route.
    fn check_access(&self, reader: &mut FileReader<'_>, keys: &RouteSettings, seen: &mut UniqueNames) {
        let prefixes: Vec<String> = keys.prefix.iter().filter_map(|prefix| normal_prefix(prefix)).collect();
        let prefix_of = |path: &str| longest_prefix(path, |prefix| prefixes.iter().find(|own| *own == prefix));
        for (key, patterns) in [("allow", keys.allow.as_deref().unwrap_or_default()), ("deny", &keys.deny)] {
            let Some(at) = self.offset(reader, key) else { continue };
            for path in patterns.iter().filter_map(RequestPattern::path) {
                let Some((_, prefix)) = prefix_of(path) else {
                    let path = shown(path);
                    reader.mistake(at, format!("{key}: `{path}` is not below the prefix of this [[route]]"));
                    break;
                };
                let (path, prefix) = (path.to_owned(), prefix.clone());
                seen.listed.push(ListedPath { key, at, path, prefix });
            }
            if let Err(error) = RouteAccess::new(None::<Vec<_>>, patterns.iter().cloned()) {
                reader.mistake(at, format!("{key}: {}", error.reason()));
            }
        }
    }

    fn warn_of_no_effect(&self, reader: &mut FileReader<'_>, keys: &RouteSettings) {
        for (key, is_set) in [("rewrite_location", keys.rewrite_location), ("rewrite_cookies", keys.rewrite_cookies)] {
            if is_set && !keys.strip {
                self.warn(reader, key, format!("`{key}` has no effect without `strip`"));
            }
        }
        if self.offset(reader, "check_every").is_some() && self.offset(reader, "check").is_none() {
            self.warn(reader, "check_every", "`check_every` has no effect without `check`".to_owned());
        }
        if keys.strip && self.offset(reader, "servers").is_none() {
            let why = "`strip` has no effect without `servers`: servers that register say it themselves";
            self.warn(reader, "strip", why.to_owned());
        }
    }
}

impl RouteSettings {
    fn route(self) -> RouteConfig {
        // A list that cannot be looked up is a mistake of the file.
        let has_access = self.allow.is_some() || !self.deny.is_empty();
        let access = has_access.then(|| RouteAccess::new(self.allow, self.deny).unwrap_or_default());
        let (balance, sticky) = self.balance.map_or((None, None), BalanceName::rule);
        let (check, node_check) = match self.check {
            None => (None, None),
            Some(CheckTarget::Servers(check)) => (Some(check), None),
            Some(CheckTarget::Nodes(url)) => (None, Some(url)),
        };
        RouteConfig {
            prefixes: self.prefix,
            servers: self.servers,
            strip: self.strip,
            raw_path: self.raw_path,
            rewrite_location: self.rewrite_location,
            rewrite_cookies: self.rewrite_cookies,
            underscores: self.underscores,
            access,
            cors: self.cors,
            nodes: self.nodes,
            params: self.params,
            any_body: self.any_body,
            cookie: self.cookie,
            balance,
            sticky,
            timeout: self.timeout,
            try_timeout: self.try_timeout,
            max_connections: self.max_connections,
            max_tunnels: self.max_tunnels.unwrap_or(self.max_connections),
            client_share: self.client_share,
            tunnel_idle_timeout: self.tunnel_idle_timeout,
            queue_timeout: self.queue_timeout,
            check,
            node_check,
            check_every: self.check_every,
            limits: RouteLimits::new(self.at_most, self.rate, self.client_share),
        }
    }
}

fn read_servers<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Vec<FixedServer> {
    const EXAMPLE: &str = "a list such as [\"10.0.0.1:8080\", { address = \"10.0.0.2:8080\", weight = 50 }]";
    let mut servers = Vec::new();
    let Some(list) = reader.list("servers", value, EXAMPLE) else { return servers };
    for item in list {
        let at = item.span().start;
        if let Some(word) = reader.bare(item) {
            reader.mistake(at, format!("servers: write it in quotes: \"{}\"", shown(word)));
            continue;
        }
        match item.get_ref() {
            DeValue::String(text) => match <FixedServer as net::SettingValue>::read(text, None) {
                Ok(server) => servers.push(server),
                Err(why) => reader.mistake(at, format!("server `{}`: {why}", shown(text))),
            },
            DeValue::Table(table) => {
                let mut keys = ServerSettings::default();
                let rest = reader.apply("", entries(table), &mut keys);
                reader.unknown_in::<ServerSettings>(rest, "a server");
                match keys.address {
                    Some(address) => servers.push(FixedServer { address, weight: keys.weight }),
                    None if table.contains_key("address") => {}
                    None => reader.mistake(at, "this server has no `address`, such as \"10.0.0.1:8080\""),
                }
            }
            _ => reader.mistake(at, format!("servers: write {EXAMPLE}")),
        }
    }
    if list.is_empty() {
        reader.mistake(value.span().start, "servers: the list is empty; leave it out for servers that register");
    }
    servers
}

fn read_params<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Option<ParamsTemplate> {
    const EXAMPLE: &str = "{ data = \"body\" }";
    let table = reader.table("params", value, EXAMPLE)?;
    let mut members = Vec::new();
    for (name, source) in entries(table) {
        match source.get_ref() {
            DeValue::String(text) => members.push((&**name.get_ref(), &**text)),
            _ => reader.mistake(source.span().start, format!("params: write a table of texts, such as {EXAMPLE}")),
        }
    }
    match ParamsTemplate::parse(members) {
        Ok(template) => Some(template),
        Err(why) => {
            reader.mistake(value.span().start, format!("params: {why}"));
            None
        }
    }
}

fn read_rate<'t>(reader: &mut FileReader<'t>, value: &Spanned<DeValue<'t>>) -> Option<Rate> {
    let table = reader.table("rate", value, "{ requests = 100, every = \"1s\" }")?;
    let mut keys = RateSettings::default();
    let rest = reader.apply("", entries(table), &mut keys);
    reader.unknown_in::<RateSettings>(rest, "a rate");
    if !table.contains_key("requests") {
        reader.mistake(value.span().start, "this rate has no `requests`, such as requests = 100");
    }
    let requests = keys.requests?;
    Some(Rate { requests, every: keys.every, burst: keys.burst.unwrap_or(requests), by: keys.by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_file_are_those_of_the_library() {
        let keys = RouteSettings { prefix: vec!["/".to_owned()], ..RouteSettings::default() };
        assert_eq!(
            format!("{:?}", keys.route()),
            format!(
                "{:?}",
                RouteConfig { limits: RouteLimits::new(None, None, 90), ..RouteConfig::new(vec!["/".to_owned()]) }
            )
        );
    }
}
