//! Helpers for JSON text that serde does not have: its depth before it is parsed, its compact form,
//! and fast readers and writers of single values.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// Arrays and objects are nested deeper than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("JSON is nested deeper than {max_depth} at byte {at}")]
pub struct TooDeep {
    /// The limit.
    pub max_depth: usize,
    /// Offset of the bracket that passed it.
    pub at: usize,
}

/// A JSON string, borrowed if it has no escapes.
#[derive(Debug, serde::Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Checks that no array or object of `text` lies deeper than `max_depth`, in one pass and constant
/// stack.
///
/// The text need not be valid JSON: the parser finds other faults.
///
/// # Errors
/// [`TooDeep`] names the first bracket beyond the limit.
pub fn check_depth(text: &[u8], max_depth: usize) -> Result<(), TooDeep> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > max_depth {
                    return Err(TooDeep { max_depth, at });
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _other => {}
        }
    }
    Ok(())
}

/// Whether `text`, found in JSON where a value stands, is one value and nothing after it. Takes one
/// pass and constant stack. The inside of the value is not checked.
pub fn is_one_value(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'"') => break,
                    Some(b'\\') => drop(bytes.next()),
                    Some(_) => {}
                    None => return false,
                }
            },
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 0 => return false,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => return false,
            _other => {}
        }
    }
    depth == 0 && !text.trim_ascii().is_empty()
}

/// The JSON text of a string, a number, or a list of them.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and lists of strings always have a JSON form")
}

/// Parses one member by itself. A member of a wrong type counts as absent, and the others remain.
pub(crate) fn read_member<'a, T: Deserialize<'a>>(member: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(member?.get()).ok()
}

/// Appends a whole number.
pub(crate) fn put_number(out: &mut BytesMut, number: u64) {
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Reads a whole number in the form that [`put_number`] writes, and returns what follows it.
pub(crate) fn number_prefix(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    // A number of more digits might not fit, and `put_number` writes no leading zero.
    if end == 0 || end > 18 || (end > 1 && text[0] == b'0') {
        return None;
    }
    let number = text[..end].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, &text[end..]))
}

/// Reads one JSON value of any kind, and returns what follows it.
pub(crate) fn value_prefix(text: &[u8]) -> Option<(&str, &[u8])> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    let value = values.next()?.ok()?.get();
    Some((value, &text[values.byte_offset()..]))
}

/// Reads text up to its closing quote, if it has no escapes.
pub(crate) fn plain_text(rest: &str) -> Option<(&str, &str)> {
    let (text, rest) = rest.split_at(memchr::memchr(b'"', rest.as_bytes())?);
    is_plain(text).then_some((text, &rest[1..]))
}

/// Whether JSON has this text as it is, without escapes. All bytes are looked at, so that the
/// compiler can look at many at a time.
fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

/// Reads a whole number as [`number_prefix`] does, from text.
pub(crate) fn digits(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = number_prefix(text.as_bytes())?;
    Some((number, &text[text.len() - rest.len()..]))
}

/// Appends text as a JSON string.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    if is_plain(text) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        out.put_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

/// Appends valid JSON `text` to `out` without the white space between its tokens.
pub(crate) fn write_compact(out: &mut String, text: &str) {
    let (mut in_string, mut escaped) = (false, false);
    out.extend(text.chars().filter(|&c| {
        let keep = in_string || !matches!(c, ' ' | '\t' | '\n' | '\r');
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        keep
    }));
}

/// The members of an object in order, duplicates included. Their values are not parsed.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Whether JSON text is an object. A derived `Deserialize` of a struct would accept an array too.
pub(crate) fn is_object(text: &str) -> bool {
    text.trim_ascii_start().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, max_depth: usize, expected: Option<usize>) {
        assert_eq!(check_depth(text.as_bytes(), max_depth).err().map(|e| e.at), expected);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        check("[[1]]", 2, None);
        check("[[1]]", 1, Some(1));
        check(r#"["[[[[", {"a":"\"[["}]"#, 2, None);
        check(r#"{"a":[],"b":[[]]}"#, 2, Some(13));
        check("]]]]", 0, None);
        check(&"[".repeat(60_000), 32, Some(32));
    }

    #[test]
    fn one_value_has_nothing_after_it() {
        for text in ["1", "null", "{}", r#"{"a":[1,{"b":",}"}],"c":"\\\",x"}"#, r#""a,]b""#, " [1, 2] "] {
            assert!(is_one_value(text.as_bytes()), "{text}");
        }
        for text in ["", " ", "1,2", r#"{},"$":{"s":500}"#, r#""a","b":1"#, "[1]]", "}", "[", r#""a"#, r#""a\"#, "{]}"]
        {
            assert!(!is_one_value(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn compact_text_means_the_same() {
        for (text, expected) in [
            ("1", "1"),
            (" [ 1 ,\n 2 ] ", "[1,2]"),
            (r#"{ "a b" : " \" x \\" , "c" : "\\" }"#, r#"{"a b":" \" x \\","c":"\\"}"#),
            ("[\"한 글\",\t\"\\u00b6 ¶\"]", "[\"한 글\",\"\\u00b6 ¶\"]"),
        ] {
            let mut out = String::new();
            write_compact(&mut out, text);
            assert_eq!(out, expected);
        }
    }
}
