//! What a node states of a route whose sockets gateways hold.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How gateways hold the sockets of a route: `{"resume":30,"drop":true}`. A member of a wrong type
/// makes the whole of it absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketAdvert {
    /// How many seconds a session is kept after its socket was cut, so that the client can resume
    /// it. 0: not at all. Otherwise messages are in an envelope with a number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resume: u32,
    /// Whether a client that reads too slowly loses its oldest messages. Otherwise its socket is
    /// closed.
    #[serde(default, rename = "drop", skip_serializing_if = "is_false")]
    pub drops_oldest: bool,
}

impl SocketAdvert {
    /// The longest time for which a session is kept: what was missed in an hour is better read from
    /// the service.
    pub const MAX_RESUME_SECONDS: u32 = 3600;

    /// Reads the member `socket`; `None` if it is something else.
    pub(super) fn parse(text: &RawValue) -> Option<Self> {
        let read: Self = serde_json::from_str(text.get()).ok().filter(|_| text.get().starts_with('{'))?;
        Some(Self { resume: read.resume.min(Self::MAX_RESUME_SECONDS), ..read })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(is: &bool) -> bool {
    !*is
}
