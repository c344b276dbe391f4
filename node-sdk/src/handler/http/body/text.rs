//! Bodies that are not JSON.

use protocol::ResponseHeaders;

use crate::handler::http::Wants;
use crate::handler::respond::Respond;

/// A plain text as the body of the response. A caller that is a node gets it as a JSON text.
///
/// ```
/// use node_sdk::{Html, Node, ServiceError, Text};
///
/// async fn robots() -> Result<Text<&'static str>, ServiceError> {
///     Ok(Text("User-agent: *\nDisallow: /\n"))
/// }
///
/// async fn page() -> Result<Html<String>, ServiceError> {
///     Ok(Html("<h1>Hello!</h1>".to_owned()))
/// }
///
/// let node = Node::builder("pages")
///     .public_routes()
///     .route("GET/robots.txt", robots)
///     .route("GET/page", page);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// A page of HTML as the body of the response. A caller that is a node gets it as a JSON text.
/// Texts of others that stand in the page have to be escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Html<T>(pub T);

impl<T: AsRef<str> + Send> Respond for Text<T> {
    fn headers(&self, headers: &mut ResponseHeaders) {
        headers.append("content-type", "text/plain; charset=utf-8");
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self.0.as_ref())
    }
}

impl<T: AsRef<str> + Send> Respond for Html<T> {
    fn headers(&self, headers: &mut ResponseHeaders) {
        headers.append("content-type", "text/html; charset=utf-8");
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self.0.as_ref())
    }
}
