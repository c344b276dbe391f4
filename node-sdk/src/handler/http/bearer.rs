//! The token of a client's request.

use std::fmt;

use crate::error::ServiceError;
use crate::handler::http::{Wants, header_values};
use crate::handler::{FromCall, IncomingCall};

/// The token of `Authorization: Bearer …` (RFC 6750). As an argument it refuses a call without one,
/// with 401 `no_token` and `WWW-Authenticate: Bearer`; `Option<Bearer>` is `None` then. A call that
/// a node makes itself has none. The token is only read: check it.
///
/// ```
/// use node_sdk::{Bearer, Node, ServiceError};
///
/// async fn signed_in(Bearer(token): Bearer) -> Result<(), ServiceError> {
///     let is_valid = token == "a token"; // or what checks it
///     is_valid.then_some(()).ok_or_else(|| Bearer::refuse("the token is not valid"))
/// }
///
/// # async fn orders() -> Result<(), ServiceError> { Ok(()) }
/// let node = Node::builder("orders").guard(signed_in).route("GET/orders", orders).public();
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(pub String);

impl Bearer {
    /// The refusal of a token that is not valid, or is not any more: 401 `bad_token`.
    pub fn refuse(message: impl Into<String>) -> ServiceError {
        ServiceError::new(401, "bad_token", message).header("www-authenticate", "Bearer error=\"invalid_token\"")
    }
}

/// A token is a secret.
impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl FromCall for Bearer {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let token = header_values(call, "authorization")?.find_map(token_of);
        let missing = || {
            ServiceError::new(401, "no_token", "the request needs `Authorization: Bearer` and a token")
                .header("www-authenticate", "Bearer")
        };
        token.map(|token| Self(token.to_owned())).ok_or_else(missing)
    }

    fn wants(wants: &mut Wants) {
        wants.header("authorization");
    }
}

fn token_of(field: &str) -> Option<&str> {
    let (scheme, token) = field.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_behind_its_scheme() {
        for (field, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
            ("", None),
        ] {
            assert_eq!(token_of(field), expected, "{field}");
        }
        assert_eq!(format!("{:?}", Bearer("secret".to_owned())), "Bearer(…)");
    }
}
