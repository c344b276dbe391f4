//! The arguments of a call, as JSON text.

use serde::Serialize;

use crate::transport::write_queue::EnqueueError;
use net::buffers::with_scratch;

/// The arguments of a call.
#[derive(Clone, Copy)]
pub(crate) enum CallArguments<'a> {
    Value(&'a (dyn WriteJson + Sync)),
    /// JSON text.
    Text(&'a str),
}

/// A value of any type that can be written as JSON.
pub(crate) trait WriteJson {
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;
}

impl<T: Serialize> WriteJson for T {
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self)
    }
}

impl CallArguments<'_> {
    pub(super) fn with_text<R>(self, read: impl FnOnce(&str) -> Result<R, SubmitError>) -> Result<R, SubmitError> {
        let value = match self {
            Self::Text(text) => return read(text),
            Self::Value(value) => value,
        };
        with_scratch(|scratch| {
            value.write_json(scratch).map_err(SubmitError::Params)?;
            let text =
                std::str::from_utf8(scratch).map_err(|error| SubmitError::Params(serde::ser::Error::custom(error)))?;
            read(text)
        })
    }
}

impl std::fmt::Debug for CallArguments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "value",
            Self::Text(text) => text,
        })
    }
}

/// Why a connection did not take a call.
pub(super) enum SubmitError {
    Params(serde_json::Error),
    Connection(EnqueueError),
}
