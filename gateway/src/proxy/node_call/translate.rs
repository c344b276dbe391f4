//! Translates HTTP requests into arguments of calls, and responses of nodes into those of HTTP.
//! Pure.

use bytes::Bytes;
use http::StatusCode;
use node_sdk::gateway::RawResponse;
use protocol::{Version, check_depth, read_pairs, response_parts};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::message::answer_fields::AnswerFields;
use crate::message::body::Framing;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::proxy::node_call::stream_body::StreamFormat;

/// How deep a JSON body may be nested. Version 1 services parse any depth, and crash when they
/// write it (at about 10,000).
const MAX_JSON_DEPTH: usize = 64;

/// The media type of responses.
pub(crate) const JSON: &str = "application/json";

/// Whether the arguments are in the body; otherwise they are in the query string. `DELETE` seldom
/// has a body.
pub(crate) fn has_body(head: &RequestHead) -> bool {
    let method = head.method();
    matches!(method, "POST" | "PUT" | "PATCH") || (method == "DELETE" && head.framing != Framing::Empty)
}

/// A path whose escapes of letters beyond ASCII are decoded, as services write their routes:
/// `/%EC%83%81%ED%92%88` is `/상품`. Escapes of ASCII stay: their characters (`/`, `?`, `%`) would
/// change the meaning of the path. `None` when there is nothing to decode.
pub(crate) fn readable_path(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    let mut undone = false;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match escaped.filter(|byte| !byte.is_ascii()) {
            Some(byte) => {
                undone = true;
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    if undone { String::from_utf8(bytes).ok() } else { None }
}

/// The arguments in a query string or form: an object of strings, with an array for a name that
/// occurs several times.
pub(crate) fn form_params(form: &[u8]) -> String {
    plain_params(form).unwrap_or_else(|| any_params(form))
}

/// The arguments of most requests: few, each once, and without anything to decode or escape.
fn plain_params(form: &[u8]) -> Option<String> {
    const MAX_NAMES: usize = 8;
    // Characters that are the same in a form and in JSON.
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & !matches!(byte, b'%' | b'+' | b'"' | b'\\');
    // All bytes are looked at, so that the compiler can look at many at a time.
    if !form.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        return None;
    }
    let text = std::str::from_utf8(form).ok()?;
    let mut out = String::with_capacity(2 * form.len() + 16);
    let (mut names, mut count) = ([""; MAX_NAMES], 0);
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if names[..count].contains(&name) {
            return None;
        }
        *names.get_mut(count)? = name;
        count += 1;
        for part in [if count == 1 { "{\"" } else { ",\"" }, name, "\":\"", value, "\""] {
            out.push_str(part);
        }
    }
    out.push_str(if count == 0 { "{}" } else { "}" });
    Some(out)
}

fn any_params(form: &[u8]) -> String {
    let mut pairs: Vec<_> = form_urlencoded::parse(form).collect();
    // A stable sort: the values of a name keep their order.
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut out = Vec::with_capacity(2 * form.len() + 16);
    for values in pairs.chunk_by(|(one, _), (other, _)| one == other) {
        out.push(if out.is_empty() { b'{' } else { b',' });
        put_text(&mut out, &values[0].0);
        out.push(b':');
        for (at, (_, value)) in values.iter().enumerate() {
            match (values.len(), at) {
                (1, _) => {}
                (_, 0) => out.push(b'['),
                (_, _) => out.push(b','),
            }
            put_text(&mut out, value);
        }
        if values.len() > 1 {
            out.push(b']');
        }
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    String::from_utf8(out).expect("only text was written to it")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing to memory cannot fail");
}

/// The media type by which a body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MediaType<'a> {
    /// The request's `Content-Type` says it, if there is one.
    Named(Option<&'a str>),
    /// Any media type is read: see [`RouteConfig::any_body`](crate::config::RouteConfig::any_body).
    Any,
}

/// The arguments in a body: a JSON value as it stands, or a form. An empty body has none. Unless
/// `takes_any_json`, the value has to be an object.
///
/// # Errors
/// 400 for a body that is not JSON of that kind, 415 for a media type that is neither JSON nor a
/// form.
pub(crate) fn body_params(media_type: MediaType<'_>, body: &[u8], takes_any_json: bool) -> Result<String, Problem> {
    if body.is_empty() {
        return Ok("{}".to_owned());
    }
    let content_type = match media_type {
        MediaType::Named(content_type) => content_type,
        // A body that begins like an object is read as one, so that an error says what is wrong
        // with it.
        MediaType::Any if body.trim_ascii_start().starts_with(b"{") => Some(JSON),
        MediaType::Any => return Ok(form_params(body)),
    };
    let media_type = essence(content_type.unwrap_or_default());
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(form_params(body));
    }
    if !is_json(media_type) {
        let detail = format!("send {JSON} or application/x-www-form-urlencoded instead of '{media_type}'");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ProblemKind::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, ProblemKind::BAD_JSON, detail);
    let text = std::str::from_utf8(body)
        .map_err(|error| bad(format!("the body is not UTF-8 from byte {}", error.valid_up_to())))?;
    if let Err(too_deep) = check_depth(body, MAX_JSON_DEPTH) {
        return Err(bad(format!("the body: {too_deep}")));
    }
    let value: &RawValue = serde_json::from_str(text).map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    if takes_any_json || value.get().starts_with('{') {
        Ok(value.get().to_owned())
    } else {
        Err(bad("the body must be a JSON object".to_owned()))
    }
}

/// A media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether this is `application/json` or a relative, such as `application/problem+json` (RFC 6839).
fn is_json(media_type: &str) -> bool {
    let subtype =
        media_type.get(..12).filter(|start| start.eq_ignore_ascii_case("application/")).map(|_| &media_type[12..]);
    subtype
        .is_some_and(|subtype| subtype.eq_ignore_ascii_case("json") || subtype.to_ascii_lowercase().ends_with("+json"))
}

/// Whether `text` is one JSON value in UTF-8: a response that is labelled as JSON must be JSON. It
/// takes one pass and stores nothing.
pub(crate) fn is_json_text(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// A node's result, as a response of HTTP has it.
#[derive(Debug)]
pub(crate) struct NodeAnswer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// The media type of the body, unless its fields name one; empty without a body.
    pub(crate) content_type: &'static str,
    pub(crate) fields: AnswerFields,
}

impl NodeAnswer {
    /// A result in JSON, without fields.
    fn json(status: StatusCode, body: Bytes) -> Self {
        Self { status, body, content_type: JSON, fields: AnswerFields::default() }
    }

    /// A result in the form of the media type that its fields name; `None` if it does not have that
    /// form.
    fn with_fields(status: StatusCode, packet: &Bytes, body: &[u8], fields: AnswerFields) -> Option<Self> {
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if has_none || (status.is_redirection() && body == b"null") {
            return Some(Self { status, body: Bytes::new(), content_type: "", fields });
        }
        let is_text = fields.content_type.as_deref().is_some_and(|media_type| !is_json(essence(media_type)));
        let body = match is_text {
            true => serde_json::from_slice::<String>(body).ok()?.into(),
            false => Some(packet.slice_ref(body)).filter(|body| is_json_text(body))?,
        };
        Some(Self { status, body, content_type: JSON, fields })
    }
}

/// The fields of a node's answer, if it gives any.
pub(super) fn fields_of(text: Option<&str>) -> AnswerFields {
    let Some(text) = text else { return AnswerFields::default() };
    match read_pairs(text.as_bytes()) {
        Some(pairs) => AnswerFields::new(pairs),
        None => AnswerFields::unreadable(),
    }
}

/// A node's response as one of HTTP, or the problem that it reports.
///
/// Version 2: the status it gives, and its `params` unparsed, or as the text that they are if the
/// answer names another media type than JSON. Version 1: 200 and the whole packet, as old clients
/// expect.
pub(crate) fn to_http(response: &RawResponse) -> Result<NodeAnswer, Problem> {
    let packet = response.packet();
    // The usual response is split without parsing, and checked once.
    if let Some(result) = response.result()
        && is_json_text(result)
    {
        return Ok(NodeAnswer::json(StatusCode::OK, packet.slice_ref(result)));
    }
    if let Some(bytes) = response.attachment() {
        return binary(response, bytes);
    }
    if let Some(parts) = response_parts(packet)
        && let Some(status) = final_status(parts.status)
        && let Some(answer) = NodeAnswer::with_fields(status, packet, parts.body, fields_of(parts.headers))
    {
        return Ok(answer);
    }
    let Ok(read) = response.read() else {
        if packet.trim_ascii() != b"null" {
            let detail = "the service answered with something that is not JSON";
            return Err(Problem::new(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail));
        }
        let detail = "the service does not know the method, although it registered it";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, ProblemKind::METHOD_NOT_KNOWN, detail));
    };
    match read.version {
        Version::V1 => Ok(NodeAnswer::json(StatusCode::OK, packet.clone())),
        Version::V2 => {
            let Some(status) = final_status(read.status) else {
                let detail = format!("the service answered with status {}, which is not an HTTP status", read.status);
                return Err(Problem::new(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail));
            };
            let fields = fields_of(read.headers.map(RawValue::get));
            match (read.body, read.reason.map(ProblemKind::of_node)) {
                (Some(body), _) => {
                    let answer = NodeAnswer::with_fields(status, packet, body.get().as_bytes(), fields);
                    answer.ok_or_else(|| {
                        let detail = "the service answered with another media type than JSON, and not with a text";
                        Problem::new(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail)
                    })
                }
                (None, None) if status.is_redirection() || status == StatusCode::NO_CONTENT => {
                    Ok(NodeAnswer { status, body: Bytes::new(), content_type: "", fields })
                }
                (None, None) => Ok(NodeAnswer { fields, ..NodeAnswer::json(status, Bytes::from_static(b"null")) }),
                (None, Some(kind)) if kind == ProblemKind::STREAM && status == StatusCode::NOT_ACCEPTABLE => {
                    Err(stream_problem())
                }
                (None, Some(kind)) => {
                    let problem = Problem::new(status, kind, read.message.unwrap_or_default());
                    let of_node = (fields != AnswerFields::default()).then(|| Box::new(fields));
                    Err(Problem { retry_after: read.retry_after, of_node, ..problem })
                }
            }
        }
    }
}

/// A response whose body is raw bytes.
fn binary(response: &RawResponse, bytes: &Bytes) -> Result<NodeAnswer, Problem> {
    let read = response.read().ok().and_then(|read| Some((final_status(read.status)?, read.headers)));
    let Some((status, headers)) = read else {
        let detail = "the service answered with bytes, and with something that is not a response";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER, detail));
    };
    let fields = fields_of(headers.map(RawValue::get));
    Ok(NodeAnswer { status, body: bytes.clone(), content_type: "application/octet-stream", fields })
}

/// The problem of a stream for which the client has named no form.
pub(crate) fn stream_problem() -> Problem {
    let [lines, events] = [StreamFormat::Lines, StreamFormat::Events].map(StreamFormat::media_type);
    let detail = format!("the answer is a stream; request it with 'Accept: {lines}' or 'Accept: {events}'");
    Problem::new(StatusCode::NOT_ACCEPTABLE, ProblemKind::STREAM, detail)
}

/// A status that ends an exchange, which those below 200 do not.
pub(super) fn final_status(status: u16) -> Option<StatusCode> {
    StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 200)
}

/// Whether a node's response was of no use, for a reason that its operator has to know.
pub(crate) fn is_malformed(problem: &Problem) -> bool {
    let is_problem = |status, kind| problem.status == status && problem.kind == kind;
    is_problem(StatusCode::BAD_GATEWAY, ProblemKind::BAD_ANSWER)
        || is_problem(StatusCode::NOT_IMPLEMENTED, ProblemKind::METHOD_NOT_KNOWN)
}

/// Whether this is the problem by which a node says that its response is a stream.
pub(crate) fn is_stream(problem: &Problem) -> bool {
    problem.status == StatusCode::NOT_ACCEPTABLE && problem.kind == ProblemKind::STREAM
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn paths_are_read_as_services_write_them() {
        for (path, readable) in [
            ("/goods/7", None),
            ("/a%2Fb%25%3f", None),
            ("/%EC%83%81%ED%92%88/a%2Fb%25", Some("/상품/a%2Fb%25")),
            ("/%ec%83%81", Some("/상")),
            ("/%EC%83", None),
            ("/%EC%83%81%", Some("/상%")),
            ("/%E%", None),
            ("/%FF", None),
        ] {
            assert_eq!(readable_path(path).as_deref(), readable, "{path}");
        }
    }

    #[test]
    fn only_json_is_labelled_as_json() {
        for (text, expected) in [
            (&b"{\"a\":[1,-2.5e3,\"\\u00e9\\n\",null]}"[..], true),
            (b" 1 ", true),
            ("\"상품\"".as_bytes(), true),
            (b"<script>alert(1)</script>", false),
            (b"{a:1}", false),
            (b"\"\xff\"", false),
            (b"{}{}", false),
            (b"1,\"x\":2", false),
            (b"[1", false),
            (b"\"\\x\"", false),
            (b"\"\n\"", false),
            (b"", false),
        ] {
            assert_eq!(is_json_text(text), expected, "{}", String::from_utf8_lossy(text));
        }
        // Also at any depth.
        let [open, close] = ["[", "]"].map(|bracket| bracket.repeat(100_000));
        assert!(!is_json_text(open.as_bytes()) && is_json_text(format!("{open}{close}").as_bytes()));
    }

    #[test]
    fn query_strings_become_objects_of_strings() {
        for (query, expected) in [
            ("", "{}"),
            ("a=1&b=", r#"{"a":"1","b":""}"#),
            ("a=1&a=2&a=3&b=x", r#"{"a":["1","2","3"],"b":"x"}"#),
            ("name=%ED%99%8D%EA%B8%B8%EB%8F%99+%C2%B6", r#"{"name":"홍길동 ¶"}"#),
            ("%ff=%ff&x", "{\"x\":\"\",\"\u{FFFD}\":\"\u{FFFD}\"}"),
            ("__proto__=1", r#"{"__proto__":"1"}"#),
            ("b=1&a=%22%0a&b=2", r#"{"b":["1","2"],"a":"\"\n"}"#),
        ] {
            let seen: Value = serde_json::from_str(&form_params(query.as_bytes())).unwrap();
            assert_eq!(seen, serde_json::from_str::<Value>(expected).unwrap(), "{query}");
        }
    }

    #[track_caller]
    fn check(content_type: Option<&str>, body: &str, expected: Result<&str, (u16, &str)>) {
        let seen = body_params(MediaType::Named(content_type), body.as_bytes(), false);
        let seen = seen.as_deref().map_err(|problem| (problem.status.as_u16(), problem.detail.as_str()));
        match (seen, expected) {
            (Err((status, detail)), Err((expected, part))) => {
                assert!(status == expected && detail.contains(part), "{status} {detail}");
            }
            (seen, expected) => assert_eq!(seen, expected),
        }
    }

    proptest::proptest! {
        #[test]
        fn plain_arguments_are_read_as_any_others(form in "([a-c]{0,2}=?[ -~]{0,3}&?){0,10}") {
            if let Some(plain) = plain_params(form.as_bytes()) {
                let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
                proptest::prop_assert_eq!(value(&plain), value(&any_params(form.as_bytes())));
            }
        }
    }

    #[test]
    fn bodies_become_objects() {
        check(None, "", Ok("{}"));
        check(Some(JSON), " {\"a\": [1]}\n", Ok("{\"a\": [1]}"));
        check(Some("Application/JSON; charset=euc-kr"), "{}", Ok("{}"));
        check(Some("application/vnd.api+json"), "{}", Ok("{}"));
        check(Some("application/x-www-form-urlencoded;charset=utf-8"), "a=1&b=2", Ok(r#"{"a":"1","b":"2"}"#));
    }

    #[test]
    fn nodes_of_version_2_take_any_json_value() {
        for (body, expected) in [
            ("[1, 2]", Ok("[1, 2]")),
            (" \"text\"\n", Ok("\"text\"")),
            ("7", Ok("7")),
            ("null", Ok("null")),
            ("[1", Err(400)),
            ("[1] [2]", Err(400)),
        ] {
            let seen = body_params(MediaType::Named(Some(JSON)), body.as_bytes(), true);
            let seen = seen.map_err(|problem| problem.status.as_u16());
            assert_eq!(seen.as_deref(), expected.as_ref().map(|text| *text), "{body}");
        }
    }

    #[test]
    fn e14_a_route_may_read_bodies_of_any_media_type() {
        for (body, expected) in [
            (" {\"a\":1}", Ok("{\"a\":1}")),
            ("a=1&b=%C2%B6", Ok(r#"{"a":"1","b":"¶"}"#)),
            ("text", Ok(r#"{"text":""}"#)),
            ("", Ok("{}")),
            ("{\"a\":}", Err(400)),
        ] {
            let seen = body_params(MediaType::Any, body.as_bytes(), true).map_err(|problem| problem.status.as_u16());
            assert_eq!(seen.as_deref(), expected.as_ref().map(|text| *text), "{body}");
        }
    }

    #[test]
    fn gh28_other_bodies_are_refused_with_the_place() {
        check(Some(JSON), "{\"a\":}", Err((400, "line 1 column 6")));
        check(Some(JSON), "[]", Err((400, "must be a JSON object")));
        check(Some(JSON), "{} {}", Err((400, "trailing characters")));
        check(Some("text/plain"), "a", Err((415, "send application/json")));
        check(Some("application/"), "a", Err((415, "send application/json")));
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        check(Some(JSON), &nested(64), Ok(&nested(64)));
        check(Some(JSON), &nested(65), Err((400, "nested deeper than 64")));
        check(None, "a", Err((415, "send application/json")));
        assert_eq!(
            body_params(MediaType::Named(Some(JSON)), b"{\"a\":\"\xff\"}", true).unwrap_err().detail,
            "the body is not UTF-8 from byte 6"
        );
    }
}
