//! A url as nodes register it, method and path together: `GET/goods/{id}`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub use crate::route_syntax::Segment;
use crate::route_syntax::{MAX_ROUTE_BYTES, foreign_pattern, segments, split_route};

/// The method of subscriptions to events in the registry. No call has it, and gateways do not route
/// it.
pub const EVENT_METHOD: &str = "EVENT";

/// What the name of an event begins with in the registry: [`EVENT_METHOD`] and a slash.
pub const EVENT_PREFIX: &str = "EVENT/";

/// Maximum number of words of a pattern of events, and of its wildcards: this bounds the cost of a
/// look-up, whatever is registered.
const MAX_PATTERN_WORDS: usize = 16;
const MAX_WILDCARDS: usize = 3;

/// Matches any one word.
pub(crate) const ANY_WORD: &str = "*";
/// Matches one word or more, as the last word.
pub(crate) const LAST_WORDS: &str = ">";

/// A method and a path that a node offers. Whole segments of the path may be `{name}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Shared, because the routing tables of all threads hold it, in many thousands of entries.
    text: Arc<str>,
    method_bytes: usize,
}

/// Why a text is not a route.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{text}' is not a route: {reason}. Write it like GET/goods or GET/goods/{{id}}")]
pub struct RouteError {
    /// The text, cut to a readable length.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Route {
    /// Longest route in bytes.
    pub const MAX_BYTES: usize = MAX_ROUTE_BYTES;

    /// Reads `METHOD/path`.
    ///
    /// # Errors
    /// [`RouteError`] says which rule the text breaks, for the author of the service.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let broken = |reason| RouteError { text: text.chars().take(60).collect(), reason };
        let (method, _path) = split_route(text).map_err(broken)?;
        Ok(Self { text: text.into(), method_bytes: method.len() })
    }

    /// The method, such as `GET`.
    pub fn method(&self) -> &str {
        &self.text[..self.method_bytes]
    }

    /// The path, such as `/goods/{id}`.
    pub fn path(&self) -> &str {
        &self.text[self.method_bytes..]
    }

    /// The path's parts in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        segments(self.path())
    }

    /// Whether the path has a parameter.
    pub fn is_pattern(&self) -> bool {
        self.path().contains('{')
    }

    /// Whether the route is a subscription to all events that belong to a pattern: see
    /// [`check_event`].
    pub fn is_event_pattern(&self) -> bool {
        self.method() == EVENT_METHOD && !self.is_pattern() && check_event(&self.path()[1..]) == Ok(true)
    }

    /// Whether both are one route: the names of parameters make no difference.
    pub fn is_same(&self, other: &Self) -> bool {
        self.method() == other.method() && self.segments().map(literal_of).eq(other.segments().map(literal_of))
    }

    /// The text without the names of its parameters: equal for two routes that are
    /// [one](Self::is_same).
    pub fn unnamed(&self) -> Cow<'_, str> {
        if !self.is_pattern() {
            return Cow::Borrowed(&self.text);
        }
        let segments = self.segments().map(|segment| literal_of(segment).unwrap_or("{}"));
        segments.fold(self.method().to_owned(), |text, segment| text + "/" + segment).into()
    }

    /// Why the route matches itself only, although it looks like a pattern of another framework.
    pub fn foreign_pattern(&self) -> Option<&'static str> {
        if self.method() == EVENT_METHOD {
            return check_event(&self.path()[1..]).err();
        }
        foreign_pattern(self.path())
    }

    /// Method and path together, as registered.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Why a prefix of paths matches itself only, although it looks like a pattern or has a query.
pub fn foreign_prefix(prefix: &str) -> Option<&'static str> {
    if prefix.contains('?') {
        return Some("a prefix is a path and has no query");
    }
    let is_parameter = |segment: &str| {
        segment.starts_with(':')
            || [('{', '}'), ('<', '>')]
                .iter()
                .any(|(open, close)| segment.starts_with(*open) && segment.ends_with(*close))
    };
    prefix.split('/').find_map(|segment| match segment {
        segment if segment.contains('*') => Some("a prefix has all paths below it, and no *"),
        segment if is_parameter(segment) => Some("a prefix has all paths below it, and no parameters"),
        _plain => None,
    })
}

/// Whether the name of an event has a wildcard: a `*` for any one word, or a `>` at its end for all
/// words that follow.
///
/// # Errors
/// Why the name is of no use to anybody, for the author of the service.
pub fn check_event(name: &str) -> Result<bool, &'static str> {
    if !name.contains(['*', '>']) {
        return Ok(false);
    }
    let words = || name.split('.');
    if words().any(|word| ![ANY_WORD, LAST_WORDS].contains(&word) && word.contains(['*', '>'])) {
        return Err("a * or a > is a whole word, as in orders.* or orders.>");
    }
    if words().rev().skip(1).any(|word| word == LAST_WORDS) {
        return Err("a > is the last word; in other places, write a *");
    }
    if words().any(str::is_empty) {
        return Err("a word is empty");
    }
    if words().count() > MAX_PATTERN_WORDS {
        return Err("a name with wildcards has at most 16 words");
    }
    if words().filter(|word| [ANY_WORD, LAST_WORDS].contains(word)).count() > MAX_WILDCARDS {
        return Err("a name has at most 3 wildcards");
    }
    Ok(true)
}

/// Whether an event belongs to a pattern, or has that name.
pub fn event_matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some(LAST_WORDS), Some(word)) => return !word.is_empty(),
            (Some(ANY_WORD), Some(word)) if !word.is_empty() => {}
            (Some(expected), Some(word)) if expected == word => {}
            _differ => return false,
        }
    }
}

/// Whether calls with this method may be carried out twice (RFC 9110, 9.2.2): they are tried again
/// when they were lost, and dropped when their caller goes. TRACE is not a method of the mesh.
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS")
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text that a segment must be; `None` for a parameter, which may be any.
fn literal_of(segment: Segment<'_>) -> Option<&str> {
    match segment {
        Segment::Literal(literal) => Some(literal),
        Segment::Parameter(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str, bool), &str>) {
        let route = Route::parse(text);
        let seen = route.as_ref().map(|route| (route.method(), route.path(), route.is_pattern()));
        assert_eq!(seen.map_err(|error| error.reason), expected);
    }

    #[test]
    fn methods_that_may_be_carried_out_twice() {
        for (method, expected) in [
            ("GET", true),
            ("HEAD", true),
            ("PUT", true),
            ("DELETE", true),
            ("OPTIONS", true),
            ("POST", false),
            ("PATCH", false),
            ("EVENT", false),
            ("TRACE", false),
            ("QUERY", false),
        ] {
            assert_eq!(is_idempotent(method), expected, "{method}");
        }
    }

    #[test]
    fn a_route_is_a_method_and_a_path_of_whole_segments() {
        check("GET/goods", Ok(("GET", "/goods", false)));
        check("M-SEARCH/x", Err("no path follows the method"));
        check("GET/", Ok(("GET", "/", false)));
        check("DELETE/goods/{id}/tags/{tag}", Ok(("DELETE", "/goods/{id}/tags/{tag}", true)));
        check("GET/상품", Ok(("GET", "/상품", false)));
        check("/goods", Err("it does not begin with a method in capital letters"));
        check("*", Err("it does not begin with a method in capital letters"));
        check("get/goods", Err("it does not begin with a method in capital letters"));
        check("GET", Err("no path follows the method"));
        check("GET/a b", Err("the path has a character that is not allowed in paths"));
        check("GET/a\u{1b}[31m", Err("the path has a character that is not allowed in paths"));
        check("GET/../etc", Err("the path has a dot segment"));
        check("GET/a{id}", Err("a parameter must be a whole segment"));
        check("GET/{}", Err("a parameter has no name"));
        check("GET/{a}/{a}", Err("two parameters have the same name"));
    }

    #[test]
    fn names_of_parameters_make_no_difference() {
        #[track_caller]
        fn check(one: &str, other: &str, expected: bool) {
            let [one, other] = [one, other].map(|text| Route::parse(text).unwrap());
            assert_eq!((one.is_same(&other), one.unnamed() == other.unnamed()), (expected, expected), "{one} {other}");
        }
        check("GET/a", "GET/a", true);
        check("GET/{a}", "GET/{b}", true);
        check("GET/{a}/b/{c}", "GET/{x}/b/{y}", true);
        check("GET/{a}", "POST/{a}", false);
        check("GET/{a}", "GET/a", false);
        check("GET/{a}/b", "GET/{a}/b/", false);
        check("GET/{a}/b", "GET/a/{b}", false);
    }

    #[test]
    fn length_is_exact() {
        for (bytes, fits) in [(511, true), (512, true), (513, false)] {
            let text = format!("GET/{}", "x".repeat(bytes - 4));
            assert_eq!(Route::parse(&text).is_ok(), fits, "{bytes}");
        }
    }

    #[test]
    fn b9_a_name_with_a_wildcard_is_a_pattern_or_refused() {
        #[track_caller]
        fn check(name: &str, expected: Result<bool, &str>) {
            let fits = match (check_event(name), expected) {
                (Ok(seen), Ok(expected)) => seen == expected,
                (Err(reason), Err(part)) => reason.contains(part),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            };
            assert!(fits, "{name}: {:?}", check_event(name));
        }
        for name in ["orders.created", "orders", "", "a..b", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q"] {
            check(name, Ok(false));
        }
        for name in ["*", ">", "orders.*", "*.created", "orders.>", "a.*.b.*.>", "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.*"] {
            check(name, Ok(true));
        }
        check("orders*", Err("whole word"));
        check("orders.**", Err("whole word"));
        check("orders.a>", Err("whole word"));
        check("orders.>.a", Err("last word"));
        check(">.>", Err("last word"));
        check("orders..*", Err("empty"));
        check("*.*.*.*", Err("3 wildcards"));
        check("*.*.*.>", Err("3 wildcards"));
        check("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.*", Err("16 words"));
    }

    #[test]
    fn one_pattern_is_compared_as_the_tree_does() {
        for (pattern, name, expected) in [
            ("orders.created", "orders.created", true),
            ("orders.*", "orders.created", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.created.eu", false),
            ("orders.>", "orders.created.eu", true),
            ("orders.>", "orders", false),
            ("*.created", ".created", false),
        ] {
            assert_eq!(event_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
