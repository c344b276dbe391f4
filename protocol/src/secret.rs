//! The secret that proves that a registration belongs to its instance. Only the Distributor is told
//! it.

use std::fmt;

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

/// A node's secret. The instance id is a hash of it, so a Distributor can check that the two belong
/// together, and the id does not reveal the secret. No table of owners is needed, and none is lost
/// when a Distributor restarts.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

/// The first character of ids that are made of a secret.
const SIGN: char = '~';
/// Bytes of the hash in an id. Finding another secret for an id takes 2^128 tries.
const ID_BYTES: usize = 16;

impl Secret {
    /// Longest secret in bytes. 32 random bytes in hexadecimal have 64.
    pub const MAX_BYTES: usize = 128;

    /// Makes a secret of this text; `None` when it is empty or longer than
    /// [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn new(text: impl Into<Box<str>>) -> Option<Self> {
        let text = text.into();
        (1..=Self::MAX_BYTES).contains(&text.len()).then_some(Self(text))
    }

    /// The text, for the packet that registers. Do not use it for anything else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The instance id of the node that has this secret: `~` and the first 16 bytes of the secret's
    /// SHA-256 (FIPS 180-4) in lower-case hexadecimal.
    pub fn instance(&self) -> String {
        let hash = Sha256::digest(self.0.as_bytes());
        let mut id = String::with_capacity(1 + 2 * ID_BYTES);
        id.push(SIGN);
        for byte in &hash[..ID_BYTES] {
            id.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or_default());
            id.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or_default());
        }
        id
    }

    /// Whether an instance id is made of a secret. Such an id is registered only with that secret.
    pub fn guards(instance: &str) -> bool {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        instance.strip_prefix(SIGN).is_some_and(|hex| hex.len() == 2 * ID_BYTES && hex.bytes().all(is_digit))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<str>::deserialize(deserializer)?;
        Self::new(text).ok_or_else(|| serde::de::Error::custom("a secret has 1 to 128 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_of_its_secret() {
        // The output of `printf abc | sha256sum`.
        let secret = Secret::new("abc").unwrap();
        assert_eq!(secret.instance(), "~ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_ne!(Secret::new("abd").unwrap().instance(), secret.instance());
    }

    #[test]
    fn ids_of_that_form_are_guarded_and_no_others() {
        for (instance, guarded) in [
            ("~ba7816bf8f01cfea414140de5dae2223", true),
            ("~BA7816BF8F01CFEA414140DE5DAE2223", false),
            ("~ba7816bf8f01cfea414140de5dae222", false),
            ("~ba7816bf8f01cfea414140de5dae22233", false),
            ("ba7816bf8f01cfea414140de5dae2223", false),
            ("~", false),
            ("", false),
        ] {
            assert_eq!(Secret::guards(instance), guarded, "{instance}");
        }
    }

    #[test]
    fn secrets_have_a_length() {
        for (bytes, fits) in [(0, false), (1, true), (128, true), (129, false)] {
            assert_eq!(Secret::new("x".repeat(bytes)).is_some(), fits, "{bytes}");
        }
    }
}
