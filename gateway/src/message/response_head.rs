//! The head of a response in either version of HTTP. Pure.

use std::time::Duration;

use http::StatusCode;

use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::location::LocationRewrite;
use crate::message::request_id::REQUEST_ID;

/// A response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    /// Whether the connection may be used again.
    pub(crate) keep_alive: bool,
    /// How long the server keeps an idle connection, if it says so.
    pub(crate) keep_for: Option<Duration>,
}

impl ResponseHead {
    /// The head of an interim response, which comes before the response itself, without fields.
    pub(crate) fn interim(status: StatusCode) -> Self {
        Self { status, fields: Fields::from_pairs(&[]), framing: Framing::Empty, keep_alive: true, keep_for: None }
    }

    /// Whether its Content-Length is passed on although there is no body, as in a response to HEAD;
    /// but 204 has none (RFC 9110, 8.6).
    pub(crate) fn states_length(&self) -> bool {
        self.framing == Framing::Empty && self.status != StatusCode::NO_CONTENT
    }

    /// Whether its server wants the client to change to WebSocket.
    pub(crate) fn names_websocket(&self) -> bool {
        let upgrades = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"));
        upgrades.flat_map(|(_, value)| tokens(value)).any(|token| token.eq_ignore_ascii_case(b"websocket"))
    }
}

/// Changes to a response on its way to the client.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseEdits<'a> {
    /// A cookie that the client is given with it.
    pub(crate) set_cookie: Option<String>,
    /// Where it redirects to is put below a prefix.
    pub(crate) location: Option<LocationRewrite<'a>>,
    /// Whether the gateway says what pages of other origins may do, and the server does not.
    pub(crate) hides_cors: bool,
}

impl ResponseEdits<'_> {
    /// Whether the gateway writes a field in place of the server.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(REQUEST_ID.as_bytes()) || (self.hides_cors && is_cors_field(name))
    }
}

/// Whether a field says which pages of other origins may read an answer (Fetch, 3.2).
pub(crate) fn is_cors_field(name: &[u8]) -> bool {
    const PREFIX: &str = "access-control-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}
