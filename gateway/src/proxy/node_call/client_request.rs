//! The request of a client, as nodes see it whose route asks for it. Pure.

use std::borrow::Cow;
use std::fmt;

use node_sdk::gateway::{ClientHead, ClientRequest, WantedHeaders};
use protocol::SocketCall;

use crate::proxy::RequestContext;

/// The request of a client, for calls of nodes.
pub(in crate::proxy) struct CallClient<'a> {
    pub(in crate::proxy) context: &'a RequestContext<'a>,
    /// The held socket that the request asks for, if it does.
    pub(in crate::proxy) socket: Option<SocketCall<'a>>,
}

impl ClientHead for CallClient<'_> {
    fn request(&self, wanted: &WantedHeaders) -> ClientRequest<'_> {
        let RequestContext { head, origin, client, id, .. } = self.context;
        let fields = head.fields().iter().filter(|(name, _)| wanted.contains(name));
        ClientRequest {
            address: client.to_string().into(),
            host: origin.host.as_deref().or_else(|| head.host()).unwrap_or_default().into(),
            is_https: origin.is_tls(),
            id: (*id).into(),
            method: head.method().into(),
            target: head.target().into(),
            headers: fields.map(|(name, value)| (small(name), text(value))).collect(),
            socket: self.socket.clone(),
        }
    }
}

impl fmt::Debug for CallClient<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallClient").field(&self.context.client).finish()
    }
}

/// A name in small letters.
fn small(name: &[u8]) -> Cow<'_, str> {
    let name = text(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name }
}

/// A value as text: as UTF-8 if it is that, and otherwise as Latin-1, as it once was (RFC 9110,
/// 5.5).
fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => value.iter().copied().map(char::from).collect::<String>().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_text() {
        for (value, expected) in
            [(&b"a=1"[..], "a=1"), ("상¶".as_bytes(), "상¶"), (b"caf\xe9", "café"), (b"\xff\xc2\xb6", "ÿÂ¶"), (b"", "")]
        {
            assert_eq!(text(value), expected);
        }
        assert_eq!((small(b"X-A"), small(b"x-a")), ("x-a".into(), "x-a".into()));
    }
}
