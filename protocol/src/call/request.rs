//! Requests: calls as they are sent and received.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Text;
use crate::json::{Members, digits, is_object, plain_text, put_number, put_text};
use crate::{CallMeta, Key, Packet, Version, seal, split_attachment};

/// A received call, of either version.
#[derive(Debug)]
pub struct Request<'a> {
    /// Path of the resource.
    pub uri: Cow<'a, str>,
    /// Method in HTTP's words.
    pub method: Cow<'a, str>,
    /// The key of the response. `None` makes the call one-way, as text for `params` does in version
    /// 1.
    pub key: Option<Key>,
    /// The arguments, as JSON text. Version 1 services fail without them; for ours, no `params`
    /// means `null`.
    pub params: Option<&'a str>,
    /// Whether `params` is known to be one JSON value. If not, parsing it will tell: see
    /// [`Request::parse`].
    pub verified: bool,
    /// The form of response that the caller understands.
    pub version: Version,
    /// The metadata of the call, if its caller is of version 2.
    pub meta: CallMeta<'a>,
    /// The raw bytes that follow the packet: the body of a client's request.
    pub attachment: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Reads a call from a frame.
    ///
    /// A call in the form that [`write_request`] writes is split without a JSON parser, and its
    /// `params` are not checked. The code that parses `params` finds out whether they are JSON;
    /// code that does not parse them calls [`verify`](Self::verify). If they are, the frame is one
    /// JSON object with exactly these members.
    ///
    /// # Errors
    /// [`PacketError`](crate::PacketError) as for [`Packet::parse`].
    pub fn parse(frame: &'a [u8]) -> Result<Self, crate::PacketError> {
        let (frame, attachment) = split_attachment(frame);
        if attachment.is_some() {
            return Packet::parse(frame).map(|packet| Self { attachment, ..Self::from_packet(packet) });
        }
        if let Ok(text) = std::str::from_utf8(frame)
            && let Some(request) = Self::parse_fast(text)
        {
            return Ok(request);
        }
        Packet::parse(frame).map(Self::from_packet)
    }

    /// Checks that `params` are JSON.
    ///
    /// # Errors
    /// The error of the parser.
    pub fn verify(&mut self) -> Result<(), serde_json::Error> {
        if !self.verified {
            serde_json::from_str::<&RawValue>(self.params.unwrap_or("null"))?;
            self.verified = true;
        }
        Ok(())
    }

    fn parse_fast(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(r#"{"uri":""#)?;
        let (uri, rest) = plain_text(rest)?;
        let (method, rest) = plain_text(rest.strip_prefix(r#","method":""#)?)?;
        let (key, rest) = match rest.strip_prefix(r#","key":"#) {
            Some(rest) => digits(rest).map(|(key, rest)| (Some(Key::Number(key)), rest))?,
            None => (None, rest),
        };
        let (meta, rest) = CallMeta::parse_fast(rest.strip_prefix(r#","$":{"#)?)?;
        let params = rest.strip_prefix(r#","params":"#)?.strip_suffix('}')?;
        // As the parser gives it: without surrounding white space, and `None` for `null`.
        let params = Some(params.trim_matches([' ', '\t', '\r', '\n'])).filter(|params| *params != "null");
        let (uri, method) = (Cow::Borrowed(uri), Cow::Borrowed(method));
        Some(Self { uri, method, key, params, verified: false, version: Version::V2, meta, attachment: None })
    }

    /// Reads a call from its packet. The key stands at top level, or, in
    /// version 1, inside `params`.
    pub fn from_packet(packet: Packet<'a>) -> Self {
        #[derive(Deserialize)]
        struct RawKey {
            #[serde(default)]
            key: Option<Key>,
        }
        let version = packet.version();
        // Version 1 peers log by sending text under key 0 to a service that does not answer. An
        // answer would crash them.
        let is_text = packet.params.is_some_and(|params| params.get().starts_with('"'));
        let key = packet.key.filter(|_| version == Version::V2 || !is_text).or_else(|| {
            // In version 2 a `key` of the arguments is an argument.
            let params = packet.params.filter(|_| version == Version::V1).map(RawValue::get);
            let params = params.filter(|params| is_object(params))?;
            serde_json::from_str::<RawKey>(params).ok()?.key
        });
        Self {
            uri: packet.uri.map_or(Cow::Borrowed(""), |Text(uri)| uri),
            method: packet.method.map_or(Cow::Borrowed(""), |Text(method)| method),
            key,
            params: packet.params.map(RawValue::get),
            verified: true,
            version,
            meta: packet.meta.map(CallMeta::parse).unwrap_or_default(),
            attachment: None,
        }
    }
}

/// What is called: a method, such as `GET`, and a path, such as `/goods/7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallUrl<'a> {
    /// The method, in capital letters.
    pub method: &'a str,
    /// The path, with the values of its parameters.
    pub path: &'a str,
}

impl<'a> CallUrl<'a> {
    /// Names what is called. Neither text is checked.
    pub const fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path }
    }
}

/// Writes a call, ready to send; without a key it is one-way.
///
/// For version 1 the key stands at the top level and as the last member of `params`, where it
/// replaces a member of that name. `params` must be a JSON object then, and `meta` is not sent. For
/// version 2 `params` is sent as it is, as the last member, so that a receiver can split the packet
/// without a parser.
pub fn write_request(
    out: &mut BytesMut,
    to: Version,
    url: CallUrl<'_>,
    key: Option<u64>,
    params: &str,
    meta: &CallMeta<'_>,
) {
    let start = out.len();
    out.reserve(96 + url.path.len() + params.len());
    // Paths come from clients and may need escapes; methods are letters.
    out.put_slice(br#"{"uri":"#);
    put_text(out, url.path);
    out.put_slice(br#","method":""#);
    out.put_slice(url.method.as_bytes());
    out.put_u8(b'"');
    // Version 1 services answer every packet that has a key, and log those with text for `params`.
    if let Some(key) = key {
        out.put_slice(br#","key":"#);
        put_number(out, key);
    }
    match (to, key) {
        (Version::V1, Some(key)) => {
            out.put_slice(br#","params":"#);
            write_keyed_params(out, params, key);
        }
        (Version::V1, None) => {
            out.put_slice(br#","params":"#);
            out.put_slice(params.as_bytes());
        }
        (Version::V2, _) => {
            out.put_slice(br#","$":{"#);
            meta.write(out);
            out.put_slice(br#"},"params":"#);
            out.put_slice(params.as_bytes());
        }
    }
    out.put_u8(b'}');
    seal(out, start);
}

/// Writes that the caller does not wait for the response to `key` any more.
pub fn write_cancel(out: &mut BytesMut, key: u64) {
    out.put_slice(br#"{"uri":"$cancel","key":"#);
    put_number(out, key);
    out.put_slice(br#","$":{}}"#);
    let end = out.len();
    seal(out, end);
}

fn write_keyed_params(out: &mut BytesMut, params: &str, key: u64) {
    let kept;
    // The name of a member `key` has this text, or is written with escapes.
    let params = if params.contains("key\"") || params.contains("\\u") {
        kept = without_key(params);
        kept.as_str()
    } else {
        params.trim_ascii()
    };
    let body = params.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().trim_ascii();
    out.put_u8(b'{');
    out.put_slice(body.as_bytes());
    if !body.is_empty() {
        out.put_u8(b',');
    }
    out.put_slice(br#""key":"#);
    put_number(out, key);
    out.put_u8(b'}');
}

/// The text of an object without its member `key`.
fn without_key(params: &str) -> String {
    let Members(members) = serde_json::from_str(params).unwrap_or(Members(Vec::new()));
    let kept = members.iter().filter(|(name, _)| name != "key");
    // Names are written anew, values as they came.
    let kept = kept.map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_ref()), value.get()));
    format!("{{{}}}", kept.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::JsonText;

    #[track_caller]
    fn check(to: Version, params: &str, expected: &str) {
        let mut out = BytesMut::new();
        let meta = CallMeta { time_left: Some(Duration::from_millis(5000)), ..CallMeta::default() };
        write_request(&mut out, to, CallUrl::new("GET", "/goods"), Some(7), params, &meta);
        assert_eq!(String::from_utf8_lossy(&out), format!("{expected}¶"));
    }

    #[test]
    fn calls_to_old_services_carry_the_key_twice() {
        let check = |params, expected: &str| {
            check(Version::V1, params, &format!(r#"{{"uri":"/goods","method":"GET","key":7,"params":{expected}}}"#));
        };
        check("{}", r#"{"key":7}"#);
        check(r#" { "a" : 1 } "#, r#"{"a" : 1,"key":7}"#);
        check(r#"{"key":"mine","a":"¶"}"#, r#"{"a":"\u00b6","key":7}"#);
        check(r#"{"a":{"key":1},"\u006bey":2}"#, r#"{"a":{"key":1},"key":7}"#);
        check("null", r#"{"key":7}"#);
    }

    #[test]
    fn calls_between_version_2_nodes_leave_params_alone() {
        check(
            Version::V2,
            r#"{"key":"mine"}"#,
            r#"{"uri":"/goods","method":"GET","key":7,"$":{"d":5000},"params":{"key":"mine"}}"#,
        );
    }

    #[test]
    fn our_format_is_split_and_others_are_parsed() {
        let all = CallMeta {
            time_left: Some(Duration::from_millis(5)),
            sent: Some(Duration::from_millis(123_456)),
            trace: Some("00-1-2-01".into()),
            from: Some("상품".into()),
            idempotent: true,
            attempt: 2,
            credit: Some(262_144),
            hops: 3,
            body_follows: true,
            request: Some(JsonText(r#"{"a":"::1","t":"/\"}{\u00b6","h":[["cookie","a=1"]]}"#)),
            event: Some("e-1".into()),
            event_key: Some("주문-7".into()),
        };
        let only = |meta: fn(&mut CallMeta<'static>)| {
            let mut some = CallMeta::default();
            meta(&mut some);
            some
        };
        for meta in [
            CallMeta::default(),
            only(|meta| meta.idempotent = true),
            only(|meta| meta.attempt = 255),
            only(|meta| meta.hops = 255),
            only(|meta| meta.credit = Some(0)),
            only(|meta| meta.body_follows = true),
            only(|meta| meta.request = Some(JsonText("{}"))),
            only(|meta| meta.from = Some("a \"quoted\" name".into())),
            only(|meta| meta.event = Some("1".into())),
            only(|meta| meta.event_key = Some("".into())),
            all,
        ] {
            for (uri, key) in [("/goods/7", Some(7)), ("/상품", None), ("/a\"b\\", Some(0))] {
                let mut out = BytesMut::new();
                write_request(&mut out, Version::V2, CallUrl::new("GET", uri), key, r#"{"$":{"d":9}}"#, &meta);
                let frame = &out[..out.len() - 2];
                let plain = !(uri.contains('"') || meta.from.as_ref().is_some_and(|from| from.contains('"')));
                let cut = Request::parse_fast(std::str::from_utf8(frame).unwrap());
                assert_eq!(cut.is_some(), plain, "{out:?}");
                let parsed = Request::from_packet(Packet::parse(frame).unwrap());
                for request in cut.into_iter().chain([Request::parse(frame).unwrap(), parsed]) {
                    let seen = (&*request.uri, &*request.method, request.key, request.params, &request.meta);
                    assert_eq!(seen, (uri, "GET", key.map(Key::Number), Some(r#"{"$":{"d":9}}"#), &meta));
                }
            }
        }
    }

    #[test]
    fn lookalikes_of_our_format_are_parsed() {
        for (frame, valid) in [
            (r#"{"uri":"/g","method":"GET","key":7,"$":{},"params":{}}"#, true),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{},"params":1,"key":8}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{},"params":}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{},"params":{}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{,"d":1},"params":{}}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"d":1,},"params":{}}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"d":01},"params":{}}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"q":{},"d":1},"params":{}}"#, true),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"q":null},"params":{}}"#, true),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"q":{"a":}},"params":{}}"#, false),
            (r#"{"uri":"/g","method":"GET","key":7,"$":{"q":{"a":"}},"params":{}}"#, false),
            (r#"{"uri":"/g","method":"GET","key":07,"$":{},"params":{}}"#, false),
        ] {
            let read = Request::parse(frame.as_bytes()).map_err(drop).and_then(|mut request| {
                assert_eq!((&*request.uri, &request.key), ("/g", &Some(Key::Number(7))));
                request.verify().map_err(drop)
            });
            assert_eq!(read.is_ok(), valid, "{frame}");
        }
    }

    #[test]
    fn time_left_is_rounded_up() {
        for (nanoseconds, milliseconds) in [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)] {
            let meta = CallMeta { time_left: Some(Duration::from_nanos(nanoseconds)), ..CallMeta::default() };
            let mut out = BytesMut::new();
            write_request(&mut out, Version::V2, CallUrl::new("GET", "/g"), None, "1", &meta);
            let read = Request::parse(&out[..out.len() - 2]).unwrap().meta.time_left;
            assert_eq!(read, Some(Duration::from_millis(milliseconds)));
        }
    }

    #[test]
    fn js15_a_key_is_found_where_the_version_has_it() {
        for (frame, key, version) in [
            (r#"{"uri":"/g","method":"GET","params":{"key":0}}"#, Some(Key::Number(0)), Version::V1),
            (
                r#"{"uri":"/g","method":"GET","key":"a","params":{"key":0}}"#,
                Some(Key::Text("\"a\"".into())),
                Version::V1,
            ),
            (r#"{"uri":"/g","method":"GET","key":3,"params":null,"$":{"d":1}}"#, Some(Key::Number(3)), Version::V2),
            (r#"{"uri":"/g","method":"EVENT","params":{"key":0},"$":{}}"#, None, Version::V2),
            (r#"{"uri":"/logs","method":"POST","key":0,"params":"text"}"#, None, Version::V1),
            (r#"{"uri":"/logs","method":"POST","key":0,"params":"text","$":{}}"#, Some(Key::Number(0)), Version::V2),
            (r#"{"uri":"/logs","method":"POST","params":{"key":[]}}"#, None, Version::V1),
        ] {
            let request = Request::from_packet(Packet::parse(frame.as_bytes()).unwrap());
            assert_eq!((request.key, request.version), (key, version), "{frame}");
        }
    }
}
