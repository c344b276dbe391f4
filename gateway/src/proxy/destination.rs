//! The destination of a request: nodes, servers, or none.

use std::borrow::Cow;

use http::StatusCode;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::CallError;
use node_sdk::gateway::{GatewayPeers, RouteOffer};
use tracing::debug;

use super::Proxy;
use crate::config::RouteConfig;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::exchange::FullResponse;
use crate::proxy::node_call::translate::{JSON, readable_path};
use crate::route::access::PathAccess;
use crate::upstream::group::UpstreamMatch;

/// The destination of a request.
#[derive(Debug)]
pub(super) enum Destination<'a> {
    /// Nodes that are called with packets, with this method and path.
    Node(&'a str, Cow<'a, str>, RouteOffer),
    /// Servers that speak HTTP.
    Upstream(UpstreamMatch),
    None(MissingRoute),
}

/// Why a request has no destination.
#[derive(Debug)]
pub(super) enum MissingRoute {
    /// The nodes that offer the route cannot be called now.
    Unavailable,
    /// Nodes offer the path by other methods: the value of `Allow`.
    OtherMethods(String),
    /// No node offers the path to clients, and none ever has.
    Unknown,
}

/// The methods that nodes may offer a path by, as `Allow` lists them.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

impl Proxy<'_> {
    /// Nodes that offer the very route to clients come first, then servers of the longest prefix,
    /// then nodes that offered the route once. A route with `nodes = false` has servers only.
    pub(super) fn destination<'a>(
        &self,
        route: &RouteConfig,
        access: &PathAccess<'_>,
        method: &'a str,
        path: &'a str,
    ) -> Destination<'a> {
        // A path that takes GET takes HEAD too (RFC 9110, 9.3.2).
        let methods = if method == "HEAD" { &["HEAD", "GET"][..] } else { std::slice::from_ref(&method) };
        let readable = readable_path(path);
        let paths = || [Some(path), readable.as_deref()].into_iter().flatten();
        // A node may read a path in either form.
        let is_internal =
            |method: &str| readable.is_some() && paths().any(|path| self.peers.has_internal(method, path));
        let permits = |method: &str| access.permits(method);
        if permits(method) {
            for path in [Some(Cow::Borrowed(path)), readable.clone().map(Cow::Owned)].into_iter().flatten() {
                let offer = |method: &&'a str| {
                    let offer = if route.nodes { self.peers.offer(method, &path) } else { None };
                    offer.filter(|_| !is_internal(method)).map(|offer| (*method, offer))
                };
                if let Some((method, offer)) = methods.iter().find_map(offer) {
                    return Destination::Node(method, path, offer);
                }
            }
            if let Some(upstream) = self.upstreams.find(path) {
                return Destination::Upstream(upstream);
            }
        }
        if !route.nodes {
            return Destination::None(MissingRoute::Unknown);
        }
        let is_known = |method: &str| {
            permits(method) && !is_internal(method) && paths().any(|path| self.peers.has_known(method, path))
        };
        if methods.iter().any(|method| is_known(method)) {
            return Destination::None(MissingRoute::Unavailable);
        }
        self.log_missing(methods, path, permits(method));
        Destination::None(allow(is_known).map_or(MissingRoute::Unknown, MissingRoute::OtherMethods))
    }

    /// Logs why a request has no destination although a node offers its route.
    fn log_missing(&self, methods: &[&str], path: &str, is_permitted: bool) {
        let is_internal = || methods.iter().any(|method| self.peers.has_internal(method, path));
        let path = escaped(path, MAX_ESCAPED_BYTES);
        if !is_permitted {
            debug!(?path, "`allow` or `deny` of a [[route]] excludes the request");
        } else if is_internal() {
            debug!(?path, "the route is internal");
        }
    }
}

impl MissingRoute {
    /// The response to a request for the route. With `empty_404` it is as version 1 gateways
    /// answered, which did not distinguish methods.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(super) fn response(self, method: &str, path: &str, empty_404: bool) -> Result<FullResponse, Problem> {
        let url = format!("{method}{path}");
        match self {
            Self::Unavailable => Err(Problem::from_call(&CallError::NoProvider { url })),
            Self::OtherMethods(allow) if !empty_404 && method == "OPTIONS" => {
                let allow = Some(allow);
                Ok(FullResponse { allow, ..FullResponse::new(StatusCode::NO_CONTENT, JSON, "") })
            }
            Self::OtherMethods(allow) if !empty_404 => {
                let detail = format!("no node offers {url}; {path} has {allow}");
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, ProblemKind::METHOD_NOT_ALLOWED, detail);
                Err(Problem { allow: Some(allow), ..problem })
            }
            Self::OtherMethods(_) | Self::Unknown => Err(Problem::from_call(&CallError::NoRoute { url })),
        }
    }
}

/// The value of `Allow` for a path that is offered by some methods; `None` if by none.
fn allow(is_offered: impl Fn(&str) -> bool) -> Option<String> {
    let mut methods: Vec<_> = METHODS.into_iter().filter(|method| is_offered(method)).collect();
    if methods.is_empty() {
        return None;
    }
    // A path that takes GET takes HEAD, and every path takes OPTIONS.
    if methods.first() == Some(&"GET") {
        methods.insert(1, "HEAD");
    }
    methods.push("OPTIONS");
    Some(methods.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a19_a_path_tells_its_methods() {
        let check = |offered: &[&str], expected: Option<&str>| {
            assert_eq!(allow(|method| offered.contains(&method)).as_deref(), expected, "{offered:?}");
        };
        check(&[], None);
        check(&["GET"], Some("GET, HEAD, OPTIONS"));
        check(&["DELETE", "POST"], Some("POST, DELETE, OPTIONS"));
        check(&["PUT", "GET", "PATCH"], Some("GET, HEAD, PUT, PATCH, OPTIONS"));
    }
}
