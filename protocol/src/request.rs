//! Calls, as they go out and as they come in.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::{Members, is_object};
use crate::packet::Text;
use crate::{Key, Packet, Version, seal};

/// A call that came in, whatever version its sender speaks.
#[derive(Debug)]
pub struct Request<'a> {
    /// Path of what is called.
    pub uri: Cow<'a, str>,
    /// Method in HTTP's words.
    pub method: Cow<'a, str>,
    /// What the answer must carry; `None` makes it one-way, as does text for `params` in version 1.
    pub key: Option<Key>,
    /// The arguments; old services die without them, ours read a missing one as `null`.
    pub params: Option<&'a RawValue>,
    /// The form of answer the caller understands.
    pub version: Version,
    /// How long the caller still waits, if it says so.
    pub time_left: Option<Duration>,
}

impl<'a> Request<'a> {
    /// Reads a call from its packet. The key may stand at top level or inside `params`.
    pub fn from_packet(packet: Packet<'a>) -> Self {
        #[derive(Deserialize)]
        struct Meta {
            #[serde(default)]
            d: Option<u64>,
        }
        #[derive(Deserialize)]
        struct Keyed {
            #[serde(default)]
            key: Option<Key>,
        }
        let version = packet.version();
        // Old peers log by sending text, under a key of 0, to a service that stays silent; an answer would kill them.
        let is_text = packet.params.is_some_and(|params| params.get().starts_with('"'));
        let key = packet.key.filter(|_| version == Version::V2 || !is_text).or_else(|| {
            let params = packet.params.map(RawValue::get).filter(|params| is_object(params))?;
            serde_json::from_str::<Keyed>(params).ok()?.key
        });
        let meta = packet.meta.and_then(|meta| serde_json::from_str::<Meta>(meta.get()).ok());
        Self {
            uri: packet.uri.map_or(Cow::Borrowed(""), |Text(uri)| uri),
            method: packet.method.map_or(Cow::Borrowed(""), |Text(method)| method),
            key,
            params: packet.params,
            version,
            time_left: meta.and_then(|meta| meta.d).map(Duration::from_millis),
        }
    }
}

/// Writes a call, ready to send.
///
/// Towards version 1 the key stands at top level and, as the last member, inside `params`, where it replaces a member
/// of that name; `params` must be a JSON object then. Towards version 2 `params` goes out as it is, and `time_left` is told.
pub fn write_request(
    out: &mut BytesMut,
    to: Version,
    (method, uri): (&str, &str),
    key: u64,
    params: &str,
    time_left: Duration,
) {
    let start = out.len();
    // Paths come from the outside and may need escapes; methods are letters.
    let uri = serde_json::Value::from(uri);
    let mut head = String::with_capacity(64);
    // Writing to a String cannot fail.
    let _ = write!(head, r#"{{"uri":{uri},"method":"{method}","key":{key},"params":"#);
    out.put_slice(head.as_bytes());
    match to {
        Version::V1 => {
            write_keyed_params(out, params, key);
            out.put_u8(b'}');
        }
        Version::V2 => {
            out.put_slice(params.as_bytes());
            let milliseconds = time_left.as_millis();
            out.put_slice(format!(r#","$":{{"d":{milliseconds}}}}}"#).as_bytes());
        }
    }
    seal(out, start);
}

fn write_keyed_params(out: &mut BytesMut, params: &str, key: u64) {
    let kept;
    // A member called `key` shows as that text unless it is spelled with escapes.
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
    out.put_slice(format!(r#""key":{key}}}"#).as_bytes());
}

/// An object's text without its member `key`.
fn without_key(params: &str) -> String {
    let Members(members) = serde_json::from_str(params).unwrap_or(Members(Vec::new()));
    let kept = members.iter().filter(|(name, _)| name != "key");
    // Names are written as text, values as they came.
    let kept = kept.map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_ref()), value.get()));
    format!("{{{}}}", kept.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(to: Version, params: &str, expected: &str) {
        let mut out = BytesMut::new();
        write_request(&mut out, to, ("GET", "/goods"), 7, params, Duration::from_millis(5000));
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
            r#"{"uri":"/goods","method":"GET","key":7,"params":{"key":"mine"},"$":{"d":5000}}"#,
        );
    }

    #[test]
    fn a_key_is_found_in_both_places() {
        for (frame, key, version) in [
            (r#"{"uri":"/g","method":"GET","params":{"key":0}}"#, Some(Key::Number(0)), Version::V1),
            (
                r#"{"uri":"/g","method":"GET","key":"a","params":{"key":0}}"#,
                Some(Key::Text("\"a\"".into())),
                Version::V1,
            ),
            (r#"{"uri":"/g","method":"GET","key":3,"params":null,"$":{"d":1}}"#, Some(Key::Number(3)), Version::V2),
            (r#"{"uri":"/logs","method":"POST","key":0,"params":"text"}"#, None, Version::V1),
            (r#"{"uri":"/logs","method":"POST","key":0,"params":"text","$":{}}"#, Some(Key::Number(0)), Version::V2),
            (r#"{"uri":"/logs","method":"POST","params":{"key":[]}}"#, None, Version::V1),
        ] {
            let request = Request::from_packet(Packet::parse(frame.as_bytes()).unwrap());
            assert_eq!((request.key, request.version), (key, version), "{frame}");
        }
    }
}
