//! Bodies of both versions of HTTP. Pure.

use bytes::Bytes;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    Empty,
    /// The body ends after this many bytes.
    Length(u64),
    /// The body ends after the last chunk.
    Chunked,
    /// The body ends with the connection: responses only.
    Close,
}

/// The next piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The end, with the trailers of a chunked body.
    End(Bytes),
    /// More bytes are needed.
    More,
}
