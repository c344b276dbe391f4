//! Bodies, whichever version of HTTP they come in. Pure.

use bytes::Bytes;

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After this many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection: responses only.
    Close,
}

/// What is next in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The end, with the lines that follow a chunked body.
    End(Bytes),
    /// More bytes are needed.
    More,
}
