//! The cookies of a client's request.

use crate::error::ServiceError;
use crate::handler::http::{Wants, header_values};
use crate::handler::{FromCall, IncomingCall};

/// The cookies that a client sends. There are none if a node makes the call itself. They are what
/// the client says: sign or store what must not be forged.
///
/// ```
/// use node_sdk::{Cookies, Node, ServiceError};
///
/// async fn me(cookies: Cookies) -> Result<String, ServiceError> {
///     let session = cookies.get("session");
///     session.map(str::to_owned).ok_or_else(|| ServiceError::new(401, "sign_in", "sign in first"))
/// }
///
/// let node = Node::builder("accounts").route("GET/me", me).public();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// The value of a cookie, as it was set. Of several of one name it is the first, which browsers
    /// send for the longest path.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Reads a `Cookie` field (RFC 6265, 5.4). What has no `=` is left out, and quotes around a
    /// value are.
    fn add(&mut self, field: &str) {
        self.0.extend(field.split(';').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (!name.is_empty()).then(|| (name.to_owned(), quoted.unwrap_or(value).to_owned()))
        }));
    }
}

impl FromCall for Cookies {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let mut cookies = Self::default();
        // HTTP/2 may divide the field.
        header_values(call, "cookie")?.for_each(|field| cookies.add(field));
        Ok(cookies)
    }

    fn wants(wants: &mut Wants) {
        wants.header("cookie");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_read_as_browsers_send_them() {
        let check = |field: &str, expected: &[(&str, &str)]| {
            let mut cookies = Cookies::default();
            cookies.add(field);
            assert_eq!(cookies.iter().collect::<Vec<_>>(), expected, "{field}");
        };
        check("", &[]);
        check("a=1; b=2", &[("a", "1"), ("b", "2")]);
        check("a=1;a=2; c=x=y;", &[("a", "1"), ("a", "2"), ("c", "x=y")]);
        check(" a = \"1 2\" ; =x; y ;z=", &[("a", "1 2"), ("z", "")]);
        check("a=\"; b=\"\"", &[("a", "\""), ("b", "")]);
        let mut cookies = Cookies::default();
        ["a=1", "b=2; a=3"].iter().for_each(|field| cookies.add(field));
        assert_eq!((cookies.get("a"), cookies.get("b"), cookies.get("A")), (Some("1"), Some("2"), None));
    }
}
