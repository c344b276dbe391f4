//! The id of a session, and the token by which its client resumes it.

use std::fmt::Write;

/// A session of this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey(pub(crate) u128);

/// What a client shows to resume a session: the key, a secret that only the client knows, and the
/// number of the last message that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResumePoint {
    pub(crate) key: SessionKey,
    pub(crate) secret: u128,
    pub(crate) after: u64,
}

/// The id by which nodes know a session: `GATEWAY.KEY`, in hexadecimal digits.
pub(crate) fn session_id(gateway: u128, key: SessionKey) -> String {
    format!("{gateway:032x}.{:032x}", key.0)
}

/// The key of an id of this gateway; `None` for any other text.
pub(crate) fn parse_session_id(gateway: u128, id: &str) -> Option<SessionKey> {
    let (of, key) = id.split_once('.')?;
    (parse_hex(of)? == gateway).then_some(())?;
    parse_hex(key).map(SessionKey)
}

/// The token of a session, for its client: `GATEWAY.KEY.SECRET`.
pub(crate) fn resume_token(gateway: u128, key: SessionKey, secret: u128) -> String {
    let mut token = session_id(gateway, key);
    let _ = write!(token, ".{secret:032x}");
    token
}

/// Reads a token of this gateway and the number of a message; `None` for any other texts.
pub(crate) fn parse_resume(gateway: u128, token: &str, after: &str) -> Option<ResumePoint> {
    let (id, secret) = token.rsplit_once('.')?;
    Some(ResumePoint {
        key: parse_session_id(gateway, id)?,
        secret: parse_hex(secret)?,
        after: if after.is_empty() { 0 } else { after.parse().ok()? },
    })
}

fn parse_hex(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == 32 && text.bytes().all(is_digit)).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_of_this_gateway_read_back() {
        let (key, id) = (SessionKey(7), session_id(1, SessionKey(7)));
        assert_eq!(id, "00000000000000000000000000000001.00000000000000000000000000000007");
        let check =
            |text: &str, expected: Option<SessionKey>| assert_eq!(parse_session_id(1, text), expected, "{text}");
        check(&id, Some(key));
        check(&session_id(2, key), None);
        check(&id.replace('7', "A"), None);
        for other in ["", ".", "1.7", &id[1..], &format!("{id}0"), &format!("{id}.")] {
            check(other, None);
        }
        let token = resume_token(1, key, 9);
        assert_eq!(parse_resume(1, &token, "12"), Some(ResumePoint { key, secret: 9, after: 12 }));
        assert_eq!(parse_resume(1, &token, ""), Some(ResumePoint { key, secret: 9, after: 0 }));
        for (token, after) in [(&*token, "-1"), (&token, "x"), (&id, "1"), ("", ""), (&token[1..], "1")] {
            assert_eq!(parse_resume(1, token, after), None, "{token} {after}");
        }
        assert_eq!(parse_resume(2, &token, "1"), None);
    }
}
