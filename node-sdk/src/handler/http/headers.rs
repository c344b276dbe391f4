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
///     let is_known = headers.get("if-none-match") == Some(TAG);
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

    /// Names, in small letters, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
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
