//! The destination of a request: nodes, servers, or nothing.

use std::borrow::Cow;

use node_sdk::gateway::GatewayPeers;

use super::Proxy;
use crate::proxy::translate::readable_path;
use crate::upstream::group::UpstreamMatch;

/// The destination of a request.
#[derive(Debug)]
pub(super) enum Destination<'a> {
    /// Nodes that are called with packets, with this method and path.
    Node(&'a str, Cow<'a, str>),
    /// Servers that speak HTTP.
    Upstream(UpstreamMatch),
    /// Nodes that cannot be called now.
    Unavailable,
    Unknown,
}

impl Proxy<'_> {
    /// Nodes that offer the very route come first, then servers of the longest prefix, then nodes
    /// that offered the route once.
    pub(super) fn destination<'a>(&self, method: &'a str, path: &'a str) -> Destination<'a> {
        // What has GET has HEAD (RFC 9110, 9.3.2), without the body.
        let methods = if method == "HEAD" { &["HEAD", "GET"][..] } else { std::slice::from_ref(&method) };
        let readable = readable_path(path);
        for path in [Some(Cow::Borrowed(path)), readable.clone().map(Cow::Owned)].into_iter().flatten() {
            if let Some(method) = methods.iter().find(|method| self.peers.offers(method, &path)) {
                return Destination::Node(method, path);
            }
        }
        if let Some(target) = self.upstreams.find(path) {
            return Destination::Upstream(target);
        }
        let mut paths = [Some(path), readable.as_deref()].into_iter().flatten();
        let is_known = paths.any(|path| methods.iter().any(|method| self.peers.has_known(method, path)));
        if is_known { Destination::Unavailable } else { Destination::Unknown }
    }
}
