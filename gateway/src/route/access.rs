//! Which requests below a prefix are answered at all, by nodes and by servers. Pure.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use protocol::{Route, Router, RouterError, Segment};

use crate::route::path::normalize;
use crate::route::path_readings::{is_ambiguous, plain, readings};

/// Methods of requests that a list without `OPTIONS` can leave open.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The requests that are answered: those of one list, without those of another. Others are answered
/// as if nothing offered what they ask for.
#[derive(Clone, Debug, Default)]
pub struct RouteAccess {
    /// `None` allows all requests.
    allow: Option<RequestSet>,
    /// Its paths are [`plain`].
    deny: RequestSet,
}

/// The lists that a request to a path has to pass.
#[derive(Debug)]
pub(crate) struct PathAccess<'a> {
    pub(crate) path: &'a str,
    /// Those of the rules of the path.
    pub(crate) own: Option<&'a RouteAccess>,
    /// Those of the rules of other paths that a server may read in it, with these.
    pub(crate) others: Vec<(&'a RouteAccess, String)>,
}

/// An item of a list: all requests of a method, or those of a method to certain paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestPattern {
    /// A method, such as `DELETE`.
    Method(String),
    /// A method and a path in normal form, such as `GET/admin/{page}`.
    Route(Route),
}

#[derive(Clone, Debug, Default)]
struct RequestSet {
    methods: Vec<String>,
    routes: Router<()>,
}

impl RouteAccess {
    /// Answers the requests of `allow`, or all if it is `None`, without those of `deny`.
    ///
    /// # Errors
    /// [`RouterError`] when a list has too many similar routes with parameters.
    pub fn new(
        allow: Option<impl IntoIterator<Item = RequestPattern>>,
        deny: impl IntoIterator<Item = RequestPattern>,
    ) -> Result<Self, RouterError> {
        let allow = allow.map(RequestSet::new).transpose()?;
        Ok(Self { allow, deny: RequestSet::new(deny.into_iter().map(RequestPattern::into_plain))? })
    }

    /// Whether a request of this method to this path, which is in normal form, is answered. `HEAD`
    /// counts as `GET`. `OPTIONS` asks for the methods of a path: it is answered if one of them is,
    /// unless it is denied itself. A request is denied if a server may read a path in it that is.
    pub(crate) fn permits(&self, method: &str, path: &str) -> bool {
        let others = if is_ambiguous(path) { readings(path) } else { Vec::new() };
        let allows = |method: &str| self.allow.as_ref().is_none_or(|allow| allow.has(method, path));
        let denies =
            |method: &str| self.deny.has(method, path) || others.iter().any(|path| self.deny.has(method, path));
        let permits = |method: &str| allows(method) && !denies(method);
        match method {
            "HEAD" => permits("GET"),
            "OPTIONS" => {
                let is_listed = self.allow.is_some() && allows(method);
                !denies(method) && (is_listed || METHODS.into_iter().any(permits))
            }
            _ => permits(method),
        }
    }
}

impl PathAccess<'_> {
    /// Whether a request of this method is answered.
    pub(crate) fn permits(&self, method: &str) -> bool {
        self.own.is_none_or(|access| access.permits(method, self.path))
            && self.others.iter().all(|(access, path)| access.permits(method, path))
    }
}

impl RequestSet {
    fn new(patterns: impl IntoIterator<Item = RequestPattern>) -> Result<Self, RouterError> {
        let mut set = Self::default();
        for pattern in patterns {
            match pattern {
                RequestPattern::Method(method) => set.methods.push(method),
                RequestPattern::Route(route) => *set.routes.entry(&route, || ())? = (),
            }
        }
        Ok(set)
    }

    fn has(&self, method: &str, path: &str) -> bool {
        self.methods.iter().any(|one| one == method) || self.routes.find(method, path).is_some()
    }
}

impl RequestPattern {
    /// The path of the pattern, if it has one.
    pub(crate) fn path(&self) -> Option<&str> {
        match self {
            Self::Method(_) => None,
            Self::Route(route) => Some(route.path()),
        }
    }

    /// The same with a [`plain`] path, which is a route too: it has other characters, and the same
    /// segments.
    fn into_plain(self) -> Self {
        match self {
            Self::Method(_) => self,
            Self::Route(route) => {
                let text = format!("{}{}", route.method(), plain(route.path()));
                Self::Route(Route::parse(&text).unwrap_or(route))
            }
        }
    }
}

impl FromStr for RequestPattern {
    /// The mistake, in words.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok() {
            return Err("the list has methods and routes, not clients: limit clients by a firewall".to_owned());
        }
        let method_bytes = text.find('/').unwrap_or(text.len());
        let (method, path) = text.split_at(method_bytes);
        if method == "HEAD" {
            return Err("HEAD is answered where GET is: write GET".to_owned());
        }
        // A route checks its method; any path will do for one alone.
        let route = Route::parse(if path.is_empty() { format!("{method}/") } else { text.to_owned() }.as_str());
        let no_path = "no request has this path: write it without . and .. and //";
        let Ok(route) = route else {
            if path.split('/').any(|segment| matches!(segment, "." | "..")) {
                return Err(no_path.to_owned());
            }
            return Err("write a method such as DELETE, or a route such as GET/goods or GET/goods/{id}".to_owned());
        };
        if path.is_empty() {
            return Ok(Self::Method(method.to_owned()));
        }
        if let Some(why) = route.foreign_pattern() {
            return Err(format!("it matches only itself: {why}"));
        }
        let normal = normal_path(&route).ok_or(no_path)?;
        Route::parse(&format!("{method}{normal}")).map(Self::Route).map_err(|error| error.to_string())
    }
}

/// The path of a route as requests have it when they are looked up.
fn normal_path(route: &Route) -> Option<String> {
    let mut normal = String::new();
    let mut segments = route.segments().peekable();
    while let Some(segment) = segments.next() {
        match segment {
            Segment::Parameter(name) => normal.push_str(&format!("/{{{name}}}")),
            Segment::Literal("") if segments.peek().is_none() => normal.push('/'),
            Segment::Literal("" | "." | "..") => return None,
            Segment::Literal(text) => {
                let segment = format!("/{text}");
                // An escaped dot has no normal form of its own.
                normal.push_str(normalize(&segment).ok().filter(|segment| segment != "/")?.as_ref());
            }
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<RequestPattern> {
        texts.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
    }

    /// Which of these requests are answered.
    #[track_caller]
    fn check(allow: Option<&[&str]>, deny: &[&str], requests: &[(&str, bool)]) {
        let access = RouteAccess::new(allow.map(patterns), patterns(deny)).unwrap();
        for (request, expected) in requests {
            let (method, path) = request.split_at(request.find('/').unwrap());
            assert_eq!(access.permits(method, path), *expected, "{request}");
        }
    }

    #[test]
    fn lists_open_and_close() {
        check(None, &[], &[("GET/a", true), ("BREW/a", true), ("OPTIONS/a", true)]);
        check(
            None,
            &["DELETE", "POST/payments", "GET/admin/{page}", "GET/상품"],
            &[
                ("DELETE/a", false),
                ("POST/payments", false),
                ("PUT/payments", true),
                ("OPTIONS/payments", true),
                ("POST/payments/", false),
                ("POST/payments/x", true),
                ("GET/admin/x", false),
                ("HEAD/admin/x", false),
                ("GET/admin", true),
                ("GET/admin/x/y", true),
                ("GET/%EC%83%81%ED%92%88", false),
            ],
        );
        check(
            Some(&["GET", "POST/orders"]),
            &["GET/secret"],
            &[
                ("GET/a", true),
                ("HEAD/a", true),
                ("GET/secret", false),
                ("HEAD/secret", false),
                ("OPTIONS/secret", false),
                ("POST/orders", true),
                ("POST/a", false),
                ("OPTIONS/a", true),
                ("PROPFIND/a", false),
            ],
        );
        check(Some(&[]), &[], &[("GET/a", false), ("OPTIONS/a", false)]);
        check(Some(&["OPTIONS"]), &[], &[("GET/a", false), ("OPTIONS/a", true)]);
        check(None, &["OPTIONS"], &[("GET/a", true), ("OPTIONS/a", false)]);
    }

    #[test]
    fn what_is_denied_is_denied_in_all_spellings_that_servers_read() {
        let denied = |path: &'static str| (path, false);
        check(
            None,
            &["GET/admin/{page}", "POST/orders:cancel", "GET/a%3Bb", "GET/a%3Fb"],
            &[
                denied("GET/admin/x"),
                denied("GET/admin/x/"),
                denied("GET/admin;a=b/x;c"),
                denied("GET/;/admin/x"),
                denied("GET/admin%3B/x"),
                denied("HEAD/admin/x;"),
                denied("GET/admin%2Fx"),
                denied("GET/admin%5Cx"),
                denied("POST/orders:cancel"),
                denied("POST/orders%3Acancel"),
                denied("POST/orders%3Acancel/"),
                denied("GET/a;b"),
                denied("GET/a%3Bb"),
                denied("GET/a%3Fb"),
                ("GET/admin", true),
                ("GET/admin/", true),
                ("GET/a", true),
                ("GET/admin%2525x", true),
            ],
        );
        // What is allowed has one spelling.
        check(
            Some(&["GET/a:b", "GET/c"]),
            &[],
            &[("GET/a:b", true), ("GET/a%3Ab", false), ("GET/c/", false), ("GET/c;x", false)],
        );
    }

    #[test]
    fn what_no_request_can_be_is_a_mistake() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let error = text.parse::<RequestPattern>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for text in ["", "get", "/a", "get/a", "GETTING0/a", "GET /a"] {
            check(text, "write a method such as DELETE");
        }
        check("10.0.0.0/8", "not clients");
        check("::1", "not clients");
        check("HEAD", "write GET");
        check("HEAD/a", "write GET");
        check("GET/a/:id", "matches only itself");
        for text in ["GET/a//b", "GET/a/../b", "GET/a/./b", "GET/a/%2e/b", "GET/a/%2e%2E", "GET/%2E"] {
            check(text, "no request has this path");
        }
        let similar = |count: u32| {
            let route = |bits: u32| {
                let segment = |at: u32| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
                format!("GET/a{}", (0..6).map(segment).collect::<String>()).parse().unwrap()
            };
            RouteAccess::new(None::<Vec<_>>, (1..=count).map(route).collect::<Vec<_>>()).map(drop)
        };
        assert_eq!((similar(16), similar(17)), (Ok(()), Err(RouterError::TooManyShapes)));
    }
}
