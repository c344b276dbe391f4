//! The header fields that a node gives to a client, as far as a response can have them. Pure.

use std::borrow::Cow;

use protocol::{ResponseHeaders, is_field_name};

use crate::message::hop_by_hop::belongs_to_connection;
use crate::message::response_head::is_cors_field;

/// Names that the gateway answers for itself.
const OWN_NAMES: [&str; 6] = ["date", "server", "trailer", "alt-svc", "strict-transport-security", "x-request-id"];

/// The fields of a node's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnswerFields {
    /// The media type of the body, if the node names it.
    pub(crate) content_type: Option<String>,
    /// All others, as HTTP/1 has them: `name: value` with CR LF behind it.
    lines: String,
    /// The first field that was left out, and why.
    pub(crate) left_out: Option<(String, &'static str)>,
}

impl AnswerFields {
    /// The fields of an answer that a response can have.
    pub(crate) fn new<'p>(pairs: impl IntoIterator<Item = (Cow<'p, str>, Cow<'p, str>)>) -> Self {
        let (mut fields, mut count) = (Self::default(), 0);
        for (name, value) in pairs {
            let value = value.trim_matches([' ', '\t']);
            let bytes = fields.lines.len() + name.len() + value.len();
            let why = match () {
                () if !is_field_name(&name) => "its name is not that of a header field",
                () if value.bytes().any(is_control) => "its value has a line break or another control character",
                () if is_of_gateway(&name) => "the gateway writes this field itself",
                () if count >= ResponseHeaders::MAX_FIELDS => "the answer has too many fields",
                () if bytes > ResponseHeaders::MAX_BYTES => "the fields of the answer are too long",
                () if name.eq_ignore_ascii_case("content-type") => {
                    fields.content_type.get_or_insert_with(|| value.to_owned());
                    continue;
                }
                () => {
                    count += 1;
                    [&*name, ": ", value, "\r\n"].iter().for_each(|part| fields.lines.push_str(part));
                    continue;
                }
            };
            fields.left_out.get_or_insert_with(|| (name.into_owned(), why));
        }
        fields
    }

    /// Those of an answer whose fields are not a list of pairs of texts.
    pub(crate) fn unreadable() -> Self {
        Self { left_out: Some(("h".to_owned(), "it is not a list of pairs of texts")), ..Self::default() }
    }

    /// Names and values, without the media type.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.split_terminator("\r\n").filter_map(|line| line.split_once(": "))
    }

    /// Removes what the gateway says itself: which pages of other origins may read the answer.
    pub(crate) fn remove_cors(&mut self) {
        if self.iter().any(|(name, _)| is_cors_field(name.as_bytes())) {
            let kept = self.iter().filter(|(name, _)| !is_cors_field(name.as_bytes()));
            self.lines = kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        }
    }

    /// The bytes that they take.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is a field of this name, in small letters.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }
}

/// Whether a byte must not stand in a value (RFC 9110, 5.5).
fn is_control(byte: u8) -> bool {
    byte != b'\t' && byte.is_ascii_control()
}

/// Whether only the gateway knows the value of a field: it is about a connection, or the length of
/// the body.
fn is_of_gateway(name: &str) -> bool {
    let is_proxy = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
    is_proxy || belongs_to_connection(name.as_bytes()) || OWN_NAMES.iter().any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> AnswerFields {
        AnswerFields::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn what_a_response_can_have_is_kept_in_order() {
        let seen =
            fields(&[("Set-Cookie", "a=1"), ("x", ""), ("set-cookie", " b=상: 1\t"), ("Content-Type", "text/css")]);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [("Set-Cookie", "a=1"), ("x", ""), ("set-cookie", "b=상: 1")]);
        assert_eq!((seen.content_type.as_deref(), &seen.left_out), (Some("text/css"), &None));
        assert!(seen.contains("set-cookie") && !seen.contains("content-type"));
    }

    #[test]
    fn what_would_break_a_response_is_left_out_and_named() {
        let check = |name: &str, value: &str, why: &str| {
            let seen = fields(&[(name, value), ("x", "1")]);
            assert_eq!(seen.iter().collect::<Vec<_>>(), [("x", "1")], "{name:?}");
            let (left_out, reason) = seen.left_out.unwrap();
            assert!(left_out == name && reason.contains(why), "{name:?}: {reason}");
        };
        for value in ["a\r\nSet-Cookie: b=1", "a\nb", "a\rb", "a\0", "\u{7f}"] {
            check("x-a", value, "line break");
        }
        for name in ["", "a b", "a:", "a\r\nb", "é", "a\0"] {
            check(name, "1", "not that of a header field");
        }
        let own = ["Content-Length", "transfer-encoding", "Connection", "upgrade", "te", "Trailer", "keep-alive"];
        for name in own.into_iter().chain(["proxy-authenticate", "Proxy-X", "date", "Server", "X-Request-Id"]) {
            check(name, "1", "the gateway writes");
        }
    }

    #[test]
    fn fields_are_few_and_short() {
        let many: Vec<String> = (0..=ResponseHeaders::MAX_FIELDS).map(|n| format!("x-{n}")).collect();
        let seen = fields(&many.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
        assert_eq!((seen.iter().count(), seen.left_out.unwrap().0), (64, "x-64".to_owned()));
        let long = "x".repeat(ResponseHeaders::MAX_BYTES);
        let seen = fields(&[("a", "1"), ("b", &long), ("c", "2")]);
        assert_eq!((seen.iter().count(), seen.left_out.unwrap().1), (2, "the fields of the answer are too long"));
    }
}
