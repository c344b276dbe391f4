//! Where a server redirects to, and for which paths it sets cookies, as clients see it when the
//! server does not know its prefix. Pure.

use net::ServerAddress;

use crate::message::head::{Scheme, same_authority};

/// Puts urls that a server names below the prefix that was taken off its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocationRewrite<'a> {
    /// The prefix in normal form, without a slash at its end.
    pub(crate) prefix: &'a str,
    /// The host by which clients call the gateway.
    pub(crate) host: Option<&'a str>,
    pub(crate) server: &'a ServerAddress,
    /// Whether redirects are rewritten.
    pub(crate) redirects: bool,
    /// Whether the paths of cookies are rewritten.
    pub(crate) cookies: bool,
}

impl LocationRewrite<'_> {
    /// The value of a field as clients should see it; `None` if it stays as it is.
    pub(crate) fn rewrite(&self, name: &[u8], value: &[u8]) -> Option<String> {
        let is_place = || name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location");
        if self.redirects && is_place() {
            return self.rewrite_url(std::str::from_utf8(value).ok()?);
        }
        if self.cookies && name.eq_ignore_ascii_case(b"set-cookie") {
            return self.cookie(std::str::from_utf8(value).ok()?);
        }
        None
    }

    /// A cookie whose path is below the prefix; `None` for one that stays as it is: without a path,
    /// browsers take that of the request, and a cookie `__Host-` is for all paths or none.
    fn cookie(&self, cookie: &str) -> Option<String> {
        if cookie.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("__Host-")) {
            return None;
        }
        // The last one counts (RFC 6265, 5.3).
        let (mut path, mut at) = (None, 0);
        for attribute in cookie.split_inclusive(';') {
            if let Some((name, value)) = attribute.split_once('=')
                && at > 0
                && name.trim().eq_ignore_ascii_case("path")
            {
                let begin = at + name.len() + 1;
                path = Some(begin..begin + value.trim_end_matches(';').len());
            }
            at += attribute.len();
        }
        let path = path?;
        // `/api/` would not be for `/api` itself.
        let below = match cookie[path.clone()].trim() {
            "/" => self.prefix.to_owned(),
            path if path.starts_with('/') => self.under_prefix(path)?,
            _ => return None,
        };
        Some(format!("{}{below}{}", &cookie[..path.start], &cookie[path.end..]))
    }

    /// The url below the prefix; `None` for one that stays unchanged: it is below the prefix
    /// already, is relative, or is on another host.
    fn rewrite_url(&self, url: &str) -> Option<String> {
        if url.starts_with('/') && !url.starts_with("//") {
            return self.under_prefix(url);
        }
        let (scheme, rest) = match url.split_once("//")? {
            ("", rest) => (Scheme::Http, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http:") => (Scheme::Http, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("https:") => (Scheme::Https, rest),
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let below = self.under_prefix(&path);
        if self.host.is_some_and(|host| same_authority(host, authority, scheme)) {
            let before = url.len() - rest.len() + authority.len();
            return below.map(|below| format!("{}{below}", &url[..before]));
        }
        // No client can go there: the server is meant as clients reach it.
        let is_server = match self.server {
            ServerAddress::Tcp(address) => authority.parse() == Ok(*address),
            // The name that it is asked by where the client has named none.
            ServerAddress::Unix(_) => authority.eq_ignore_ascii_case("localhost"),
        };
        is_server.then(|| below.unwrap_or(path))
    }

    /// The path below the prefix, unless it is below it already.
    fn under_prefix(&self, path: &str) -> Option<String> {
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
        let server = &ServerAddress::Tcp("10.0.0.7:8080".parse().unwrap());
        let rewrite =
            LocationRewrite { prefix: "/api", host: Some("shop.test"), server, redirects: true, cookies: false };
        assert_eq!(rewrite.rewrite(b"Set-Cookie", b"a=b; Path=/"), None, "only on request");
        #[track_caller]
        fn check(rewrite: LocationRewrite<'_>, url: &str, expected: Option<&str>) {
            assert_eq!(rewrite.rewrite(b"Location", url.as_bytes()).as_deref(), expected, "{url}");
        }
        let check = |url, expected| check(rewrite, url, expected);
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
        check("http://localhost/dir/", None);
        for stays in ["/api", "/api/dir/", "/api?x", "http://shop.test/api/x", "dir/", "../dir", "?x", "#x", ""] {
            check(stays, None);
        }
        for other in
            ["http://other.test/dir/", "//other.test/dir/", "http://shop.test:81/x", "mailto:a//b", "ftp://shop.test/"]
        {
            check(other, None);
        }
    }

    #[test]
    fn a_server_at_a_unix_socket_is_meant_by_localhost() {
        let server = &ServerAddress::Unix("unix:/run/app.sock".parse().unwrap());
        let rewrite = LocationRewrite { prefix: "/api", host: None, server, redirects: true, cookies: false };
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(rewrite.rewrite(b"Location", url.as_bytes()).as_deref(), expected, "{url}");
        };
        check("http://localhost/dir/", Some("/api/dir/"));
        check("http://LOCALHOST/api/dir/", Some("/api/dir/"));
        check("http://localhost:8080/dir/", None);
        check("http://shop.test/dir/", None);
    }

    #[test]
    fn a16_the_path_of_a_cookie_is_below_the_prefix() {
        let server = &ServerAddress::Tcp("10.0.0.7:8080".parse().unwrap());
        let rewrite = LocationRewrite { prefix: "/api", host: None, server, redirects: false, cookies: true };
        assert_eq!(rewrite.rewrite(b"Location", b"/dir/"), None, "only on request");
        let check = |cookie: &str, expected: Option<&str>| {
            assert_eq!(rewrite.rewrite(b"set-cookie", cookie.as_bytes()).as_deref(), expected, "{cookie}");
        };
        check("a=b; Path=/", Some("a=b; Path=/api"));
        check("a=b; path=/dir; HttpOnly", Some("a=b; path=/api/dir; HttpOnly"));
        check("a=b;PATH = /dir ;Secure", Some("a=b;PATH =/api/dir;Secure"));
        check("a=b; Path=/one; Path=/two", Some("a=b; Path=/one; Path=/api/two"));
        for stays in ["a=b", "path=/x", "a=b; Path=/api", "a=b; Path=/api/x", "a=b; Path=", "a=b; Path=x", "a=b; Path"]
        {
            check(stays, None);
        }
        check("__Host-a=b; Path=/; Secure", None);
        check("__Secure-a=b; Path=/; Secure", Some("__Secure-a=b; Path=/api; Secure"));
    }
}
