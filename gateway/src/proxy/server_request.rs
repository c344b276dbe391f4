//! A request as a server is sent it: its head, and how the server's urls are rewritten in the
//! response.

use bytes::BytesMut;
use net::{MAX_ESCAPED_BYTES, buffers, escaped};
use tokio::time::Instant;
use tracing::warn;

use super::{Proxy, RequestContext};
use crate::http1::request_writer::{UpstreamRequest, put_request};
use crate::message::head::RequestHead;
use crate::message::location::LocationRewrite;
use crate::route::path::after_prefix;
use crate::upstream::endpoint::Endpoint;

impl Proxy<'_> {
    /// The head of the request as a server is sent it.
    pub(super) fn write_head(
        &self,
        context: &RequestContext<'_>,
        endpoint: &Endpoint,
        stripped: &str,
        expects_continue: bool,
        now: Instant,
    ) -> BytesMut {
        let RequestContext { head, route, path, raw_path, query, origin, hops, id, .. } = *context;
        let mut bytes = buffers::acquire();
        bytes.reserve(1024);
        let seen = match raw_path {
            Some(raw) => after_prefix(raw, stripped),
            None => &path[stripped.len()..],
        };
        let slash = if seen.starts_with('/') { "" } else { "/" };
        let mark = if head.target().contains('?') { "?" } else { "" };
        let request = UpstreamRequest {
            target: [slash, seen, mark, query],
            server: &endpoint.address,
            origin,
            hops,
            stripped,
            underscores: route.underscores,
            expects_continue,
            id,
        };
        let left_out = put_request(&mut bytes, head, request);
        if left_out > 0 {
            self.metrics.record_fields_left_out(left_out);
            self.warn_of_fields(head, now);
        }
        bytes
    }

    /// Logs that a field with `_` in its name was left out, because neither the server nor the
    /// client learns of it.
    fn warn_of_fields(&self, head: &RequestHead, now: Instant) {
        let Some((name, _)) = head.fields().iter().find(|(name, _)| name.contains(&b'_')) else { return };
        if let Some(suppressed) = self.shared.log_throttles.allow_for("fields_left_out", name, now.into_std()) {
            let field = escaped(String::from_utf8_lossy(name), MAX_ESCAPED_BYTES);
            warn!(%field, suppressed, "a field of a request is left out, because servers may take \
                  its _ for a -; set underscores = true on the route to pass on fields that do not imitate others");
        }
    }
}

/// How `Location` and the paths of cookies are rewritten, if the server sees another path than the
/// client.
pub(super) fn location_rewrite<'a>(
    context: &RequestContext<'a>,
    endpoint: &'a Endpoint,
    stripped: &'a str,
) -> Option<LocationRewrite<'a>> {
    let RequestContext { head, route, origin, .. } = *context;
    let rewrites = (route.rewrite_location || route.rewrite_cookies) && !stripped.is_empty();
    rewrites.then(|| LocationRewrite {
        prefix: stripped,
        host: origin.host.as_deref().or_else(|| head.host()),
        server: &endpoint.address,
        redirects: route.rewrite_location,
        cookies: route.rewrite_cookies,
    })
}
