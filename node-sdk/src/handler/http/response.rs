//! A result with header fields.

use std::borrow::Cow;

use bytes::Bytes;
use protocol::ResponseHeaders;

use crate::handler::call_stream::Parts;
use crate::handler::http::Wants;
use crate::handler::http::cookie::{self, Cookie};
use crate::handler::respond::Respond;

/// A result with a status and header fields of its own. A gateway gives them to its client. A
/// caller that is a node gets the status and the result, and no header fields.
///
/// ```
/// use node_sdk::{Cookie, HttpResponse, Node, NoContent, ServiceError, Text};
///
/// async fn sign_out() -> Result<HttpResponse<NoContent>, ServiceError> {
///     Ok(HttpResponse::new(NoContent).cookie(Cookie::removed("session")))
/// }
///
/// async fn table() -> Result<HttpResponse<Text<&'static str>>, ServiceError> {
///     Ok(HttpResponse::new(Text("a,b\r\n1,2\r\n")).content_type("text/csv"))
/// }
///
/// let node = Node::builder("pages")
///     .public_routes()
///     .route("POST/sign-out", sign_out)
///     .route("GET/table", table);
/// ```
///
/// A handler whose results are of several types makes each an
/// [`Outcome`](crate::Outcome::from_result). The gateway writes fields about its connections and
/// the length of the body itself, also `Date` and `Server`; it leaves them out of these, and those
/// that would break a response. A stream of JSON
/// texts ([`Streaming`](crate::Streaming)) has no header fields of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse<T> {
    result: T,
    status: Option<u16>,
    headers: ResponseHeaders,
}

impl<T> HttpResponse<T> {
    /// This result, with its own status and header fields.
    pub fn new(result: T) -> Self {
        Self { result, status: None, headers: ResponseHeaders::NONE }
    }

    /// An HTTP status, 200 to 599; 204 and 304 have no body. Any other is a fault of this service:
    /// the caller is told 500.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets a header field, in place of one of the same name.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Adds a header field. One of the same name stays.
    pub fn append_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The media type of the body. If it is not JSON, the result has to be a text, and that text is
    /// the body: see [`Text`](crate::Text).
    pub fn content_type(self, media_type: impl Into<Cow<'static, str>>) -> Self {
        self.header("content-type", media_type)
    }

    /// Gives the client a cookie.
    pub fn cookie(mut self, cookie: Cookie) -> Self {
        cookie.append_to(&mut self.headers);
        self
    }
}

impl<T: Respond> Respond for HttpResponse<T> {
    fn status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.result.status())
    }

    fn headers(&self, headers: &mut ResponseHeaders) {
        let mut of_result = ResponseHeaders::NONE;
        self.result.headers(&mut of_result);
        let stays = |name: &str| cookie::is_one(name) || !self.headers.contains(name);
        of_result.into_iter().filter(|(name, _)| stays(name)).for_each(|(name, value)| headers.append(name, value));
        self.headers.clone().into_iter().for_each(|(name, value)| headers.append(name, value));
    }

    fn wants(wants: &mut Wants) {
        wants.request();
        T::wants(wants);
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        self.result.write(out)
    }

    fn attachment(&self) -> Option<&Bytes> {
        self.result.attachment()
    }

    fn into_parts(self) -> Result<Parts, Self> {
        let (whole_status, mut whole_headers) = (Respond::status(&self), ResponseHeaders::NONE);
        Respond::headers(&self, &mut whole_headers);
        let Self { result, status, headers } = self;
        match result.into_parts() {
            Ok(parts) => Ok(parts.with_head(whole_status, whole_headers)),
            Err(result) => Err(Self { result, status, headers }),
        }
    }
}
