//! Where a server redirects to, as clients see it when the server does not know its prefix. Pure.

use std::net::SocketAddr;

use crate::message::head::{Scheme, same_authority};

/// Puts places that a server names below the prefix that was taken off its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocationRewrite<'a> {
    /// In normal form, without a slash at its end.
    pub(crate) prefix: &'a str,
    /// What clients call the gateway.
    pub(crate) host: Option<&'a str>,
    pub(crate) server: SocketAddr,
}

impl LocationRewrite<'_> {
    /// Whether the value of a field of this name is such a place.
    pub(crate) fn applies_to(name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location")
    }

    /// The place below the prefix; `None` for one that stays as it is: it is there already, is
    /// relative, or on another host.
    pub(crate) fn rewrite(&self, place: &[u8]) -> Option<String> {
        let place = std::str::from_utf8(place).ok()?;
        if place.starts_with('/') && !place.starts_with("//") {
            return self.below(place);
        }
        let (scheme, rest) = match place.split_once("//")? {
            ("", rest) => (Scheme::Http, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http:") => (Scheme::Http, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("https:") => (Scheme::Https, rest),
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let below = self.below(&path);
        if self.host.is_some_and(|host| same_authority(host, authority, scheme)) {
            let before = place.len() - rest.len() + authority.len();
            return below.map(|below| format!("{}{below}", &place[..before]));
        }
        // No client can go there: the server is meant as clients reach it.
        (authority.parse() == Ok(self.server)).then(|| below.unwrap_or(path))
    }

    /// A path below the prefix, unless it is there.
    fn below(&self, path: &str) -> Option<String> {
        let is_there =
            path.strip_prefix(self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        (!is_there).then(|| format!("{}{path}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a16_a_redirection_stays_below_the_prefix() {
        let server = SocketAddr::from(([10, 0, 0, 7], 8080));
        let rewrite = LocationRewrite { prefix: "/api", host: Some("shop.test"), server };
        #[track_caller]
        fn check(rewrite: LocationRewrite<'_>, place: &str, expected: Option<&str>) {
            assert_eq!(rewrite.rewrite(place.as_bytes()).as_deref(), expected, "{place}");
        }
        let check = |place, expected| check(rewrite, place, expected);
        check("/dir/", Some("/api/dir/"));
        check("/", Some("/api/"));
        check("/?x#y", Some("/api/?x#y"));
        check("/apix", Some("/api/apix"));
        check("http://shop.test/dir/", Some("http://shop.test/api/dir/"));
        check("https://Shop.test:443/dir/", Some("https://Shop.test:443/api/dir/"));
        check("//shop.test/dir/", Some("//shop.test/api/dir/"));
        check("http://shop.test", Some("http://shop.test/api/"));
        check("http://shop.test?x", Some("http://shop.test/api/?x"));
        check("http://10.0.0.7:8080/dir/", Some("/api/dir/"));
        check("http://10.0.0.7:8080/api/dir/", Some("/api/dir/"));
        for stays in ["/api", "/api/dir/", "/api?x", "http://shop.test/api/x", "dir/", "../dir", "?x", "#x", ""] {
            check(stays, None);
        }
        for other in
            ["http://other.test/dir/", "//other.test/dir/", "http://shop.test:81/x", "mailto:a//b", "ftp://shop.test/"]
        {
            check(other, None);
        }
    }
}
