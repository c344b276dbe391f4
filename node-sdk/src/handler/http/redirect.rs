//! Redirects.

use std::borrow::Cow;

use protocol::ResponseHeaders;

use crate::handler::http::Wants;
use crate::handler::respond::Respond;

/// Sends the client elsewhere. Check a place that comes from the client: otherwise others can make
/// this service send people to theirs.
///
/// ```
/// use node_sdk::{Node, Redirect, ServiceError};
///
/// async fn sign_in() -> Result<Redirect, ServiceError> {
///     Ok(Redirect::to("/welcome"))
/// }
///
/// let node = Node::builder("accounts").route("POST/sign-in", sign_in).public();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    status: u16,
    location: Cow<'static, str>,
}

impl Redirect {
    /// 303 See Other: the client gets that page with `GET`, as after a form was sent.
    pub fn to(location: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 303, location: location.into() }
    }

    /// 307 Temporary Redirect: the client repeats this very request there.
    pub fn temporary(location: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 307, location: location.into() }
    }

    /// 308 Permanent Redirect: the client repeats this very request there, and remembers that.
    pub fn permanent(location: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 308, location: location.into() }
    }
}

impl Respond for Redirect {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self, headers: &mut ResponseHeaders) {
        headers.append("location", self.location.clone());
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, &())
    }
}
