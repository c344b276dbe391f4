//! The paths that a server may read in the path of a request. Pure.

use std::borrow::Cow;

use crate::route::path::{escaped_byte, raw_route, stands_for_itself};

/// A path in normal form without the escapes of characters that need none. RFC 3986 (2.2) tells
/// `%3A` from `:`, and most servers do not.
pub(crate) fn plain(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let undone = escaped_byte(escape.as_bytes()).filter(|byte| stands_for_itself(*byte));
        plain.push(undone.map_or('%', char::from));
        rest = &escape[if undone.is_some() { 3 } else { 1 }..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Whether servers may read other paths in a path in normal form.
pub(crate) fn is_ambiguous(path: &str) -> bool {
    path.contains(['%', ';']) || (path.len() > 1 && path.ends_with('/'))
}

/// The paths that servers may read in a path in normal form, at most eight: [`plain`], with escaped
/// slashes as slashes, without what follows a semicolon in a segment, without a slash at the end,
/// and with several of these at once. The first is [`plain`].
pub(crate) fn readings(path: &str) -> Vec<String> {
    let mut all = vec![plain(path).into_owned()];
    for reading in [with_slashes, without_parameters, without_last_slash] {
        for at in 0..all.len() {
            let other = reading(&all[at]);
            all.extend(other);
        }
    }
    all
}

/// The path with slashes in place of escaped ones, which only paths of `raw_path` routes have. A
/// backslash is a slash to some servers.
fn with_slashes(path: &str) -> Option<String> {
    let slashes = path.replace("%2F", "/").replace("%5C", "/");
    (slashes != path).then(|| raw_route(&slashes).ok()).flatten()
}

/// The path without parameters of segments: servers in Java read `/a;b=c/d` as `/a/d`.
fn without_parameters(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    path.contains(';').then(|| raw_route(&segments.join("/")).ok()).flatten()
}

/// The path without a slash at its end.
fn without_last_slash(path: &str) -> Option<String> {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_few_readings() {
        #[track_caller]
        fn check(path: &str, expected: &[&str]) {
            assert_eq!(readings(path), expected, "{path}");
            assert_eq!(is_ambiguous(path), expected != [path] || path.contains('%'), "{path}");
        }
        for path in ["/", "/a", "/a/b", "/%20", "/%EC%83%81", "/100%/%zz", "/a%25"] {
            check(path, &[path]);
        }
        check("/a%3Ab%2520", &["/a:b%2520"]);
        check("/a/", &["/a/", "/a"]);
        check("/a;b=c/d;", &["/a;b=c/d;", "/a/d"]);
        check("/;/.;/a", &["/;/.;/a", "/a"]);
        check("/a%3Bb", &["/a;b", "/a"]);
        check("/a%2Fb%5Cc", &["/a%2Fb%5Cc", "/a/b/c"]);
        check("/;", &["/;", "/"]);
        let most = &["/a%2Fb;/", "/a/b;/", "/a%2Fb/", "/a/b/", "/a%2Fb;", "/a/b;", "/a%2Fb", "/a/b"];
        check("/a%2Fb;/", most);
    }
}
