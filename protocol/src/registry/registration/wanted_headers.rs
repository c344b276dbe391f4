//! The header fields that a route reads of a client's request.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::json::{read_member, to_json};

/// The names of header fields in small letters, in order, each once. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedHeaders(Arc<[Box<str>]>);

impl WantedHeaders {
    /// Maximum number of names: each is looked for in each request, and handlers read a few.
    pub const MAX_NAMES: usize = 32;
    /// Maximum bytes of a name. Known fields have fewer than 40.
    pub const MAX_NAME_BYTES: usize = 64;

    /// These names, in any case of letters, without those that no field can have. Of too many, the
    /// last in the alphabet are left out.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = names.into_iter().filter(|name| is_field_name(name.as_ref()));
        let sorted: BTreeSet<Box<str>> = names.map(|name| name.as_ref().to_ascii_lowercase().into()).collect();
        Self(sorted.into_iter().take(Self::MAX_NAMES).collect())
    }

    /// Reads the member `headers`; `None` if it is not a list. Other items than names are left out.
    pub(super) fn parse(text: &RawValue) -> Option<Self> {
        let items: Vec<&RawValue> = read_member(Some(text))?;
        Some(Self::new(items.into_iter().filter_map(|item| read_member::<String>(Some(item)))))
    }

    pub(super) fn to_json(&self) -> String {
        to_json(&self.iter().collect::<Vec<_>>())
    }

    /// The names, in small letters.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether a field of this name, in any case of letters, is wanted.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.0.iter().any(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no field is wanted, but the rest of the request is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a header field can have this name (RFC 9110, 5.6.2), and may be wanted.
pub fn is_field_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=WantedHeaders::MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_small_letters_and_few() {
        let check = |names: &[&str], expected: &[&str]| {
            assert_eq!(WantedHeaders::new(names).iter().collect::<Vec<_>>(), expected, "{names:?}");
        };
        check(&[], &[]);
        check(&["X-B", "cookie", "x-b"], &["cookie", "x-b"]);
        check(&["", "a b", "a:b", "a\r\n", "é", "¶", "a\"", "a"], &["a"]);
        let long = ["x".repeat(64), "y".repeat(65)];
        check(&[&long[0], &long[1]], &[&long[0]]);
        let many = WantedHeaders::new((0..100).map(|n| format!("x-{n:03}")));
        assert_eq!((many.len(), many.iter().last()), (WantedHeaders::MAX_NAMES, Some("x-031")));
        assert!(many.contains(b"X-007") && !many.contains(b"x-032") && !many.is_empty());
    }
}
