//! Responses to calls, in the form of either version.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::legacy_response::{failure, is_failure};
use crate::json::Text;
use crate::json::{number_prefix, put_number, put_text, value_prefix};
use crate::{Key, Packet, ResponseHeaders, Version, seal};

/// A received response.
#[derive(Debug)]
pub struct Response<'a> {
    /// The version that its form shows.
    pub version: Version,
    /// An HTTP status; 200 when the sender does not state one.
    pub status: u16,
    /// A stable word for the failure; in version 1 it is made of the code.
    pub reason: Option<Cow<'a, str>>,
    /// A text for people.
    pub message: Option<Cow<'a, str>>,
    /// The data, if there is any. [`LegacyResponse`](crate::LegacyResponse) has all data of a
    /// version 1 response that has more than `results`.
    pub body: Option<&'a RawValue>,
    /// When to try again, if the sender says so.
    pub retry_after: Option<Duration>,
    /// The header fields of an HTTP response, as JSON: [`read_pairs`](crate::read_pairs) reads
    /// them.
    pub headers: Option<&'a RawValue>,
}

impl<'a> Response<'a> {
    /// Reads a response from its packet.
    pub fn from_packet(packet: &Packet<'a>) -> Self {
        #[derive(Deserialize)]
        struct RawResponseMeta<'a> {
            #[serde(borrow, default)]
            s: Option<&'a RawValue>,
            #[serde(borrow, default)]
            r: Option<&'a RawValue>,
            #[serde(borrow, default)]
            m: Option<&'a RawValue>,
            #[serde(borrow, default)]
            ra: Option<&'a RawValue>,
            #[serde(borrow, default)]
            h: Option<&'a RawValue>,
        }
        /// A member of a wrong type counts as absent, and the others remain.
        fn text(member: Option<&RawValue>) -> Option<Cow<'_, str>> {
            serde_json::from_str(member?.get()).ok().map(|Text(text)| text)
        }
        match packet.meta {
            Some(meta) => {
                let meta: Option<RawResponseMeta<'a>> = serde_json::from_str(meta.get()).ok();
                let [s, r, m, ra, h] = meta.map_or([None; 5], |meta| [meta.s, meta.r, meta.m, meta.ra, meta.h]);
                Self {
                    version: Version::V2,
                    // A status that cannot be read does not count as success.
                    status: s.map_or(200, |s| serde_json::from_str(s.get()).unwrap_or(502)),
                    reason: text(r),
                    message: text(m),
                    body: packet.params,
                    retry_after: ra.and_then(|ra| serde_json::from_str(ra.get()).ok()).map(Duration::from_millis),
                    headers: h,
                }
            }
            None => {
                let code = [packet.errorcode, packet.error_code].into_iter().find(|code| is_failure(*code)).flatten();
                let (status, reason) = code.map(|code| failure(code.get())).unzip();
                let message = packet.errormessage.or(packet.error_message).map(RawValue::get);
                Self {
                    version: Version::V1,
                    status: status.unwrap_or(200),
                    reason,
                    message: message
                        .map(|text| serde_json::from_str::<Text<'_>>(text).map_or_else(|_| text.into(), |text| text.0)),
                    body: packet.results,
                    retry_after: None,
                    headers: None,
                }
            }
        }
    }
}

/// Splits a successful response in the form that [`ResponseWriter`] writes into its key and its
/// data, without a JSON parser. If the data is one JSON value, the frame is a successful version 2
/// response. `None` for all other frames: parse them.
pub fn success_parts(frame: &[u8]) -> Option<(u64, &[u8])> {
    let (key, rest) = number_prefix(frame.strip_prefix(br#"{"key":"#)?)?;
    let body = rest.strip_prefix(SUCCESS.as_bytes())?.strip_suffix(b"}")?;
    Some((key, body))
}

/// The parts of a version 2 response with a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseParts<'a> {
    /// The key of the call.
    pub key: u64,
    /// The HTTP status.
    pub status: u16,
    /// The header fields, as JSON: [`read_pairs`](crate::read_pairs) reads them.
    pub headers: Option<&'a str>,
    /// The data, as JSON if it is one JSON value.
    pub body: &'a [u8],
}

/// Splits a response with a result, and with a status, header fields or both, in the form that
/// [`ResponseWriter`] writes, as [`success_parts`] does. `None` for all other frames.
pub fn response_parts(frame: &[u8]) -> Option<ResponseParts<'_>> {
    let (key, rest) = number_prefix(frame.strip_prefix(br#"{"key":"#)?)?;
    let rest = rest.strip_prefix(br#","$":{"#)?;
    let (status, name, rest) = match rest.strip_prefix(br#""s":"#) {
        Some(rest) => {
            let (status, rest) = number_prefix(rest)?;
            (u16::try_from(status).ok()?, &br#","h":"#[..], rest)
        }
        None => (200, &br#""h":"#[..], rest),
    };
    let (headers, rest) = match rest.strip_prefix(name) {
        Some(list) if list.starts_with(b"[") => value_prefix(list).map(|(headers, rest)| (Some(headers), rest))?,
        Some(_) => return None,
        None => (None, rest),
    };
    let body = rest.strip_prefix(br#"},"params":"#)?.strip_suffix(b"}")?;
    Some(ResponseParts { key, status, headers, body })
}

/// The text between the key and the data of a successful version 2 response.
const SUCCESS: &str = r#","$":{},"params":"#;

/// The result of a handler.
#[derive(Clone, Copy, Debug)]
pub enum ResponsePayload<'a> {
    /// The HTTP status, usually 200, and the JSON text of the result.
    Success(u16, &'a str),
    /// Why there is no result.
    Failure {
        /// The HTTP status, 400 or higher.
        status: u16,
        /// A stable word in snake_case.
        reason: &'a str,
        /// A text for people.
        message: &'a str,
        /// When to try again.
        retry_after: Option<Duration>,
        /// The header fields of the HTTP response.
        headers: &'a ResponseHeaders,
    },
}

/// Writes one response whose result is made in place: begin, append JSON text to the buffer, and
/// end. If the result cannot be made, truncate the buffer to its earlier length and write a failure
/// instead.
#[derive(Debug)]
pub struct ResponseWriter {
    start: usize,
}

impl ResponseWriter {
    /// Writes the part before the result. Version 1 has no status of success.
    pub fn begin(out: &mut BytesMut, to: Version, key: &Key, status: u16) -> Self {
        let start = out.len();
        put_key(out, key);
        match (to, status) {
            (Version::V1, _) => out.put_slice(br#","errorcode":0,"errormessage":"success","results":"#),
            (Version::V2, 200) => out.put_slice(SUCCESS.as_bytes()),
            (Version::V2, _) => {
                out.put_slice(br#","$":{"s":"#);
                put_number(out, status.into());
                out.put_slice(br#"},"params":"#);
            }
        }
        Self { start }
    }

    /// As [`begin`](Self::begin), for a version 2 caller that has asked for an HTTP response.
    pub fn begin_http(out: &mut BytesMut, key: &Key, status: u16, headers: &ResponseHeaders) -> Self {
        if headers.is_empty() {
            return Self::begin(out, Version::V2, key, status);
        }
        let start = out.len();
        put_key(out, key);
        out.put_slice(br#","$":{"#);
        if status != 200 {
            out.put_slice(br#""s":"#);
            put_number(out, status.into());
        }
        headers.put_member(out, if status == 200 { "" } else { "," });
        out.put_slice(br#"},"params":"#);
        Self { start }
    }

    /// Ends the packet, ready to send. Returns its length.
    pub fn end(self, out: &mut BytesMut) -> usize {
        out.put_u8(b'}');
        seal(out, self.start);
        out.len() - self.start
    }
}

/// Writes the response to a call, ready to send, in the form of the caller's version.
pub fn write_response(out: &mut BytesMut, to: Version, key: &Key, reply: ResponsePayload<'_>) {
    match (to, reply) {
        (_, ResponsePayload::Success(status, result)) => {
            let writer = ResponseWriter::begin(out, to, key, status);
            out.put_slice(result.as_bytes());
            writer.end(out);
        }
        (Version::V1, ResponsePayload::Failure { status, message, reason: _, retry_after: _, headers: _ }) => {
            let start = out.len();
            put_key(out, key);
            out.put_slice(br#","errorcode":"#);
            put_number(out, status.into());
            out.put_slice(br#","errormessage":"#);
            put_text(out, message);
            out.put_u8(b'}');
            seal(out, start);
        }
        (Version::V2, ResponsePayload::Failure { status, reason, message, retry_after, headers }) => {
            let start = out.len();
            put_key(out, key);
            out.put_slice(br#","$":{"s":"#);
            put_number(out, status.into());
            out.put_slice(br#","r":"#);
            put_text(out, reason);
            out.put_slice(br#","m":"#);
            put_text(out, message);
            if let Some(after) = retry_after {
                out.put_slice(br#","ra":"#);
                // Rounded up: a caller that comes earlier comes too early.
                put_number(out, u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
            }
            headers.put_member(out, ",");
            out.put_slice(b"}}");
            seal(out, start);
        }
    }
}

fn put_key(out: &mut BytesMut, key: &Key) {
    out.put_slice(br#"{"key":"#);
    match key {
        Key::Number(number) => put_number(out, *number),
        Key::Text(text) => out.put_slice(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_FIELDS: ResponseHeaders = ResponseHeaders::NONE;
    const REFUSED: ResponsePayload<'_> = refused(&NO_FIELDS);

    const fn refused(headers: &ResponseHeaders) -> ResponsePayload<'_> {
        let retry_after = Some(Duration::from_millis(1500));
        let message = "no such \"member\"";
        ResponsePayload::Failure { status: 404, reason: "no_member", message, retry_after, headers }
    }

    #[track_caller]
    fn check(to: Version, key: &Key, reply: ResponsePayload<'_>, expected: &str) {
        let mut out = BytesMut::new();
        write_response(&mut out, to, key, reply);
        assert_eq!(String::from_utf8_lossy(&out), format!("{expected}¶"));
    }

    #[test]
    fn answers_of_both_versions() {
        let text = Key::Text("\"a\"".into());
        check(
            Version::V1,
            &Key::Number(7),
            ResponsePayload::Success(200, "[1]"),
            r#"{"key":7,"errorcode":0,"errormessage":"success","results":[1]}"#,
        );
        check(Version::V1, &text, REFUSED, r#"{"key":"a","errorcode":404,"errormessage":"no such \"member\""}"#);
        check(Version::V2, &text, ResponsePayload::Success(200, "{}"), r#"{"key":"a","$":{},"params":{}}"#);
        check(
            Version::V2,
            &Key::Number(7),
            REFUSED,
            r#"{"key":7,"$":{"s":404,"r":"no_member","m":"no such \"member\"","ra":1500}}"#,
        );
    }

    #[test]
    fn b9_a_time_to_wait_is_rounded_up() {
        for (microseconds, milliseconds) in [(1, 1), (1000, 1), (1001, 2), (1_500_000, 1500)] {
            let retry_after = Some(Duration::from_micros(microseconds));
            let reply = ResponsePayload::Failure {
                status: 503,
                reason: "busy",
                message: "",
                retry_after,
                headers: &ResponseHeaders::NONE,
            };
            let expected = format!(r#"{{"key":7,"$":{{"s":503,"r":"busy","m":"","ra":{milliseconds}}}}}"#);
            check(Version::V2, &Key::Number(7), reply, &expected);
        }
    }

    #[test]
    fn only_a_usual_success_is_split() {
        let mut out = BytesMut::new();
        write_response(&mut out, Version::V2, &Key::Number(7), ResponsePayload::Success(200, "[1]"));
        assert_eq!(success_parts(&out[..out.len() - 2]), Some((7, b"[1]".as_slice())));
        for frame in [
            r#"{"key":7,"params":[1],"$":{}}"#,
            r#"{"key":07,"$":{},"params":1}"#,
            r#"{"key":"7","$":{},"params":1}"#,
            r#"{"key":,"$":{},"params":1}"#,
            r#"{"key":1234567890123456789,"$":{},"params":1}"#,
            r#"{"key":7,"$":{"s":201},"params":1}"#,
            r#"{"key":7,"$":{},"params":1"#,
            "",
        ] {
            assert_eq!(success_parts(frame.as_bytes()), None, "{frame}");
        }
        // Only parsing the data can tell.
        let (_, body) = success_parts(br#"{"key":7,"$":{},"params":1,"$":{"s":500}}"#).unwrap();
        assert!(serde_json::from_slice::<&RawValue>(body).is_err());
    }

    #[test]
    fn fields_of_http_are_written_and_split() {
        let mut headers = ResponseHeaders::default();
        headers.append("set-cookie", "a=\"1\"},");
        headers.append("x", "¶");
        let list = r#"[["set-cookie","a=\"1\"},"],["x","\u00b6"]]"#;
        let check = |status: u16, headers: &ResponseHeaders, expected: &str| {
            let mut out = BytesMut::new();
            let writer = ResponseWriter::begin_http(&mut out, &Key::Number(7), status, headers);
            out.put_slice(b"[1]");
            writer.end(&mut out);
            let frame = &out[..out.len() - 2];
            assert_eq!(std::str::from_utf8(frame), Ok(expected));
            let parts = response_parts(frame).unwrap();
            let (packet, body) = (Packet::parse(frame).unwrap(), "[1]");
            let read = Response::from_packet(&packet);
            assert_eq!((parts.key, parts.status, parts.body), (7, status, body.as_bytes()));
            assert_eq!((read.status, read.body.map(RawValue::get)), (status, Some(body)));
            assert_eq!(parts.headers, read.headers.map(RawValue::get));
        };
        check(200, &headers, &format!(r#"{{"key":7,"$":{{"h":{list}}},"params":[1]}}"#));
        check(302, &headers, &format!(r#"{{"key":7,"$":{{"s":302,"h":{list}}},"params":[1]}}"#));
        check(201, &ResponseHeaders::NONE, r#"{"key":7,"$":{"s":201},"params":[1]}"#);
        check(200, &ResponseHeaders::NONE, r#"{"key":7,"$":{},"params":[1]}"#);
        let mut out = BytesMut::new();
        write_response(&mut out, Version::V2, &Key::Number(7), refused(&headers));
        assert!(out.ends_with(format!(r#""ra":1500,"h":{list}}}}}¶"#).as_bytes()), "{out:?}");
        for frame in [
            r#"{"key":7,"$":{"s":201,},"params":1}"#,
            r#"{"key":7,"$":{,"h":[]},"params":1}"#,
            r#"{"key":7,"$":{"s":99999},"params":1}"#,
            r#"{"key":7,"$":{"s":"1"},"params":1}"#,
            r#"{"key":7,"$":{"h":[["a"},"params":1}"#,
            r#"{"key":7,"$":{"h":[],"s":201},"params":1}"#,
            r#"{"key":7,"$":{"n":0},"params":1}"#,
            r#"{"key":7,"$":{"s":404,"r":"no"}}"#,
        ] {
            assert_eq!(response_parts(frame.as_bytes()), None, "{frame}");
        }
    }

    #[test]
    fn answers_read_back() {
        for (frame, status, message, body) in [
            (r#"{"key":1,"errorcode":1,"errormessage":"no data"}"#, 500, Some("no data"), None),
            (r#"{"key":4,"errorcode":0,"errormessage":"success","results":[1]}"#, 200, Some("success"), Some("[1]")),
            (r#"{"key":4,"userid":3}"#, 200, None, None),
            (r#"{"key":1,"errorCode":1,"errorMessage":"no data"}"#, 500, Some("no data"), None),
            (r#"{"key":1,"errorcode":0,"errorCode":"404"}"#, 404, None, None),
            (r#"{"key":4,"errorcode":{"a":1},"errormessage":{}}"#, 500, Some("{}"), None),
            (r#"{"key":4,"params":[1],"$":{}}"#, 200, None, Some("[1]")),
            (r#"{"key":4,"$":{"s":404,"r":"no","m":"none"}}"#, 404, Some("none"), None),
            (r#"{"key":4,"$":{"s":201},"params":[1]}"#, 201, None, Some("[1]")),
            (r#"{"key":4,"params":1,"$":7}"#, 200, None, Some("1")),
            (r#"{"key":4,"$":{"s":503,"r":7,"m":"full"}}"#, 503, Some("full"), None),
            (r#"{"key":4,"$":{"s":"404"}}"#, 502, None, None),
        ] {
            let packet = Packet::parse(frame.as_bytes()).unwrap();
            let answer = Response::from_packet(&packet);
            let seen = (answer.status, answer.message.as_deref(), answer.body.map(RawValue::get));
            assert_eq!(seen, (status, message, body), "{frame}");
        }
    }
}
