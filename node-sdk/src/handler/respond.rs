//! What a handler can give as a result.

use bytes::BytesMut;
use serde::Serialize;

use crate::handler::stream::Parts;
use crate::scratch::with_scratch;

/// A result with its status: anything that has a JSON form is one with 200.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a handler",
    note = "results are anything that is `Serialize`, `Created<T>`, `Accepted<T>`, `NoContent` and `Streaming<S>`; \
            add `#[derive(serde::Serialize)]` to `{Self}`"
)]
pub trait Respond: Send {
    /// In HTTP's numbers, 200 to 299.
    fn status(&self) -> u16 {
        200
    }

    /// Appends the result as JSON text.
    ///
    /// # Errors
    /// When it has no JSON form.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;

    /// What it is made of, if it is an answer in parts.
    #[doc(hidden)]
    fn into_parts(self) -> Result<Parts, Self>
    where
        Self: Sized,
    {
        Err(self)
    }
}

/// 201: something new is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created<T>(pub T);

/// 202: it will be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted<T>(pub T);

/// 204: it is done, and there is nothing to say.
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
    // Results are written in many small pieces, for which a plain vector is best.
    with_scratch(|scratch| {
        result.write(scratch)?;
        out.extend_from_slice(scratch);
        Ok(())
    })
}
