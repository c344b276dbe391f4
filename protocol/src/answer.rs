//! Answers to calls, in the form of either version.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::packet::Text;
use crate::{Key, Packet, Version, seal};

/// An answer that came in.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The version its sender showed.
    pub version: Version,
    /// In HTTP's numbers; 200 when the sender did not say.
    pub status: u16,
    /// A stable word for what went wrong, in version 2.
    pub reason: Option<Cow<'a, str>>,
    /// A text for a person.
    pub message: Option<Cow<'a, str>>,
    /// The data, where there is some.
    pub body: Option<&'a RawValue>,
    /// When it is worth trying again, if the sender says so.
    pub retry_after: Option<Duration>,
}

impl<'a> Answer<'a> {
    /// The status that stands for the error of a version 1 service: its codes have no common meaning.
    const OLD_ERROR: u16 = 500;

    /// Reads an answer from its packet.
    pub fn from_packet(packet: &Packet<'a>) -> Self {
        #[derive(Deserialize)]
        struct Meta<'a> {
            #[serde(borrow, default)]
            s: Option<&'a RawValue>,
            #[serde(borrow, default)]
            r: Option<&'a RawValue>,
            #[serde(borrow, default)]
            m: Option<&'a RawValue>,
            #[serde(borrow, default)]
            ra: Option<&'a RawValue>,
        }
        /// A member of a wrong type counts as absent and spoils no other.
        fn text(member: Option<&RawValue>) -> Option<Cow<'_, str>> {
            serde_json::from_str(member?.get()).ok().map(|Text(text)| text)
        }
        match packet.meta {
            Some(meta) => {
                let meta: Option<Meta<'a>> = serde_json::from_str(meta.get()).ok();
                let (s, r, m, ra) = meta.map_or((None, None, None, None), |meta| (meta.s, meta.r, meta.m, meta.ra));
                Self {
                    version: Version::V2,
                    // A status that nobody can read is no success.
                    status: s.map_or(200, |s| serde_json::from_str(s.get()).unwrap_or(502)),
                    reason: text(r),
                    message: text(m),
                    body: packet.params,
                    retry_after: ra.and_then(|ra| serde_json::from_str(ra.get()).ok()).map(Duration::from_millis),
                }
            }
            None => {
                let failed = packet.errorcode.is_some_and(|code| !matches!(code.get(), "0" | "\"0\"" | "null"));
                let message = packet.errormessage.map(RawValue::get);
                Self {
                    version: Version::V1,
                    status: if failed { Self::OLD_ERROR } else { 200 },
                    reason: None,
                    message: message
                        .map(|text| serde_json::from_str::<Text<'_>>(text).map_or_else(|_| text.into(), |text| text.0)),
                    body: packet.results,
                    retry_after: None,
                }
            }
        }
    }
}

/// What a handler gave.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// JSON text of the result.
    Success(&'a str),
    /// Status in HTTP's numbers, a stable word, and a text for a person.
    Failure {
        /// In HTTP's numbers, 400 and up.
        status: u16,
        /// A stable word in snake_case.
        reason: &'a str,
        /// For a person.
        message: &'a str,
    },
}

/// Writes the answer to a call, ready to send, in the form that the caller's version knows.
pub fn write_answer(out: &mut BytesMut, to: Version, key: &Key, reply: Reply<'_>) {
    let start = out.len();
    match key {
        Key::Number(number) => out.put_slice(format!(r#"{{"key":{number}"#).as_bytes()),
        Key::Text(text) => {
            out.put_slice(br#"{"key":"#);
            out.put_slice(text.as_bytes());
        }
    }
    match (to, reply) {
        (Version::V1, Reply::Success(results)) => {
            out.put_slice(br#","errorcode":0,"errormessage":"success","results":"#);
            out.put_slice(results.as_bytes());
            out.put_u8(b'}');
        }
        (Version::V1, Reply::Failure { status, message, reason: _ }) => {
            let message = serde_json::Value::from(message);
            out.put_slice(format!(r#","errorcode":{status},"errormessage":{message}}}"#).as_bytes());
        }
        (Version::V2, Reply::Success(result)) => {
            out.put_slice(br#","params":"#);
            out.put_slice(result.as_bytes());
            out.put_slice(br#","$":{}}"#);
        }
        (Version::V2, Reply::Failure { status, reason, message }) => {
            let (reason, message) = (serde_json::Value::from(reason), serde_json::Value::from(message));
            out.put_slice(format!(r#","$":{{"s":{status},"r":{reason},"m":{message}}}}}"#).as_bytes());
        }
    }
    seal(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Reply<'_> = Reply::Failure { status: 404, reason: "no_member", message: "no such \"member\"" };

    #[track_caller]
    fn check(to: Version, key: &Key, reply: Reply<'_>, expected: &str) {
        let mut out = BytesMut::new();
        write_answer(&mut out, to, key, reply);
        assert_eq!(String::from_utf8_lossy(&out), format!("{expected}¶"));
    }

    #[test]
    fn answers_of_both_versions() {
        let text = Key::Text("\"a\"".into());
        check(
            Version::V1,
            &Key::Number(7),
            Reply::Success("[1]"),
            r#"{"key":7,"errorcode":0,"errormessage":"success","results":[1]}"#,
        );
        check(Version::V1, &text, REFUSED, r#"{"key":"a","errorcode":404,"errormessage":"no such \"member\""}"#);
        check(Version::V2, &text, Reply::Success("{}"), r#"{"key":"a","params":{},"$":{}}"#);
        check(
            Version::V2,
            &Key::Number(7),
            REFUSED,
            r#"{"key":7,"$":{"s":404,"r":"no_member","m":"no such \"member\""}}"#,
        );
    }

    #[test]
    fn answers_read_back() {
        for (frame, status, message, body) in [
            (r#"{"key":1,"errorcode":1,"errormessage":"no data"}"#, 500, Some("no data"), None),
            (r#"{"key":4,"errorcode":0,"errormessage":"success","results":[1]}"#, 200, Some("success"), Some("[1]")),
            (r#"{"key":4,"userid":3}"#, 200, None, None),
            (r#"{"key":4,"errorcode":{"a":1},"errormessage":{}}"#, 500, Some("{}"), None),
            (r#"{"key":4,"params":[1],"$":{}}"#, 200, None, Some("[1]")),
            (r#"{"key":4,"$":{"s":404,"r":"no","m":"none"}}"#, 404, Some("none"), None),
            (r#"{"key":4,"params":1,"$":7}"#, 200, None, Some("1")),
            (r#"{"key":4,"$":{"s":503,"r":7,"m":"full"}}"#, 503, Some("full"), None),
            (r#"{"key":4,"$":{"s":"404"}}"#, 502, None, None),
        ] {
            let packet = Packet::parse(frame.as_bytes()).unwrap();
            let answer = Answer::from_packet(&packet);
            let seen = (answer.status, answer.message.as_deref(), answer.body.map(RawValue::get));
            assert_eq!(seen, (status, message, body), "{frame}");
        }
    }
}
