//! Frames: a packet is JSON text followed by `¶`, the two bytes `C2 B6`.
//!
//! It must not read what a packet says: it tells only where one ends, and which pieces are one.

mod attachment;
mod pieces;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr_iter;
use thiserror::Error;

use self::attachment::attached_bytes;
pub use self::attachment::{attach, split_attachment, write_attached};
pub use self::pieces::{MAX_JOINED_BYTES, MAX_PIECES};
use self::pieces::{PieceVerdict, Pieces};

/// The two bytes that end every packet: `¶` (U+00B6) in UTF-8.
pub const DELIMITER: [u8; 2] = [0xC2, 0xB6];

/// How `¶` is written inside a JSON string, the only place of valid JSON where it can stand.
const ESCAPED_DELIMITER: &[u8] = b"\\u00b6";

/// A frame is longer than the limit. The rest of the stream cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a frame is larger than {max_frame_bytes} bytes")]
pub struct FrameTooLarge {
    /// The limit.
    pub max_frame_bytes: usize,
}

/// Cuts a byte stream into frames, in whatever pieces the bytes arrive.
///
/// It holds at most `max_frame_bytes` of an unfinished frame, and what the last read added. The
/// limit applies before the delimiter has arrived. Each byte is searched once, because the decoder
/// remembers how far it has searched.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that are known to hold no delimiter.
    searched: usize,
    max_frame_bytes: usize,
    /// The pieces of the packet at the front, for a decoder that joins them.
    pieces: Option<Pieces>,
    /// How many pieces the last frame was joined of.
    last_pieces: usize,
    /// Whether raw bytes may follow a frame.
    takes_attachments: bool,
    /// The length of the frame at the front with its delimiter and the bytes behind that, while
    /// these have not all arrived.
    awaited: Option<usize>,
}

impl FrameDecoder {
    /// A decoder of frames of up to `max_frame_bytes`, not counting the delimiter.
    pub fn new(max_frame_bytes: usize) -> Self {
        let (takes_attachments, awaited) = (false, None);
        let buffer = BytesMut::new();
        Self { buffer, searched: 0, max_frame_bytes, pieces: None, last_pieces: 0, takes_attachments, awaited }
    }

    /// From now on, a frame has the raw bytes that it says follow it. [`split_attachment`] takes it
    /// apart. The limit of frames holds for both together.
    pub fn take_attachments(&mut self) {
        self.takes_attachments = true;
    }

    /// Sets whether frames are joined that a peer of version 1 has cut by a `¶` in a text which it
    /// did not escape. Up to [`MAX_PIECES`] pieces, of [`MAX_JOINED_BYTES`] together, wait in the
    /// buffer for the next.
    pub fn join_pieces(&mut self, joins: bool) {
        if joins != self.pieces.is_some() {
            self.pieces = joins.then(Pieces::default);
            self.searched = 0;
        }
    }

    /// How many pieces the last frame was joined of: 1 for all but packets that were cut.
    pub fn pieces(&self) -> usize {
        self.last_pieces
    }

    /// Waits no longer for the rest of a packet that was cut, and gives the first piece of it. The
    /// bytes behind that are the next frame, if it is whole. `None` when there is no piece.
    pub fn give_up_pieces(&mut self) -> Option<Bytes> {
        let pieces = self.pieces.as_mut().filter(|pieces| pieces.count > 0)?;
        let end = std::mem::take(pieces).first_end;
        Some(self.split_frame(end))
    }

    /// The buffer for the next bytes of the peer. Only append to it.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame without its delimiter, blank ones included, or `None` when more bytes
    /// are needed.
    ///
    /// # Errors
    /// [`FrameTooLarge`] as soon as it is certain. Every later call returns it too.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        if let Some(total) = self.awaited {
            return self.attached_frame(total);
        }
        // The last byte searched may have been the first half of a delimiter.
        let from = self.searched.saturating_sub(1);
        match find_delimiter(&self.buffer[from..]) {
            Some(at) if self.pieces.is_none() && from + at <= self.max_frame_bytes => self.whole_frame(from + at),
            found => self.next_rare_frame(found.map(|at| from + at)),
        }
    }

    /// As [`next_frame`](Self::next_frame), when there is no whole frame, or one that is too large,
    /// or pieces are joined. `found` is the first delimiter.
    fn next_rare_frame(&mut self, found: Option<usize>) -> Result<Option<Bytes>, FrameTooLarge> {
        let too_large = FrameTooLarge { max_frame_bytes: self.max_frame_bytes };
        let mut next = found;
        while let Some(end) = next {
            if end > self.max_frame_bytes {
                return self.give_up_pieces().map(Some).ok_or(too_large);
            }
            let Some(pieces) = &mut self.pieces else { return self.whole_frame(end) };
            let verdict = pieces.judge(&self.buffer[..end]);
            pieces.count += 1;
            let end = match verdict {
                PieceVerdict::Cut => {
                    if pieces.count == 1 {
                        pieces.first_end = end;
                    }
                    let from = end + DELIMITER.len();
                    next = find_delimiter(&self.buffer[from..]).map(|at| from + at);
                    continue;
                }
                PieceVerdict::Whole => end,
                PieceVerdict::Broken => pieces.first_end,
            };
            let count = if verdict == PieceVerdict::Whole { pieces.count } else { 1 };
            *pieces = Pieces::default();
            if count == 1 {
                return self.whole_frame(end);
            }
            let frame = self.split_frame(end);
            self.last_pieces = count;
            return Ok(Some(frame));
        }
        let half_delimiter = usize::from(self.buffer.last() == Some(&DELIMITER[0]));
        if self.buffer.len() - half_delimiter > MAX_JOINED_BYTES.min(self.max_frame_bytes)
            && let Some(piece) = self.give_up_pieces()
        {
            return Ok(Some(piece));
        }
        self.searched = self.buffer.len();
        if self.buffer.len() - half_delimiter > self.max_frame_bytes {
            return Err(too_large);
        }
        Ok(None)
    }

    /// The frame that ends at `end`, with the bytes that it says follow it once they are there.
    #[inline]
    fn whole_frame(&mut self, end: usize) -> Result<Option<Bytes>, FrameTooLarge> {
        match attached_bytes(&self.buffer[..end]).filter(|_| self.takes_attachments) {
            None => Ok(Some(self.split_frame(end))),
            Some(bytes) => self.attached_frame(bytes.saturating_add(end + DELIMITER.len())),
        }
    }

    /// The frame at the front, which has `total` bytes with its delimiter and what follows that.
    fn attached_frame(&mut self, total: usize) -> Result<Option<Bytes>, FrameTooLarge> {
        self.awaited = Some(total);
        if total > self.max_frame_bytes {
            return Err(FrameTooLarge { max_frame_bytes: self.max_frame_bytes });
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        (self.awaited, self.searched, self.last_pieces) = (None, 0, 1);
        Ok(Some(self.buffer.split_to(total).freeze()))
    }

    #[inline]
    fn split_frame(&mut self, end: usize) -> Bytes {
        let frame = self.buffer.split_to(end).freeze();
        self.buffer.advance(DELIMITER.len());
        (self.searched, self.last_pieces) = (0, 1);
        frame
    }

    /// How many bytes are missing of the raw ones that follow the frame at the front; `None` if it
    /// does not say that any follow.
    pub fn missing_bytes(&self) -> Option<usize> {
        self.awaited.map(|total| total.saturating_sub(self.buffer.len())).filter(|missing| *missing > 0)
    }

    /// Whether a frame has begun and not ended. Line ends between packets do not begin a frame.
    pub fn is_mid_frame(&self) -> bool {
        // This many bytes are looked at, so that the cost is constant. A peer that sends more white
        // space counts as one that is slow to send a frame.
        const LINE_END_BYTES: usize = 16;
        self.buffer.len() > LINE_END_BYTES || !is_blank(&self.buffer)
    }

    /// The first bytes of an unfinished frame, from which a caller can guess the peer's protocol.
    pub fn unfinished(&self) -> &[u8] {
        &self.buffer
    }
}

/// Whether a frame is nothing but white space, as some peers send between packets.
pub fn is_blank(frame: &[u8]) -> bool {
    frame.trim_ascii_start().is_empty()
}

/// Ends the packet that begins at `start` of `out`: escapes each `¶` in it and appends the
/// delimiter.
///
/// The packet must be one JSON value. A raw `¶` then stands inside a string, where its escape means
/// the same.
pub fn seal(out: &mut BytesMut, start: usize) {
    if find_delimiter(&out[start..]).is_some() {
        let packet = out.split_off(start);
        let mut rest = &packet[..];
        while let Some(at) = find_delimiter(rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(ESCAPED_DELIMITER);
            rest = &rest[at + DELIMITER.len()..];
        }
        out.extend_from_slice(rest);
    }
    out.extend_from_slice(&DELIMITER);
}

/// Searches for `C2`, which is rare even in Korean text, as it is not a continuation byte. `B6` is
/// common there.
fn find_delimiter(bytes: &[u8]) -> Option<usize> {
    memchr_iter(DELIMITER[0], bytes).find(|&at| bytes.get(at + 1) == Some(&DELIMITER[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&[u8]], max: usize, expected: Result<&[&str], FrameTooLarge>) {
        let mut decoder = FrameDecoder::new(max);
        let mut frames = Vec::new();
        let result = chunks.iter().try_for_each(|chunk| {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(String::from_utf8_lossy(&frame).into_owned());
            }
            Ok(())
        });
        assert_eq!(result.map(|()| frames), expected.map(|list| list.iter().map(|&s| s.to_owned()).collect()));
    }

    #[test]
    fn frames_are_cut_at_the_byte_pair() {
        check(&[b"{}\xC2\xB6"], 9, Ok(&["{}"]));
        check(&[b"{}\xC2", b"\xB6[]\xC2\xB6"], 9, Ok(&["{}", "[]"]));
        check(&[b"\xC2\xB6\xC2\xB6"], 9, Ok(&["", ""]));
        check(&["가능¶".as_bytes(), "한¶글".as_bytes()], 9, Ok(&["가능", "한"]));
        // U+AD76 ends in B6, the second byte of the delimiter.
        check(&["\u{AD76}¶".as_bytes()], 9, Ok(&["\u{AD76}"]));
        check(&[b"\xC2", b"\xC2", b"\xB6"], 9, Ok(&["\u{FFFD}"]));
    }

    #[test]
    fn the_limit_is_exact_and_holds_before_the_delimiter() {
        let large = Err(FrameTooLarge { max_frame_bytes: 4 });
        check(&[b"abc\xC2\xB6"], 4, Ok(&["abc"]));
        check(&[b"abcd\xC2\xB6"], 4, Ok(&["abcd"]));
        check(&[b"abcde\xC2\xB6"], 4, large);
        check(&[b"abcd"], 4, Ok(&[]));
        check(&[b"abcd\xC2"], 4, Ok(&[]));
        check(&[b"abcde"], 4, large);
    }

    #[test]
    fn fr16_each_byte_is_searched_once() {
        let mut decoder = FrameDecoder::new(65_536);
        for fed in 1..=65_536 {
            decoder.buffer().extend_from_slice(b"x");
            assert_eq!(decoder.next_frame(), Ok(None));
            assert_eq!(decoder.searched, fed, "the next search begins where this one ended");
        }
    }

    #[test]
    fn line_ends_do_not_begin_a_frame() {
        let mut decoder = FrameDecoder::new(100);
        for (bytes, mid_frame) in [("", false), ("\r\n", false), (" {", true)] {
            decoder.buffer().extend_from_slice(bytes.as_bytes());
            assert_eq!(decoder.is_mid_frame(), mid_frame, "{bytes:?}");
        }
    }

    #[test]
    fn sealing_escapes_each_delimiter_once() {
        for (packet, sealed) in [
            ("", "¶"),
            (r#"{"a":"b"}"#, r#"{"a":"b"}¶"#),
            (r#"["¶","x¶¶"]"#, r#"["\u00b6","x\u00b6\u00b6"]¶"#),
            (r#"["Â","가"]"#, r#"["Â","가"]¶"#),
        ] {
            let mut out = BytesMut::from("before¶");
            let start = out.len();
            out.extend_from_slice(packet.as_bytes());
            seal(&mut out, start);
            assert_eq!(&out[start..], sealed.as_bytes());
            assert_eq!(&out[..start], "before¶".as_bytes());
        }
    }
}
