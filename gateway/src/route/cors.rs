//! Which pages of other origins may read the answers of a route: CORS (Fetch, 3.2). Pure.

use std::time::Duration;

use crate::message::fields::Fields;
use crate::message::head::RequestHead;

/// Which pages of other origins may read the answers of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins such as `https://shop.test`; `*` stands for all.
    pub origins: Vec<String>,
    /// Whether they may send cookies and other credentials.
    pub credentials: bool,
    /// The header fields that they may send, beside those that any page may; `*` stands for all.
    pub headers: Vec<String>,
    /// The header fields of answers that they may read, beside those that any page may.
    pub expose: Vec<String>,
    /// How long a browser remembers what it is told.
    pub max_age: Duration,
}

impl Cors {
    /// Header fields that pages may send unless others are named: the type of a body in JSON.
    pub const HEADERS: [&'static str; 1] = ["content-type"];
    /// How long a browser remembers what it is told, unless another time is set.
    pub const MAX_AGE: Duration = Duration::from_secs(600);

    /// Writes the fields by which the page that makes a request learns whether it may read the
    /// answer.
    pub(crate) fn put_fields(&self, out: &mut Vec<u8>, head: &RequestHead) {
        self.put_origin(out, head.fields());
        if !self.allows_all() {
            put(out, "vary", "Origin");
        }
        if !self.expose.is_empty() {
            put(out, "access-control-expose-headers", &self.expose.join(", "));
        }
    }

    /// Writes the fields of the answer to the question of a browser, whether a page may make a
    /// request; `false` if the request is not that question.
    pub(crate) fn put_preflight(&self, out: &mut Vec<u8>, head: &RequestHead) -> bool {
        let fields = head.fields();
        let method = fields.get("access-control-request-method").and_then(plain);
        let (Some(method), true) = (method, head.method() == "OPTIONS" && fields.get("origin").is_some()) else {
            return false;
        };
        put(out, "vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
        if self.put_origin(out, fields) {
            put(out, "access-control-allow-methods", method);
            let asked = fields.get("access-control-request-headers").and_then(plain);
            match asked.filter(|_| self.headers.iter().any(|name| name == "*")) {
                Some(asked) => put(out, "access-control-allow-headers", asked),
                None if self.headers.is_empty() => {}
                None => put(out, "access-control-allow-headers", &self.headers.join(", ")),
            }
            put(out, "access-control-max-age", &self.max_age.as_secs().to_string());
        }
        true
    }

    /// Writes which origin may read; `false` if that of the request may not.
    fn put_origin(&self, out: &mut Vec<u8>, fields: &Fields) -> bool {
        let origin = fields.get("origin").and_then(plain);
        let allowed = match origin {
            _ if self.allows_all() && !self.credentials => "*",
            Some(origin) if self.allows_all() || self.origins.iter().any(|one| one == origin) => origin,
            Some(_) | None => return false,
        };
        put(out, "access-control-allow-origin", allowed);
        if self.credentials {
            put(out, "access-control-allow-credentials", "true");
        }
        true
    }

    /// Whether this origin stands among those that are allowed, and not only `*`.
    pub(crate) fn names(&self, origin: &str) -> bool {
        origin != "*" && self.origins.iter().any(|one| one == origin)
    }

    fn allows_all(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }
}

/// What is wrong with an origin: it must look as a browser sends it.
pub(crate) fn check_origin(origin: &str) -> Result<(), &'static str> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    match host {
        _ if origin == "*" || origin == "null" => Ok(()),
        Some(host) if host.is_empty() || host.contains(['/', '*', '?', '#', '@']) => {
            Err("an origin is a scheme, a host and perhaps a port, such as https://shop.test:8443; no path, and no *")
        }
        Some(host) if host.chars().any(|c| c.is_ascii_uppercase() || !c.is_ascii_graphic()) => {
            Err("browsers send an origin in small letters of ASCII")
        }
        Some(_) => Ok(()),
        None => Err("an origin begins with https:// or http://"),
    }
}

/// A value that may be repeated in an answer.
fn plain(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::http1::head_reader::HeadReader;

    fn cors(origins: &[&str]) -> Cors {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (headers, expose) = (owned(&Cors::HEADERS), Vec::new());
        Cors { origins: owned(origins), credentials: false, headers, expose, max_age: Cors::MAX_AGE }
    }

    /// What a request of this page is answered with: the fields, and whether it was a question.
    #[track_caller]
    fn check(cors: &Cors, line: &str, fields: &str, is_preflight: bool, expected: &[&str]) {
        let text = format!("{line} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let head = HeadReader::default().next(&mut BytesMut::from(text.as_bytes())).unwrap().unwrap();
        let mut out = Vec::new();
        assert_eq!(cors.put_preflight(&mut out, &head), is_preflight, "{text}");
        if !is_preflight {
            cors.put_fields(&mut out, &head);
        }
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.split_terminator("\r\n").collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn pages_of_named_origins_may_read() {
        let shop = cors(&["https://shop.test", "http://localhost:3000"]);
        let allow = "access-control-allow-origin: https://shop.test";
        check(&shop, "GET", "Origin: https://shop.test\r\n", false, &[allow, "vary: Origin"]);
        check(&shop, "GET", "Origin: https://shop.test.evil\r\n", false, &["vary: Origin"]);
        check(&shop, "GET", "Origin: https://SHOP.test\r\n", false, &["vary: Origin"]);
        check(&shop, "GET", "", false, &["vary: Origin"]);
        let rich = Cors { credentials: true, expose: vec!["etag".to_owned(), "x-a".to_owned()], ..shop };
        let credentials = "access-control-allow-credentials: true";
        let exposed = "access-control-expose-headers: etag, x-a";
        check(&rich, "GET", "Origin: https://shop.test\r\n", false, &[allow, credentials, "vary: Origin", exposed]);
        check(&rich, "GET", "Origin: null\r\n", false, &["vary: Origin", exposed]);
        check(&cors(&["*"]), "POST", "Origin: https://a\r\n", false, &["access-control-allow-origin: *"]);
        check(&cors(&["*"]), "GET", "", false, &["access-control-allow-origin: *"]);
    }

    #[test]
    fn a_browser_is_told_what_a_page_may_send() {
        let shop = cors(&["https://shop.test"]);
        let vary = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        let asks = "Origin: https://shop.test\r\nAccess-Control-Request-Method: DELETE\r\n";
        let allowed = [
            vary,
            "access-control-allow-origin: https://shop.test",
            "access-control-allow-methods: DELETE",
            "access-control-allow-headers: content-type",
            "access-control-max-age: 600",
        ];
        check(&shop, "OPTIONS", asks, true, &allowed);
        let evil = "Origin: https://evil.test\r\nAccess-Control-Request-Method: DELETE\r\n";
        check(&shop, "OPTIONS", evil, true, &[vary]);
        check(&shop, "OPTIONS", "Origin: https://evil.test\r\n", false, &["vary: Origin"]);
        check(&shop, "OPTIONS", "Access-Control-Request-Method: GET\r\n", false, &["vary: Origin"]);
        let any = Cors { headers: vec!["*".to_owned()], ..shop };
        let asks = format!("{asks}Access-Control-Request-Headers: x-a, authorization\r\n");
        let mut all = allowed;
        all[3] = "access-control-allow-headers: x-a, authorization";
        check(&any, "OPTIONS", &asks, true, &all);
    }

    #[test]
    fn an_origin_looks_as_browsers_send_it() {
        for sound in ["*", "null", "https://a", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(check_origin(sound), Ok(()), "{sound}");
        }
        for wrong in ["shop.test", "https://", "https://a/", "https://*.a", "https://A", "ftp://a", "https://é", ""] {
            assert!(check_origin(wrong).is_err(), "{wrong}");
        }
    }
}
