//! Fields that belong to one connection and are not passed on (RFC 9110, 7.6.1). Pure.

use std::borrow::Cow;

use crate::message::fields::{Fields, tokens};
use crate::message::forwarded::is_rebuilt;

/// The fields of a message that are about its own connection.
pub(crate) struct HopByHop<'a> {
    /// The values of `Connection`: further fields that belong to the connection.
    named: Vec<&'a [u8]>,
}

impl<'a> HopByHop<'a> {
    pub(crate) fn new(fields: &'a Fields) -> Self {
        let connection = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
        let named = connection.flat_map(|(_, value)| tokens(value));
        // A client cannot have the host removed in this way.
        let usual = |token: &&[u8]| {
            [&b"close"[..], b"keep-alive", b"upgrade", b"host"].iter().any(|one| token.eq_ignore_ascii_case(one))
        };
        Self { named: named.filter(|token| !usual(token)).collect() }
    }

    pub(crate) fn owns(&self, name: &[u8]) -> bool {
        belongs_to_connection(name) || self.named.iter().any(|token| token.eq_ignore_ascii_case(name))
    }
}

/// Whether a field is meaningless after a body, or means too much there. `_` counts as a hyphen, as
/// it does for some servers.
pub(crate) fn late_trailer(name: &[u8]) -> bool {
    let name = &*with_hyphens(name);
    let routes = ["host", "authorization", "set-cookie", "cookie", "content-type", "content-encoding", "location"];
    let is_late = routes.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    is_late || belongs_to_connection(name) || is_rebuilt(name)
}

/// Whether a server may take a field with `_` for one that it is told by the gateway alone.
pub(crate) fn imitates(name: &[u8]) -> bool {
    let name = &*with_hyphens(name);
    let own = ["host", "x-request-id"];
    belongs_to_connection(name) || is_rebuilt(name) || own.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
}

/// A name as servers read it that treat `_` as a hyphen.
fn with_hyphens(name: &[u8]) -> Cow<'_, [u8]> {
    if name.contains(&b'_') {
        name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect()
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether a field belongs to one connection, or says where a message ends. Such fields are written
/// again.
pub(crate) fn belongs_to_connection(name: &[u8]) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}
