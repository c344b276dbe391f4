//! Messages as clients see them: plain, or in an envelope if the session can be resumed; as text of
//! a WebSocket, or as events.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

/// What a client has sent in an envelope: `{"m":VALUE}`, or `{"ack":7}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    /// A message for the service, as JSON.
    Message(String),
    /// The client has all messages up to this number.
    Acknowledgement(u64),
}

/// Reads what a client has sent in an envelope.
///
/// # Errors
/// What is wrong with it, for the client.
pub(crate) fn open_envelope(text: &str) -> Result<ClientMessage, String> {
    #[derive(serde::Deserialize)]
    struct RawEnvelope<'a> {
        #[serde(borrow, default)]
        m: Option<&'a RawValue>,
        #[serde(default)]
        ack: Option<u64>,
    }
    let read: RawEnvelope<'_> =
        serde_json::from_str(text).map_err(|error| format!(r#"send {{"m":…}} or {{"ack":7}}: {error}"#))?;
    match (read.m, read.ack) {
        (Some(message), _) => Ok(ClientMessage::Message(message.get().to_owned())),
        (None, Some(number)) => Ok(ClientMessage::Acknowledgement(number)),
        (None, None) => Err(r#"send {"m":…} or {"ack":7}"#.to_owned()),
    }
}

/// The first message to a client whose session can be resumed.
pub(crate) fn greeting(token: &str, resumed: bool, missed: bool) -> String {
    let missed = if missed { r#","missed":true"# } else { "" };
    format!(r#"{{"session":"{token}","resumed":{resumed}{missed}}}"#)
}

/// A message in its envelope: `{"n":7,"m":VALUE}`.
pub(crate) fn enclosed(number: u64, message: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 32);
    out.put_slice(br#"{"n":"#);
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
    out.put_slice(br#","m":"#);
    out.put_slice(message);
    out.put_u8(b'}');
    out.freeze()
}

/// An event (HTML, 9.2) of this name and id, if it has them. A line break of JSON can only stand
/// between its tokens.
pub(crate) fn event(name: Option<&str>, id: Option<(&str, u64)>, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 128);
    if let Some(name) = name {
        out.put_slice(b"event: ");
        out.put_slice(name.as_bytes());
        out.put_u8(b'\n');
    }
    if let Some((token, number)) = id {
        out.put_slice(b"id: ");
        out.put_slice(token.as_bytes());
        out.put_u8(b'/');
        out.put_slice(itoa::Buffer::new().format(number).as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"data: ");
    data.split(|byte| matches!(byte, b'\r' | b'\n')).for_each(|line| out.put_slice(line));
    out.put_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_send_messages_or_acknowledgements() {
        let check =
            |text: &str, expected: Option<ClientMessage>| assert_eq!(open_envelope(text).ok(), expected, "{text}");
        let message = |text: &str| Some(ClientMessage::Message(text.to_owned()));
        check(r#"{"m":{"a":[1, 2]}}"#, message(r#"{"a":[1, 2]}"#));
        check(r#"{"m":1,"ack":2,"later":3}"#, message("1"));
        check(r#"{"ack":7}"#, Some(ClientMessage::Acknowledgement(7)));
        for wrong in ["{}", "7", "", r#"{"ack":-1}"#, r#"{"m":}"#] {
            check(wrong, None);
        }
    }

    #[test]
    fn messages_are_enclosed_or_become_events() {
        assert_eq!(enclosed(7, &Bytes::from_static(b"[1]")), &br#"{"n":7,"m":[1]}"#[..]);
        assert_eq!(event(None, None, b"[1,\r\n2]"), &b"data: [1,2]\n\n"[..]);
        let named = event(Some("session"), Some(("a.b", 7)), b"{}");
        assert_eq!(named, &b"event: session\nid: a.b/7\ndata: {}\n\n"[..]);
        assert_eq!(greeting("a.b", true, false), r#"{"session":"a.b","resumed":true}"#);
        assert_eq!(greeting("a.b", true, true), r#"{"session":"a.b","resumed":true,"missed":true}"#);
    }
}
