//! One normal form of a path, which routing and upstreams both see. Pure.

use std::borrow::Cow;

use http::StatusCode;

use crate::message::problem::Problem;

/// Why a path has no normal form, in words for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPath(pub(crate) &'static str);

/// The normal form of a path: no dot segments, no empty ones but the last, and only those
/// characters escaped that have to be, in capital letters (RFC 3986, 6.2.2).
///
/// # Errors
/// [`BadPath`] for what means one thing to us and another to the service behind us: an escaped
/// slash or backslash, control characters, broken escapes, text that is no UTF-8, and ways out of
/// the root.
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

/// Whether there is nothing to do, as with nearly all paths.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        b'/' => !matches!(bytes.get(at + 1), Some(b'/' | b'.')),
        byte => stands_for_itself(byte),
    };
    bytes.first() == Some(&b'/') && bytes.iter().enumerate().all(|(at, byte)| plain(at, *byte))
}

/// What may stand in a path without an escape: RFC 3986, 3.3.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
}

/// The path with every escape undone that need not be, and those made that are missing.
fn unescape(path: &str) -> Result<String, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath("a path begins with /"));
    }
    let mut raw = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'%';
        let byte = if escaped {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            let digits = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
            digits.ok_or(BadPath("after % come two hexadecimal digits"))?
        } else {
            byte
        };
        match byte {
            b'/' | b'\\' if escaped => return Err(BadPath("an escaped slash or backslash has no place in a path")),
            // What follows a `#` is for the client alone (RFC 9110, 4.2.5); a backslash is a slash
            // to some.
            b'\\' | b'#' => return Err(BadPath("a path has no backslash and no #")),
            0..b' ' | 0x7f => return Err(BadPath("a path has no control characters")),
            _ => raw.push((byte, escaped)),
        }
    }
    let text: Vec<u8> = raw.iter().map(|(byte, _)| *byte).collect();
    if std::str::from_utf8(&text).is_err() {
        return Err(BadPath("a path is text in UTF-8"));
    }
    let mut path = String::with_capacity(raw.len());
    for (byte, escaped) in raw {
        // What was escaped though it has a meaning of its own stays so: `%3F` is no question mark.
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if byte == b'/' || unreserved || (!escaped && stands_for_itself(byte)) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(path)
}

/// What `get` has for the longest part of a path that ends at a slash: as many look-ups as the path
/// has segments.
pub(crate) fn longest_prefix<T>(path: &str, get: impl Fn(&str) -> Option<T>) -> Option<(usize, T)> {
    let mut prefix = path.strip_suffix('/').unwrap_or(path);
    loop {
        if let Some(found) = get(prefix) {
            return Some((prefix.len(), found));
        }
        prefix = &prefix[..prefix.rfind('/')?];
    }
}

/// A prefix in normal form, without a slash at its end; `None` when it is no path.
pub(crate) fn normal_prefix(prefix: &str) -> Option<String> {
    let normal = normalize(prefix).ok()?;
    Some(normal.strip_suffix('/').unwrap_or(&normal).to_owned())
}

impl From<BadPath> for Problem {
    fn from(BadPath(why): BadPath) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_path", why)
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
            ("a", "begins with /"),
            ("", "begins with /"),
        ] {
            let BadPath(seen) = normalize(path).unwrap_err();
            assert!(seen.contains(why), "{path}: {seen}");
        }
    }

    proptest! {
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
