//! What a handler can return as a result.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;

use bytes::{Bytes, BytesMut};
use protocol::ResponseHeaders;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::ServiceError;
use crate::handler::arguments::extension::ExtensionValue;
use crate::handler::call_stream::Parts;
use crate::handler::http::Wants;
use net::buffers::with_scratch;

/// A result with a status. Anything that has a JSON form is a result with status 200.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a handler",
    note = "results are anything that is `Serialize`, `Created<T>`, `Accepted<T>`, `NoContent`, `Streaming<S>`, `ByteStream`, \
            `HttpResponse<T>`, `Redirect`, `Html<T>` and `Text<T>`; \
            add `#[derive(serde::Serialize)]` to `{Self}`"
)]
pub trait Respond: Send {
    /// An HTTP status code, 200 to 599. Callers that are nodes take one of 400 or more for an
    /// error.
    fn status(&self) -> u16 {
        200
    }

    /// Adds the header fields of the response. Called only if a gateway calls that takes them.
    fn headers(&self, _headers: &mut ResponseHeaders) {}

    /// Says that the result has header fields: a gateway takes them only of routes that
    /// [want](crate::FromCall::wants) the request of its client.
    fn wants(_wants: &mut Wants)
    where
        Self: Sized,
    {
    }

    /// Appends the result as JSON text.
    ///
    /// # Errors
    /// When it has no JSON form.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;

    /// The raw bytes that are the body, if it is not JSON and not a text.
    #[doc(hidden)]
    fn attachment(&self) -> Option<&Bytes> {
        None
    }

    /// The stream of its parts, if the response comes in parts.
    #[doc(hidden)]
    fn into_parts(self) -> Result<Parts, Self>
    where
        Self: Sized,
    {
        Err(self)
    }

    /// The value that a guard hands on.
    #[doc(hidden)]
    fn extension(&self) -> Option<ExtensionValue> {
        None
    }

    /// The type of that value.
    #[doc(hidden)]
    fn provides() -> Option<TypeId>
    where
        Self: Sized,
    {
        None
    }
}

/// 201: something has been created.
///
/// ```
/// use node_sdk::{Created, Node, ServiceError};
///
/// async fn add() -> Result<Created<u64>, ServiceError> {
///     Ok(Created(7))
/// }
///
/// let node = Node::builder("goods").route("POST/goods", add);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created<T>(pub T);

/// 202: the request is accepted and will be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted<T>(pub T);

/// 204: the request is carried out, and there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoContent;

impl<T: Serialize + Send> Respond for T {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self)
    }
}

impl<T: Serialize + Send> Respond for Created<T> {
    fn status(&self) -> u16 {
        201
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, &self.0)
    }
}

impl<T: Serialize + Send> Respond for Accepted<T> {
    fn status(&self) -> u16 {
        202
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, &self.0)
    }
}

impl Respond for NoContent {
    fn status(&self) -> u16 {
        204
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, &())
    }
}

/// Appends a value as JSON text.
pub(crate) fn append_json(value: &impl Serialize, out: &mut BytesMut) -> Result<(), serde_json::Error> {
    with_scratch(|scratch| {
        serde_json::to_writer(&mut *scratch, value)?;
        out.extend_from_slice(scratch);
        Ok(())
    })
}

/// Appends the result as JSON text.
pub(crate) fn append(result: &impl Respond, out: &mut BytesMut) -> Result<(), serde_json::Error> {
    // serde writes many small pieces, for which a plain vector is fastest.
    with_scratch(|scratch| {
        result.write(scratch)?;
        out.extend_from_slice(scratch);
        Ok(())
    })
}

/// The response of a handler, as the layers around it see it. They return or replace it. A handler
/// whose results are of several types returns it, too:
///
/// ```
/// use node_sdk::{Html, Outcome, Params, Redirect, ServiceError};
///
/// async fn page(Params(is_known): Params<bool>) -> Result<Outcome, ServiceError> {
///     match is_known {
///         true => Outcome::from_result(Html("<h1>Hello!</h1>")),
///         false => Outcome::from_result(Redirect::to("/")),
///     }
/// }
/// ```
pub struct Outcome {
    status: u16,
    headers: ResponseHeaders,
    attachment: Option<Bytes>,
    body: OutcomeBody,
    extension: Option<ExtensionValue>,
}

enum OutcomeBody {
    Json(Box<RawValue>),
    Parts(Parts),
}

impl Outcome {
    /// A response with this result.
    ///
    /// # Errors
    /// 500 when the result has no JSON form.
    pub fn from_result(result: impl Respond) -> Result<Self, ServiceError> {
        let (status, extension, mut headers) = (result.status(), result.extension(), ResponseHeaders::NONE);
        result.headers(&mut headers);
        let attachment = result.attachment().cloned();
        let body = match result.into_parts() {
            Ok(parts) => OutcomeBody::Parts(parts),
            Err(result) => {
                let no_json = |error| ServiceError::internal(format!("the result has no JSON form: {error}"));
                let mut text = Vec::new();
                result.write(&mut text).map_err(no_json)?;
                OutcomeBody::Json(serde_json::from_slice(&text).map_err(no_json)?)
            }
        };
        Ok(Self { status, headers, attachment, body, extension })
    }

    /// An HTTP status code, 200 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Sets a header field, in place of one of the same name. Gateways give it to their clients.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.set(name, value);
        self
    }

    /// The value that a guard hands on.
    pub(crate) fn into_extension(self) -> Option<ExtensionValue> {
        self.extension
    }

    /// The result as JSON; `None` when it comes in parts, which do not exist yet.
    pub fn body(&self) -> Option<&RawValue> {
        match &self.body {
            OutcomeBody::Json(body) => Some(body),
            OutcomeBody::Parts(_) => None,
        }
    }
}

impl Respond for Outcome {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self, headers: &mut ResponseHeaders) {
        self.headers.clone().into_iter().for_each(|(name, value)| headers.append(name, value));
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }

    fn attachment(&self) -> Option<&Bytes> {
        self.attachment.as_ref()
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        out.extend_from_slice(self.body().map_or("null", RawValue::get).as_bytes());
        Ok(())
    }

    fn into_parts(self) -> Result<Parts, Self> {
        match self.body {
            OutcomeBody::Parts(parts) => Ok(parts.with_head(self.status, self.headers)),
            OutcomeBody::Json(_) => Err(self),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body().map_or("parts", RawValue::get);
        f.debug_struct("Outcome").field("status", &self.status).field("body", &body).finish()
    }
}
