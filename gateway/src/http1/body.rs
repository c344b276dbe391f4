//! Reads the body of a message from a stream of bytes. Pure.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::line_ends::LineEnds;
use crate::message::body::{Framing, Piece};

/// Bytes of a chunk's size line, extensions included.
const MAX_SIZE_LINE_BYTES: usize = 1024;
/// Bytes of all trailers together: they are few.
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// Reads one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BodyReader {
    /// This many bytes of the body are missing.
    Length(u64),
    Chunked(ChunkState, LineEnds),
    /// The body ends with the connection.
    Close,
    /// The end has been read.
    Done,
}

/// The position of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkState {
    /// The reader is in the line with the size.
    Size,
    /// The reader is in the data, of which this many bytes are still to come.
    Data(u64),
    /// The reader is in the line end after the data.
    DataEnd,
    /// The reader is behind the last chunk.
    Trailers,
}

/// A malformed body, described for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedBody(pub(crate) &'static str);

impl BodyReader {
    /// A reader for the body of a request, or with liberal line ends for that of a response.
    pub(crate) fn new(framing: Framing, line_ends: LineEnds) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(bytes) => Self::Length(bytes),
            Framing::Chunked => Self::Chunked(ChunkState::Size, line_ends),
            Framing::Close => Self::Close,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Length(0))
    }

    /// Takes the next piece from `buffer`.
    ///
    /// # Errors
    /// [`MalformedBody`] when no later byte can be understood.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, MalformedBody> {
        loop {
            let (at, line_ends) = match self {
                Self::Done | Self::Length(0) => {
                    *self = Self::Done;
                    return Ok(Piece::End(Bytes::new()));
                }
                Self::Length(left) => return Ok(split_data(buffer, left)),
                Self::Close if buffer.is_empty() => return Ok(Piece::More),
                Self::Close => return Ok(Piece::Data(buffer.split().freeze())),
                Self::Chunked(at, line_ends) => (at, *line_ends),
            };
            match at {
                ChunkState::Size => {
                    let Some(line) = line(buffer, MAX_SIZE_LINE_BYTES, line_ends)? else { return Ok(Piece::More) };
                    *at = match chunk_size(&buffer[..line.text], line_ends)? {
                        0 => ChunkState::Trailers,
                        size => ChunkState::Data(size),
                    };
                    // The empty line after the last chunk, or its trailers, are read together with
                    // the line before.
                    buffer.advance(line.whole);
                }
                ChunkState::Data(0) => *at = ChunkState::DataEnd,
                ChunkState::Data(left) => return Ok(split_data(buffer, left)),
                ChunkState::DataEnd => match &**buffer {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *at = ChunkState::Size;
                    }
                    [b'\n', ..] if line_ends == LineEnds::Liberal => {
                        buffer.advance(1);
                        *at = ChunkState::Size;
                    }
                    [] | [b'\r'] => return Ok(Piece::More),
                    _ => return Err(MalformedBody("a chunk does not end where its size says")),
                },
                ChunkState::Trailers => {
                    let Some(trailers) = trailers(buffer, line_ends)? else { return Ok(Piece::More) };
                    *self = Self::Done;
                    return Ok(Piece::End(trailers));
                }
            }
        }
    }
}

/// Takes as many of the remaining bytes as have arrived.
fn split_data(buffer: &mut BytesMut, left: &mut u64) -> Piece {
    let bytes = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    if bytes == 0 {
        return Piece::More;
    }
    *left -= bytes as u64;
    Piece::Data(buffer.split_to(bytes).freeze())
}

/// How long a line is, without its end and with it.
#[derive(Clone, Copy)]
struct LineLength {
    text: usize,
    whole: usize,
}

/// How long the first line is.
fn line(buffer: &[u8], limit: usize, line_ends: LineEnds) -> Result<Option<LineLength>, MalformedBody> {
    const TOO_LONG: MalformedBody = MalformedBody("a chunk's size, or a trailer, is too long");
    match memchr::memchr(b'\n', buffer) {
        Some(at) => match line_ends.text_end(buffer, 0, at) {
            None => Err(MalformedBody("lines must end with CR and LF, not with LF alone")),
            Some(text) if text > limit => Err(TOO_LONG),
            Some(text) => Ok(Some(LineLength { text, whole: at + 1 })),
        },
        None if buffer.len() > limit + 1 => Err(TOO_LONG),
        None => Ok(None),
    }
}

/// The size of a chunk. Extensions after a semicolon are ignored (RFC 9112, 7.1.1), but must be
/// plain text. Some servers fill the line up with spaces.
fn chunk_size(line: &[u8], line_ends: LineEnds) -> Result<u64, MalformedBody> {
    let line = if line_ends == LineEnds::Liberal { line.trim_ascii_end() } else { line };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Too few digits to overflow.
    if !(1..=15).contains(&digits) {
        return Err(MalformedBody("a chunk's size must be 1 to 15 hexadecimal digits"));
    }
    let (size, extension) = line.split_at(digits);
    let plain = |byte: &u8| (b' '..=b'~').contains(byte) || *byte == b'\t' || *byte >= 0x80;
    if !(extension.is_empty() || extension[0] == b';') || !extension.iter().all(plain) {
        return Err(MalformedBody("a chunk's size is followed by invalid characters"));
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    size.ok_or(MalformedBody("a chunk's size is not a number"))
}

/// The lines before the empty one that ends the message, with their line ends.
fn trailers(buffer: &mut BytesMut, line_ends: LineEnds) -> Result<Option<Bytes>, MalformedBody> {
    let mut end = 0;
    while let Some(line) = line(&buffer[end..], MAX_TRAILER_BYTES, line_ends)? {
        if line.text == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            // With the empty line, as the parser needs it. Broken lines stay in the buffer and are
            // parsed again.
            let Ok(httparse::Status::Complete(_)) = httparse::parse_headers(&buffer[..end + line.whole], &mut fields)
            else {
                return Err(MalformedBody("a trailer is not a header field"));
            };
            let lines = buffer.split_to(end).freeze();
            buffer.advance(line.whole);
            return Ok(Some(lines));
        }
        end += line.whole;
        if end > MAX_TRAILER_BYTES {
            return Err(MalformedBody("the body has too many trailers"));
        }
    }
    Ok(None)
}

impl fmt::Display for MalformedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `bytes` at once or byte by byte: the data, the trailers, and the bytes left over.
    #[track_caller]
    fn check(framing: Framing, bytes: &[u8], expected: Result<(&str, &str, &str), &str>) {
        check_as(LineEnds::Strict, framing, bytes, expected);
    }

    #[track_caller]
    fn check_as(ends: LineEnds, framing: Framing, bytes: &[u8], expected: Result<(&str, &str, &str), &str>) {
        for step in [bytes.len().max(1), 1] {
            let mut reader = BodyReader::new(framing, ends);
            let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
            let mut chunks = bytes.chunks(step);
            let seen = loop {
                match reader.next(&mut buffer) {
                    Ok(Piece::Data(piece)) => data.extend_from_slice(&piece),
                    Ok(Piece::End(trailers)) => break Ok(trailers),
                    Ok(Piece::More) => match chunks.next() {
                        Some(chunk) => buffer.extend_from_slice(chunk),
                        None => break Err("more is needed"),
                    },
                    Err(MalformedBody(why)) => break Err(why),
                }
            };
            let rest = [&*buffer, &chunks.collect::<Vec<_>>().concat()].concat();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let seen = seen.map(|trailers| (text(&data), text(&trailers), text(&rest)));
            let seen = seen.as_ref().map(|(data, trailers, rest)| (&**data, &**trailers, &**rest)).map_err(|why| *why);
            match (seen, expected) {
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (seen, expected) => assert_eq!(seen, expected),
            }
        }
    }

    #[test]
    fn bodies_end_at_their_stated_end() {
        check(Framing::Empty, b"GET", Ok(("", "", "GET")));
        check(Framing::Length(3), b"abcGET", Ok(("abc", "", "GET")));
        check(Framing::Length(3), b"ab", Err("more is needed"));
        check(Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", Ok(("abc", "", "GET")));
        check(Framing::Chunked, b"00A\r\n0123456789\r\n1;a=b\r\nx\r\n0\r\n\r\n", Ok(("0123456789x", "", "")));
        check(Framing::Chunked, b"0\r\nDigest: x\r\nB: c\r\n\r\nGET", Ok(("", "Digest: x\r\nB: c\r\n", "GET")));
        check(Framing::Chunked, b"3\r\nabc", Err("more is needed"));
        check(Framing::Close, b"abc", Err("more is needed"));
    }

    #[test]
    fn a15_chunks_of_servers_may_end_with_line_feeds_and_be_filled_up_with_spaces() {
        let check = |bytes: &[u8], expected| check_as(LineEnds::Liberal, Framing::Chunked, bytes, expected);
        check(b"3\r\nabc\r\n0\r\n\r\nGET", Ok(("abc", "", "GET")));
        check(b"3\nabc\n0\n\nGET", Ok(("abc", "", "GET")));
        check(b"3  \r\nabc\n0 \n\r\nGET", Ok(("abc", "", "GET")));
        check(b"0\nDigest: x\n\nGET", Ok(("", "Digest: x\n", "GET")));
        check(b"2\nabc\n", Err("does not end"));
        check(b"+2\nab\n", Err("a chunk's size"));
        check(b"2 3\nab\n", Err("a chunk's size"));
        check(b"\nab\n", Err("a chunk's size"));
    }

    #[test]
    fn gh1_chunks_follow_the_rfc() {
        for broken in [
            "0x2\r\nab\r\n",
            "+2\r\nab\r\n",
            " 2\r\nab\r\n",
            "2 \r\nab\r\n",
            "\r\nab\r\n",
            "ffffffffffffffff\r\n",
            "10000000000000002\r\nab\r\n",
            "2;a\0\r\nab\r\n",
        ] {
            check(Framing::Chunked, broken.as_bytes(), Err("a chunk's size"));
        }
        check(Framing::Chunked, b"2\nab\r\n", Err("LF alone"));
        check(Framing::Chunked, b"2\r\nab\n0\r\n\r\n", Err("does not end"));
        check(Framing::Chunked, b"2\r\nabc\r\n", Err("does not end"));
        check(Framing::Chunked, b"0\r\n\n", Err("LF alone"));
        check(Framing::Chunked, b"0\r\na b: c\r\n\r\n", Err("a trailer is not a header field"));
        let long = |bytes: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(bytes - 2));
        check(Framing::Chunked, long(MAX_SIZE_LINE_BYTES).as_bytes(), Ok(("x", "", "")));
        check(Framing::Chunked, long(20_000).as_bytes(), Err("too long"));
        let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(4000));
        check(Framing::Chunked, many.as_bytes(), Err("too many trailers"));
    }
}
