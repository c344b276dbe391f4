//! The words by which clients tell problems apart.

use std::borrow::Cow;
use std::fmt;

/// A stable word; the `type` of a problem is `/problems/` and this word. `docs/PROTOCOL.md` lists
/// those of the gateway; a node answers with words of its own, which may be any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProblemKind(Cow<'static, str>);

impl ProblemKind {
    pub(crate) const BAD_ANSWER: Self = Self::known("bad_answer");
    pub(crate) const BAD_BODY: Self = Self::known("bad_body");
    pub(crate) const BAD_FIELD: Self = Self::known("bad_field");
    pub(crate) const BAD_FRAMING: Self = Self::known("bad_framing");
    pub(crate) const BAD_HEAD: Self = Self::known("bad_head");
    pub(crate) const BAD_HOST: Self = Self::known("bad_host");
    pub(crate) const BAD_JSON: Self = Self::known("bad_json");
    pub(crate) const BAD_PATH: Self = Self::known("bad_path");
    pub(crate) const BAD_REQUEST_LINE: Self = Self::known("bad_request_line");
    pub(crate) const BAD_TARGET: Self = Self::known("bad_target");
    pub(crate) const BARE_LINE_FEED: Self = Self::known("bare_line_feed");
    pub(crate) const BODY_TOO_LARGE: Self = Self::known("body_too_large");
    pub(crate) const DEADLINE: Self = Self::known("deadline");
    pub(crate) const EXPECTATION_FAILED: Self = Self::known("expectation_failed");
    pub(crate) const FOREIGN_ORIGIN: Self = Self::known("foreign_origin");
    pub(crate) const HEAD_TOO_LARGE: Self = Self::known("head_too_large");
    pub(crate) const HTTP_VERSION: Self = Self::known("http_version");
    pub(crate) const INTERNAL: Self = Self::known("internal");
    pub(crate) const LOOP: Self = Self::known("loop");
    pub(crate) const METHOD_NOT_ALLOWED: Self = Self::known("method_not_allowed");
    pub(crate) const METHOD_NOT_KNOWN: Self = Self::known("method_not_known");
    pub(crate) const NODE_LOST: Self = Self::known("node_lost");
    pub(crate) const NOT_FOUND: Self = Self::known("not_found");
    pub(crate) const NO_LOCAL_PORT: Self = Self::known("no_local_port");
    pub(crate) const NO_PROVIDER: Self = Self::known("no_provider");
    /// The route is one of held sockets.
    pub(crate) const NO_SOCKET: Self = Self::known("no_socket");
    pub(crate) const NO_ROUTE: Self = Self::known("no_route");
    pub(crate) const OVERLOADED: Self = Self::known("overloaded");
    pub(crate) const SLOW_BODY: Self = Self::known("slow_body");
    pub(crate) const SLOW_HEAD: Self = Self::known("slow_head");
    /// The answer is a stream, and was not asked for as one.
    pub(crate) const STREAM: Self = Self::known("stream");
    pub(crate) const TARGET_TOO_LONG: Self = Self::known("target_too_long");
    pub(crate) const TLS_WANTED: Self = Self::known("tls_wanted");
    pub(crate) const TOO_LARGE_FOR_NODE: Self = Self::known("too_large_for_node");
    pub(crate) const TOO_MANY_REQUESTS: Self = Self::known("too_many_requests");
    pub(crate) const UNSUPPORTED_MEDIA_TYPE: Self = Self::known("unsupported_media_type");

    /// The request for a WebSocket is not one.
    pub(crate) const WEBSOCKET: Self = Self::known("websocket");

    const fn known(word: &'static str) -> Self {
        Self(Cow::Borrowed(word))
    }

    /// The word that a node gives as the reason of its answer.
    pub(crate) fn of_node(reason: impl Into<String>) -> Self {
        Self(Cow::Owned(reason.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
