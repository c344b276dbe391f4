//! The header fields of a client's request.

use crate::error::ServiceError;
use crate::handler::http::{Wants, unstated};
use crate::handler::{FromCall, IncomingCall};

/// The header fields of a client's request that the route wants, in their order. These are named by
/// [`headers`](crate::NodeBuilder::headers) of the route and by its other arguments. There are none
/// if a node makes the call itself.
///
/// A value that is not UTF-8 is read as Latin-1.
///
/// ```
/// use node_sdk::{Headers, HttpResponse, Node, ServiceError};
///
/// async fn page(headers: Headers) -> Result<HttpResponse<&'static str>, ServiceError> {
///     const TAG: &str = "\"7\"";
///     let is_known = headers.names_etag("if-none-match", TAG);
///     let response = HttpResponse::new("the page").header("etag", TAG);
///     Ok(if is_known { response.status(304) } else { response })
/// }
///
/// let node = Node::builder("pages").route("GET/page", page).public().headers(["if-none-match"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value under this name, in any case of letters.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values under this name, in any case of letters.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether a field that makes a request conditional, `If-None-Match` or `If-Match`, names this
    /// entity tag, or any (`*`). `etag` has its quotation marks, as in the field `ETag`. A tag that
    /// is weak (`W/"7"`) is the same as `"7"`, but not for `If-Match` (RFC 9110, 8.8.3.2).
    pub fn names_etag(&self, name: &str, etag: &str) -> bool {
        let is_strong = name.eq_ignore_ascii_case("if-match");
        let strip = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        self.all(name).flat_map(entity_tags).any(|tag| match is_strong {
            true => tag == "*" || (tag == etag && !tag.starts_with("W/")),
            false => tag == "*" || strip(tag) == strip(etag),
        })
    }

    /// Names, in small letters, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// The entity tags in a list. A comma may stand in a tag.
fn entity_tags(list: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let split = list.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    });
    split.map(|tag| tag.trim_matches([' ', '\t'])).filter(|tag| !tag.is_empty())
}

impl FromCall for Headers {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        if call.wanted.is_none() {
            return Err(unstated("Headers"));
        }
        let fields = call.client.into_iter().flat_map(|client| &client.headers);
        Ok(Self(fields.map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_owned())).collect()))
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_found_in_lists() {
        let check = |name: &str, value: &str, etag: &str, expected: bool| {
            let headers = Headers(vec![(name.to_ascii_lowercase(), value.to_owned())]);
            assert_eq!(headers.names_etag(name, etag), expected, "{name}: {value} {etag}");
        };
        for name in ["If-None-Match", "If-Match"] {
            check(name, "\"7\"", "\"7\"", true);
            check(name, "\"6\", \"7\"", "\"7\"", true);
            check(name, " \"a,b\" ,\"c\"", "\"a,b\"", true);
            check(name, "\"a,b\"", "\"a", false);
            check(name, "*", "\"7\"", true);
            check(name, "7", "\"7\"", false);
            check(name, "", "\"7\"", false);
        }
        check("If-None-Match", "W/\"7\"", "\"7\"", true);
        check("If-None-Match", "\"7\"", "W/\"7\"", true);
        check("If-Match", "W/\"7\"", "W/\"7\"", false);
        assert!(!Headers::default().names_etag("if-match", "\"7\""));
    }
}
