//! The secret of the store, and what is signed with it: the tokens in cookies (JWT, RFC 7519) and
//! the bank's messages.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde::{Deserialize, Serialize};

/// The header of all tokens. A token with another one, such as `"alg":"none"`, is not ours.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// Minimum bytes of the secret: as many as a signature has.
const MIN_SECRET_BYTES: usize = 32;

/// The secret that the services of the store share.
pub(crate) struct Key(hmac::Key);

/// What a token says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The name of the member.
    pub(crate) sub: String,
    /// The session, which `members` can end.
    pub(crate) sid: String,
    /// When the token ends, in seconds since 1970.
    pub(crate) exp: i64,
}

impl Key {
    pub(crate) fn from_environment() -> Result<Self, String> {
        match std::env::var("STORE_SECRET") {
            Ok(secret) if secret.len() >= MIN_SECRET_BYTES => Ok(Self::new(secret.as_bytes())),
            _ => Err(format!("set STORE_SECRET to the same random text of {MIN_SECRET_BYTES} bytes for all services")),
        }
    }

    fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The token that makes these claims.
    pub(crate) fn token(&self, claims: &Claims) -> String {
        let claims = serde_json::to_vec(claims).expect("texts and numbers have a JSON form");
        let signed = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(claims));
        let signature = BASE64.encode(hmac::sign(&self.0, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// What a token says, if it is ours and is valid at `now`, in seconds since 1970.
    pub(crate) fn claims(&self, token: &str, now: i64) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        hmac::verify(&self.0, signed.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        (BASE64.decode(header).ok()? == HEADER.as_bytes() && now < claims.exp).then_some(claims)
    }

    /// Whether `signature`, in hexadecimal, is the HMAC-SHA256 of `body`. It takes the same time
    /// wherever a wrong signature begins to differ.
    pub(crate) fn is_signature(&self, signature: &str, body: &[u8]) -> bool {
        let bytes: Option<Vec<u8>> = (0..signature.len())
            .step_by(2)
            .map(|at| signature.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
            .collect();
        bytes.is_some_and(|bytes| hmac::verify(&self.0, body, &bytes).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_of_this_key_are_valid() {
        let key = Key::new(b"0123456789abcdef0123456789abcdef");
        let claims = |exp| Claims { sub: "ann".to_owned(), sid: "s".to_owned(), exp };
        let token = key.token(&claims(100));
        let check = |token: &str, now: i64, is_valid: bool| {
            assert_eq!(key.claims(token, now), is_valid.then(|| claims(100)), "{token} at {now}");
        };
        check(&token, 99, true);
        check(&token, 100, false);
        check("", 0, false);
        check("..", 0, false);
        check(&token[1..], 0, false);
        check(&token[..token.len() - 1], 0, false);
        check(&Key::new(b"another").token(&claims(100)), 0, false);
        // A header that we do not write, signed by us.
        let parts: Vec<_> = token.split('.').collect();
        let none = format!("{}.{}", BASE64.encode(r#"{"alg":"none"}"#), parts[1]);
        check(&format!("{none}."), 0, false);
        check(&format!("{none}.{}", BASE64.encode(hmac::sign(&key.0, none.as_bytes()))), 0, false);
    }

    #[test]
    fn a_signature_is_of_the_whole_body() {
        let key = Key::new(b"0123456789abcdef0123456789abcdef");
        let sign = |body: &[u8]| -> String {
            hmac::sign(&key.0, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let check = |signature: &str, body: &[u8], expected: bool| {
            assert_eq!(key.is_signature(signature, body), expected, "{signature}");
        };
        check(&sign(b"{}"), b"{}", true);
        check(&sign(b"{}").to_uppercase(), b"{}", true);
        check(&sign(b"{}"), b"{ }", false);
        check("", b"{}", false);
        check("0", b"{}", false);
        check("zz", b"{}", false);
        check("에", b"{}", false);
        check(&sign(b"{}")[2..], b"{}", false);
    }
}
