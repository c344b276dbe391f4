//! One normal form of a path, which routing and upstreams both see; and paths that upstreams see as
//! they were sent. Pure.

use std::borrow::Cow;

use http::StatusCode;

use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;

/// Why a path has no normal form, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPath(pub(crate) &'static str);

/// The normal form of a path: no dot segments, no empty segments but the last, and only necessary
/// escapes, in capital letters (RFC 3986, 6.2.2).
///
/// # Errors
/// [`BadPath`] for paths that could mean one thing to us and another to the service behind us: with
/// an escaped slash or backslash, control characters, broken escapes, text that is not UTF-8, or
/// segments that lead out of the root.
pub(crate) fn normalize(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let unescaped = unescape(path)?;
    let mut normal = String::with_capacity(unescaped.len());
    let mut segments = unescaped.split('/').skip(1).peekable();
    let mut ends = Vec::new();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            ".." => {
                let end = ends.pop().ok_or(BadPath("a path must not lead out of the root"))?;
                normal.truncate(end);
            }
            "." | "" => {}
            // Some servers read it as `..` with a parameter.
            segment if segment.starts_with("..;") => return Err(BadPath("a path has no segment that begins with ..;")),
            segment => {
                ends.push(normal.len());
                normal.push('/');
                normal.push_str(segment);
                continue;
            }
        }
        if is_last {
            normal.push('/');
        }
    }
    Ok(Cow::Owned(normal))
}

/// The routing form of a path on a `raw_path` route. Such a path need not have a normal form:
/// escaped slashes and bytes that are not text stay escaped. For a path without `..` that has a
/// [normal form](normalize), it is that form.
///
/// # Errors
/// [`BadPath`] for what [`check_raw`] refuses.
pub(crate) fn raw_route(path: &str) -> Result<String, BadPath> {
    check_raw(path)?;
    let mut routed = String::with_capacity(path.len() + 1);
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if !is_blank(segment) {
            routed.push('/');
            push_raw(&mut routed, segment);
        } else if is_last {
            routed.push('/');
        }
    }
    Ok(routed)
}

/// Checks that a path can be passed on as it was sent.
///
/// # Errors
/// [`BadPath`] when any server may read a `..` in it, which would lead to the paths of others, or
/// when it has characters that no path has.
pub(crate) fn check_raw(path: &str) -> Result<(), BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath("a path must begin with /"));
    }
    if path.bytes().any(|byte| matches!(byte, b'\\' | b'#' | 0..=b' ' | 0x7f)) {
        return Err(BadPath("a path has no backslash, no # and no control characters"));
    }
    let read = undo_escapes(path);
    let mut segments = read.split(|byte| matches!(byte, b'/' | b'\\'));
    // Some servers read the text after a semicolon as a parameter.
    let climbs = |segment: &[u8]| segment.split(|byte| *byte == b';').next() == Some(b"..");
    match segments.any(climbs) {
        true => Err(BadPath("a path that is passed on as it was sent has no ..")),
        false => Ok(()),
    }
}

/// The rest of a path as it was sent, after as many segments as `prefix` has, which is in normal
/// form.
pub(crate) fn after_prefix<'a>(path: &'a str, prefix: &str) -> &'a str {
    let mut left = prefix.matches('/').count();
    let mut rest = path;
    while left > 0
        && let Some(segment) = rest.strip_prefix('/')
    {
        let (segment, after) = segment.split_at(segment.find('/').unwrap_or(segment.len()));
        left -= usize::from(!is_blank(segment));
        rest = after;
    }
    rest
}

/// Whether a normal form leaves this segment out.
fn is_blank(segment: &str) -> bool {
    matches!(segment, "" | "." | "%2e" | "%2E")
}

/// Appends one segment: unnecessary escapes are undone, missing ones are made, and a `%` that
/// begins no escape stays.
fn push_raw(routed: &mut String, segment: &str) {
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, is_escaped, after) = match escaped_byte(rest) {
            Some(byte) => (byte, true, &after[2..]),
            None => (first, false, after),
        };
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || (!is_escaped && (stands_for_itself(byte) || byte == b'%')) {
            routed.push(char::from(byte));
        } else {
            routed.push_str(&format!("%{byte:02X}"));
        }
        rest = after;
    }
}

/// A path as servers read it that undo all escapes at once.
fn undo_escapes(path: &str) -> Vec<u8> {
    let (mut read, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let escaped = escaped_byte(rest);
        read.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    read
}

/// The byte that an escape at the beginning stands for.
pub(super) fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    digit(*high).zip(digit(*low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
}

/// Whether the path is already normal, as nearly all paths are.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        b'/' => !matches!(bytes.get(at + 1), Some(b'/' | b'.')),
        byte => stands_for_itself(byte),
    };
    bytes.first() == Some(&b'/') && bytes.iter().enumerate().all(|(at, byte)| plain(at, *byte))
}

/// Whether a character may stand in a path without an escape: RFC 3986, 3.3.
pub(super) fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
}

/// The path without unnecessary escapes, and with the missing ones.
fn unescape(path: &str) -> Result<String, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath("a path must begin with /"));
    }
    let mut raw = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'%';
        let byte = if escaped {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let digits = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
            digits.ok_or(BadPath("two hexadecimal digits must follow %"))?
        } else {
            byte
        };
        match byte {
            b'/' | b'\\' if escaped => return Err(BadPath("a path must not contain an escaped slash or backslash")),
            // A fragment is only for the client (RFC 9110, 4.2.5); some servers read a backslash as
            // a slash.
            b'\\' => return Err(BadPath("a path has no backslash")),
            b'#' if !escaped => return Err(BadPath("a path has no #")),
            0..b' ' | 0x7f => return Err(BadPath("a path must not contain control characters")),
            _ => raw.push((byte, escaped)),
        }
    }
    let text: Vec<u8> = raw.iter().map(|(byte, _)| *byte).collect();
    if std::str::from_utf8(&text).is_err() {
        return Err(BadPath("a path must be UTF-8"));
    }
    let mut path = String::with_capacity(raw.len());
    for (byte, escaped) in raw {
        // An escaped character with a special meaning stays escaped: `%3F` is not a question mark.
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if byte == b'/' || unreserved || (!escaped && stands_for_itself(byte)) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(path)
}

/// The value that `get` has for the longest prefix of a path that ends at a slash. It takes as many
/// look-ups as the path has segments.
pub(crate) fn longest_prefix<T>(path: &str, get: impl Fn(&str) -> Option<T>) -> Option<(usize, T)> {
    let mut prefix = path.strip_suffix('/').unwrap_or(path);
    loop {
        if let Some(found) = get(prefix) {
            return Some((prefix.len(), found));
        }
        prefix = &prefix[..prefix.rfind('/')?];
    }
}

/// A prefix in normal form, without a slash at its end; `None` when it is not a path.
pub(crate) fn normal_prefix(prefix: &str) -> Option<String> {
    let normal = normalize(prefix).ok()?;
    Some(normal.strip_suffix('/').unwrap_or(&normal).to_owned())
}

impl From<BadPath> for Problem {
    fn from(BadPath(why): BadPath) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ProblemKind::BAD_PATH, why)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gh19_paths_have_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/goods/7", "/goods/7"),
            ("/a;b=c,d/!$&'()*+@:~", "/a;b=c,d/!$&'()*+@:~"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/%61%7e%2E%2D", "/a~.-"),
            ("/%e4%b8%ad", "/%E4%B8%AD"),
            ("/상품", "/%EC%83%81%ED%92%88"),
            ("/a%3fb%3B%25", "/a%3Fb%3B%25"),
            ("/a%20b", "/a%20b"),
            ("/c%23/%23", "/c%23/%23"),
            ("/a\"b|c", "/a%22b%7Cc"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%2e%2e", "/a.."),
            ("/a/%2e%2e/b", "/b"),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn gh19_tricks_are_refused() {
        for (path, why) in [
            ("/..", "out of the root"),
            ("/a/../..", "out of the root"),
            ("/%2e%2e/etc", "out of the root"),
            ("/..%2fetc", "escaped slash"),
            ("/a%5Cb", "escaped slash"),
            ("/a\\b", "no backslash"),
            ("/a#b", "no #"),
            ("/a%00", "control"),
            ("/a%0d%0aX", "control"),
            ("/a%7f", "control"),
            ("/a%", "two hexadecimal"),
            ("/a%2", "two hexadecimal"),
            ("/a%zz", "two hexadecimal"),
            ("/%c0%af", "UTF-8"),
            ("/%ff", "UTF-8"),
            ("/%ED%A0%80", "UTF-8"),
            ("/..;/a", "..;"),
            ("/a/%2e.;b=c/d", "..;"),
            ("a", "begin with /"),
            ("", "begin with /"),
        ] {
            let BadPath(seen) = normalize(path).unwrap_err();
            assert!(seen.contains(why), "{path}: {seen}");
        }
    }

    #[test]
    fn a8_a_path_as_it_was_sent_has_a_form_to_route_by() {
        for (path, expected) in [
            ("/api/queues/%2F/q", "/api/queues/%2F/q"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/caf%E9", "/caf%E9"),
            ("/a//b", "/a/b"),
            ("//a/./b/", "/a/b/"),
            ("/proxy/http://x/y", "/proxy/http:/x/y"),
            ("/%61%5Cb/%00", "/a%5Cb/%00"),
            ("/100%/%zz", "/100%/%zz"),
            ("/a...b/..c", "/a...b/..c"),
            ("/상품", "/%EC%83%81%ED%92%88"),
            ("/a/.", "/a/"),
            ("/", "/"),
        ] {
            assert_eq!(raw_route(path).as_deref(), Ok(expected), "{path}");
        }
        for path in [
            "/..",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/..%2fb",
            "/a%2f..",
            "/a%5c..%5Cb",
            "/a/..;x/b",
            "/a/%2e.%3bx",
            "/a/..%2F",
        ] {
            assert_eq!(raw_route(path), Err(BadPath("a path that is passed on as it was sent has no ..")), "{path}");
        }
        for path in ["a", "", "/a\\b", "/a#b", "/a b", "/a\u{7f}"] {
            assert!(raw_route(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a8_a_prefix_is_taken_off_a_path_as_it_was_sent() {
        for (path, prefix, expected) in [
            ("/api/a%2Fb", "/api", "/a%2Fb"),
            ("//api//a", "/api", "//a"),
            ("/%61pi/./v2/%2F", "/api/v2", "/%2F"),
            ("/./api", "/api", ""),
            ("/api", "", "/api"),
        ] {
            assert_eq!(after_prefix(path, prefix), expected, "{path} without {prefix}");
        }
    }

    proptest! {
        #[test]
        fn a8_both_forms_of_a_path_are_one(path in "/([a%/.2eEfF5cC~가;]|%2e|%2E|%61|/\\./|//|\\.\\.){0,12}") {
            if let (Ok(normal), Ok(routed)) = (normalize(&path), raw_route(&path)) {
                prop_assert_eq!(normal, routed);
            }
        }

        #[test]
        fn gh19_the_normal_form_of_a_normal_form_is_itself(path in "/([a%/.2eEfF5cC~가;]|%2e|%2E|%61|/\\./|//|\\.\\.){0,12}") {
            if let Ok(once) = normalize(&path) {
                prop_assert_eq!(normalize(&once), Ok(once.clone()));
                prop_assert!(once.starts_with('/') && !once.contains("//"));
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }
    }
}
