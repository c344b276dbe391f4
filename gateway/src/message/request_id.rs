//! The id of a request, by which the logs of all that answer it can be joined. Pure.

use crate::message::fields::Fields;

/// Longest request id that is accepted from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The field that names the id, to servers and nodes.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// The id of a request: the client's, or one that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestId<'a> {
    Given(&'a str),
    /// In hexadecimal digits.
    Made([u8; 32]),
}

impl<'a> RequestId<'a> {
    /// The first sound id in the fields of a request, or else what `make_id` makes.
    pub(crate) fn of(fields: &'a Fields, make_id: impl FnOnce() -> u128) -> Self {
        let named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(REQUEST_ID.as_bytes()));
        let given = named.filter_map(|(_, value)| plain_id(value)).next();
        given.map_or_else(|| Self::Made(hex(make_id())), Self::Given)
    }

    /// Appends the field that names it, as a line.
    pub(crate) fn put_field(&self, out: &mut Vec<u8>) {
        [REQUEST_ID, ": ", self.as_str(), "\r\n"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Given(id) => id,
            Self::Made(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }
}

/// An id in 32 digits. Each request has one; with `write!` it took 0.6 % of a request's time.
pub(crate) fn hex(id: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (byte, pair) in id.to_be_bytes().into_iter().zip(digits.chunks_exact_mut(2)) {
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    digits
}

/// The id as text, if it can be logged without escaping.
pub(crate) fn plain_id(value: &[u8]) -> Option<&str> {
    let plain = (1..=MAX_REQUEST_ID_BYTES).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_id_that_it_brings_or_a_new_one() {
        let check = |fields: &[(&str, &str)], expected: &str| {
            let fields = Fields::from_pairs(fields);
            assert_eq!(RequestId::of(&fields, || 0xab).as_str(), expected);
        };
        let made = format!("{:032x}", 0xab);
        check(&[], &made);
        check(&[("X-Request-ID", "abc-1")], "abc-1");
        check(&[("x-request-id", "a b"), ("x-request-id", "c")], "c");
        check(&[("x-request-id", &"x".repeat(129))], &made);
    }
}
