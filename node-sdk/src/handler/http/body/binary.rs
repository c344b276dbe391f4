//! Bodies that are bytes: of requests as they were sent, and of responses.

use bytes::Bytes;
use protocol::ResponseHeaders;

use crate::error::ServiceError;
use crate::handler::http::Wants;
use crate::handler::respond::Respond;
use crate::handler::{FromCall, IncomingCall};

/// The body of a client's request, byte for byte as it was sent and of any media type: for
/// signatures over a body, and for uploads that fit the limit of the
/// [route](crate::NodeBuilder::max_body). The parameters of the path and of the query are the
/// arguments then, for [`Params`](crate::Params) and [`Path`](crate::Path). If a node makes the
/// call itself, it is the JSON text of the arguments.
///
/// ```
/// use node_sdk::{Headers, Node, RawBody, ServiceError};
///
/// # fn is_signature(_signature: &str, _body: &[u8]) -> bool { true }
/// async fn paid(headers: Headers, RawBody(body): RawBody) -> Result<(), ServiceError> {
///     let signature = headers.get("x-signature").unwrap_or_default();
///     if !is_signature(signature, &body) {
///         return Err(ServiceError::new(401, "bad_signature", "the signature is wrong"));
///     }
///     Ok(())
/// }
///
/// let node = Node::builder("shop").route("POST/paid", paid).public().headers(["x-signature"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBody(pub Bytes);

/// Bytes as the body of the response, `application/octet-stream` unless
/// [`content_type`](crate::HttpResponse::content_type) says otherwise. With the rest of the
/// response they have at most 8 MiB. A caller that is a node is refused with 406 `bytes`.
///
/// ```
/// use node_sdk::{Binary, HttpResponse, Node, ServiceError};
///
/// async fn logo() -> Result<HttpResponse<Binary>, ServiceError> {
///     let image = vec![0x89, b'P', b'N', b'G'];
///     Ok(HttpResponse::new(Binary(image.into())).content_type("image/png"))
/// }
///
/// let node = Node::builder("shop").route("GET/logo", logo).public();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary(pub Bytes);

impl FromCall for RawBody {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let text = || Bytes::from(call.params().into_owned());
        Ok(Self(call.body.map_or_else(text, Bytes::copy_from_slice)))
    }

    fn wants(wants: &mut Wants) {
        wants.raw_body();
    }
}

impl Respond for Binary {
    fn headers(&self, headers: &mut ResponseHeaders) {
        headers.append("content-type", "application/octet-stream");
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }

    fn attachment(&self) -> Option<&Bytes> {
        Some(&self.0)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, &())
    }
}
