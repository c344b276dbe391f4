//! The key that a request and its response share.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;

/// The key of a packet, kept exactly as its sender wrote it. A number is not rounded, and a string
/// stays a string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A whole number in its usual spelling, the common case.
    Number(u64),
    /// The JSON text of any other number, or of a string with its quotes.
    Text(Box<str>),
}

impl Key {
    /// The whole number that this key stands for, written as a number or as a string of digits.
    ///
    /// Version 1 peers answer a request of key `7` with `7` or with `"7"`.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => plain_number(text.trim_matches('"')),
        }
    }

    fn from_json(text: &str) -> Option<Self> {
        match text.as_bytes().first()? {
            b'0'..=b'9' | b'-' => Some(plain_number(text).map_or_else(|| Self::Text(text.into()), Self::Number)),
            b'"' => Some(Self::Text(text.into())),
            _other => None,
        }
    }
}

/// Only the spelling that `Display` writes, so that a key is sent back with the same bytes.
fn plain_number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    plain.then(|| digits.parse().ok()).flatten()
}

/// Writes the key as JSON.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        Self::from_json(text).ok_or_else(|| D::Error::custom("a key must be a number or a string"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, number: Option<u64>) {
        let key: Key = serde_json::from_str(text).unwrap();
        assert_eq!(key.to_string(), text, "an echo has the same bytes");
        assert_eq!(key.number(), number);
    }

    #[test]
    fn keys_are_echoed_exactly() {
        check("0", Some(0));
        check("7", Some(7));
        check("\"7\"", Some(7));
        check("9007199254740993", Some(9_007_199_254_740_993));
        check("18446744073709551615", Some(u64::MAX));
        check("18446744073709551616", None);
        check("-0", None);
        check("1e400", None);
        check("7.0", None);
        check("\"\"", None);
        check("\"007\"", None);
        check("\"k-한\\n\"", None);
    }

    #[test]
    fn other_types_are_not_keys() {
        for text in ["[]", "{}", "true", "null"] {
            assert!(serde_json::from_str::<Key>(text).is_err(), "{text}");
        }
    }
}
