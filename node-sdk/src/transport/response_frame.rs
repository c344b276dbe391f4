//! The frame of a response, read once for its key and for where its result is.
//!
//! It must not parse an unusual response: `client::call::response` does.

use bytes::Bytes;
use protocol::{split_attachment, success_parts};

/// The frame of a response, and where its result is if it is a usual success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseFrame {
    frame: Bytes,
    /// Where the result begins; 0 if the frame is not a usual success. A frame has at most 8 MiB.
    result_at: u32,
    /// The raw bytes that follow the frame. Boxed, because most responses have none.
    attachment: Option<Box<Bytes>>,
}

impl ResponseFrame {
    /// The key of the call and the frame, if it is a success in the form that our nodes write.
    ///
    /// # Errors
    /// The frame is anything else: an error, a packet of version 1, a part of a stream.
    pub(crate) fn parse_success(frame: Bytes) -> Result<(u64, Self), Bytes> {
        let Some((key, result)) = success_parts(&frame) else { return Err(frame) };
        // One byte is behind the result.
        let result_at = u32::try_from(frame.len() - 1 - result.len()).unwrap_or(0);
        Ok((key, Self { frame, result_at, attachment: None }))
    }

    /// The frame without its delimiter.
    pub(crate) fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The JSON text of the result, if the frame is a success in the form that our nodes write.
    pub(crate) fn result(&self) -> Option<&[u8]> {
        let begin = usize::try_from(self.result_at).ok().filter(|begin| *begin > 0)?;
        self.frame.get(begin..self.frame.len() - 1)
    }

    /// Whether the frame is a success in the form that our nodes write.
    pub(crate) fn is_success(&self) -> bool {
        self.result_at > 0
    }

    /// A response that is known not to be a usual success.
    pub(crate) fn other(frame: Bytes) -> Self {
        let (packet, Some(bytes)) = split_attachment(&frame) else {
            return Self { frame, result_at: 0, attachment: None };
        };
        let attachment = Some(Box::new(frame.slice_ref(bytes)));
        Self { frame: frame.slice_ref(packet), result_at: 0, attachment }
    }

    /// A part of a stream, with the raw bytes that it may have.
    pub(crate) fn of_part(frame: Bytes) -> Self {
        Self { frame, result_at: 0, attachment: None }
    }

    /// The raw bytes that follow the frame.
    pub(crate) fn attachment(&self) -> Option<&Bytes> {
        self.attachment.as_deref()
    }

    pub(crate) fn into_frame(self) -> Bytes {
        self.frame
    }
}

impl From<Bytes> for ResponseFrame {
    fn from(frame: Bytes) -> Self {
        Self::parse_success(frame).map_or_else(Self::other, |(_key, frame)| frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_success_knows_its_result() {
        let check = |frame: &'static str, result: Option<&str>| {
            let read = ResponseFrame::from(Bytes::from_static(frame.as_bytes()));
            assert_eq!(read.result(), result.map(str::as_bytes), "{frame}");
            assert_eq!((read.is_success(), &read.frame()[..]), (result.is_some(), frame.as_bytes()), "{frame}");
        };
        check(r#"{"key":7,"$":{},"params":[1]}"#, Some("[1]"));
        check(r#"{"key":7,"$":{},"params":}"#, Some(""));
        check(r#"{"key":7,"$":{"s":404},"params":1}"#, None);
        check(r#"{"key":7,"errorcode":0}"#, None);
        check("null", None);
        check("", None);
    }
}
