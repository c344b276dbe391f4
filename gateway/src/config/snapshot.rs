//! The configuration as requests see it.

use std::sync::Arc;

use foldhash::HashMap;

use crate::config::{Config, RouteConfig};
use crate::route::access::PathAccess;
use crate::route::cookie::{CookieName, CookieSigner};
use crate::route::path::{longest_prefix, normal_prefix};
use crate::route::path_readings::{is_ambiguous, readings};

/// A configuration with look-ups. A request keeps the one that it began with.
#[derive(Debug)]
pub(crate) struct ConfigSnapshot {
    pub(crate) config: Arc<Config>,
    pub(crate) cookies: CookieSigner,
    /// The position of a prefix's route in the configuration.
    routes: HashMap<String, usize>,
    /// The rules for paths without a route.
    default_route: RouteConfig,
    /// Whether some route does not answer all requests.
    has_access: bool,
}

impl ConfigSnapshot {
    /// A snapshot whose cookies are signed with `secret`, unless the configuration has another.
    pub(crate) fn new(config: Arc<Config>, secret: &str) -> Self {
        let cookies = CookieSigner::new(config.cookie_secret.as_deref().unwrap_or(secret));
        let routes =
            config.routes.iter().enumerate().flat_map(|(at, route)| {
                route.prefixes.iter().filter_map(move |prefix| Some((normal_prefix(prefix)?, at)))
            });
        let routes = routes.collect();
        let has_access = config.routes.iter().any(|route| route.access.is_some());
        Self { config, cookies, routes, default_route: RouteConfig::new(Vec::new()), has_access }
    }

    /// The name of the cookie that keeps a client with a server of `prefix`, whose configuration is
    /// `route`. Prefixes of one `[[route]]` share a cookie; others have one each.
    pub(crate) fn cookie_name<'a>(&self, route: &'a RouteConfig, prefix: &str) -> CookieName<'a> {
        let at = self.routes.get(prefix);
        let own = at.map(|at| &self.config.routes[*at]);
        match &route.cookie {
            // Of the route itself, or of one above it, whose servers it has.
            Some(name) if own.is_some() || !std::ptr::eq(self.route(prefix), route) => CookieName::new(name, ""),
            Some(name) => CookieName::new(name, prefix),
            None => {
                let first = own.and_then(|own| normal_prefix(own.prefixes.first()?));
                CookieName::new(CookieName::DEFAULT, first.as_deref().unwrap_or(prefix))
            }
        }
    }

    /// The rules of a path in normal form.
    pub(crate) fn route(&self, path: &str) -> &RouteConfig {
        if self.routes.is_empty() {
            return &self.default_route;
        }
        let found = longest_prefix(path, |prefix| self.routes.get(prefix));
        found.map_or(&self.default_route, |(_, at)| &self.config.routes[*at])
    }

    /// The lists that requests to a path in normal form have to pass, whose rules are `own`. A
    /// server of these may read a path in it that has other rules.
    pub(crate) fn access<'a>(&'a self, own: &'a RouteConfig, path: &'a str) -> PathAccess<'a> {
        let mut others = Vec::new();
        if self.has_access && is_ambiguous(path) {
            for reading in readings(path) {
                let other = self.route(&reading);
                let access = other.access.as_ref().filter(|_| !std::ptr::eq(other, own));
                others.extend(access.map(|access| (access, reading)));
            }
        }
        PathAccess { path, own: own.access.as_ref(), others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sticky;

    #[test]
    fn a5_prefixes_share_a_cookie_where_they_share_servers() {
        let route = |prefixes: &[&str], cookie: Option<&str>| RouteConfig {
            sticky: Some(Sticky::Cookie),
            cookie: cookie.map(str::to_owned),
            ..RouteConfig::new(prefixes.iter().map(|prefix| (*prefix).to_owned()).collect())
        };
        let routes = vec![route(&["/"], None), route(&["/a", "/b/"], None), route(&["/named"], Some("backend"))];
        let snapshot = ConfigSnapshot::new(Arc::new(Config { routes, ..Config::default() }), "");
        // Which route holds for a path, and which prefix has the servers, as nodes register them
        // too.
        let name = |path: &str, prefix: &str| snapshot.cookie_name(snapshot.route(path), prefix).to_string();
        let default = CookieName::DEFAULT;
        assert_eq!(name("/x", ""), default);
        assert_eq!(name("/x/y", "/x"), CookieName::new(default, "/x").to_string());
        assert_eq!(
            [name("/a/x", "/a"), name("/b", "/b")],
            [(); 2].map(|()| CookieName::new(default, "/a").to_string())
        );
        assert_eq!(name("/a/x", "/a/x"), CookieName::new(default, "/a/x").to_string());
        assert_eq!(name("/a/x", ""), default, "the servers are those of all");
        assert_eq!([name("/named", "/named"), name("/named", "")], ["backend"; 2]);
        assert_eq!(name("/named/x", "/named/x"), CookieName::new("backend", "/named/x").to_string());
    }
}
