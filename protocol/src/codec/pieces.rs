//! Packets that a version 1 writer has cut: it writes a `¶` inside of a text as it is, and so ends
//! the frame in the middle of the packet.

use memchr::memchr2;
use serde::de::IgnoredAny;

/// Maximum number of pieces of one packet. A text with more `¶` is not likely, and each piece makes
/// the reader parse those before it once more.
pub const MAX_PIECES: usize = 16;
/// Bytes of the pieces together: what version 1 readers take.
pub const MAX_JOINED_BYTES: usize = crate::LEGACY_READ_BYTES;

/// The kind of a frame, for a reader that joins pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceVerdict {
    /// A frame by itself, sound or not.
    Whole,
    /// The frame ends within a text, so more has to come.
    Cut,
    /// The pieces so far are not the beginning of a packet. The first of them is a frame by itself.
    Broken,
}

/// The pieces of a packet that have come so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pieces {
    /// Where the first piece ends.
    pub(crate) first_end: usize,
    /// How many there are.
    pub(crate) count: usize,
}

impl Pieces {
    /// Judges `frame`, which begins with the pieces so far, with a `¶` after each, and ends with
    /// one more.
    pub(crate) fn judge(self, frame: &[u8]) -> PieceVerdict {
        let may_go_on = frame.len() < MAX_JOINED_BYTES && self.count + 1 < MAX_PIECES;
        if self.count == 0 {
            let is_begin = may_go_on && frame.trim_ascii_start().starts_with(b"{") && ends_in_text(frame);
            return if is_begin { PieceVerdict::Cut } else { PieceVerdict::Whole };
        }
        if frame.len() > MAX_JOINED_BYTES {
            return PieceVerdict::Broken;
        }
        match serde_json::from_slice::<IgnoredAny>(frame) {
            Ok(_) => PieceVerdict::Whole,
            // A sound packet that follows a piece cannot complete it: its first quote ends the
            // text, and the rest is not JSON.
            Err(error) if error.is_eof() && may_go_on => PieceVerdict::Cut,
            Err(_) => PieceVerdict::Broken,
        }
    }
}

/// Whether a text has begun and not ended: the quotes that are not escaped are odd in number.
fn ends_in_text(json: &[u8]) -> bool {
    let (mut rest, mut open) = (json, false);
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let is_quote = rest[at] == b'"';
        open ^= is_quote;
        rest = rest.get(at + if is_quote { 1 } else { 2 }..).unwrap_or_default();
    }
    open
}

#[cfg(test)]
mod tests {
    use crate::FrameDecoder;

    /// Frames of a stream, with the number of pieces of each.
    #[track_caller]
    fn check(stream: &str, expected: &[(&str, usize)]) {
        for chunk in [1, 2, 7, usize::MAX] {
            let mut decoder = FrameDecoder::new(1 << 20);
            decoder.join_pieces(true);
            let mut seen = Vec::new();
            for bytes in stream.as_bytes().chunks(chunk) {
                decoder.buffer().extend_from_slice(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((String::from_utf8_lossy(&frame).into_owned(), decoder.pieces()));
                }
            }
            let expected: Vec<_> = expected.iter().map(|(frame, pieces)| ((*frame).to_owned(), *pieces)).collect();
            assert_eq!(seen, expected, "{stream} in pieces of {chunk}");
        }
    }

    #[test]
    fn e4_e5_a_packet_that_a_raw_delimiter_has_cut_is_joined() {
        check(r#"{"a":"x¶y"}¶{"b":1}¶"#, &[(r#"{"a":"x¶y"}"#, 2), (r#"{"b":1}"#, 1)]);
        check(r#"{"a":"¶","b":"¶¶"}¶"#, &[(r#"{"a":"¶","b":"¶¶"}"#, 4)]);
        check(r#"{"¶":[{"a":"\"¶"}]}¶"#, &[(r#"{"¶":[{"a":"\"¶"}]}"#, 3)]);
        check(r#"{"a":"¶{}¶null¶[1]¶"}¶null¶"#, &[(r#"{"a":"¶{}¶null¶[1]¶"}"#, 5), ("null", 1)]);
        check("{\"a\":\"\\\\\"}¶ {\"a\":\"¶\"}\n¶", &[("{\"a\":\"\\\\\"}", 1), (" {\"a\":\"¶\"}\n", 2)]);
    }

    #[test]
    fn e4_bytes_that_are_not_a_piece_are_a_frame_of_their_own() {
        check("{]¶{\"a\":¶x\"¶¶", &[("{]", 1), ("{\"a\":", 1), ("x\"", 1), ("", 1)]);
        // A packet that was torn, and a sound one behind it.
        check(r#"{"a":"x¶{"b":"y"}¶"#, &[(r#"{"a":"x"#, 1), (r#"{"b":"y"}"#, 1)]);
        check(r#"{"a":"x¶{"b":"y¶z"}¶"#, &[(r#"{"a":"x"#, 1), (r#"{"b":"y¶z"}"#, 2)]);
        check("{\"a\":\"x¶y\"¶z¶", &[("{\"a\":\"x", 1), ("y\"", 1), ("z", 1)]);
    }

    #[test]
    fn e4_pieces_have_limits() {
        for (count, joins) in [(super::MAX_PIECES, true), (super::MAX_PIECES + 1, false)] {
            let text = vec!["x"; count].join("¶");
            let frame = format!("{{\"a\":\"{text}\"}}");
            match joins {
                true => check(&format!("{frame}¶"), &[(&frame, count)]),
                false => {
                    let frames: Vec<_> = frame.split('¶').map(|piece| (piece, 1)).collect();
                    check(&format!("{frame}¶"), &frames);
                }
            }
        }
        let large = "x".repeat(super::MAX_JOINED_BYTES);
        let (begin, end) = (format!("{{\"a\":\"y{large}"), "\"}");
        check(&format!("{begin}¶{end}¶"), &[(&begin, 1), (end, 1)]);
        // Once they are too many bytes, the end is not waited for.
        let mut decoder = FrameDecoder::new(1 << 20);
        decoder.join_pieces(true);
        decoder.buffer().extend_from_slice(format!("{{\"a\":\"¶{large}").as_bytes());
        assert_eq!(decoder.next_frame().unwrap().as_deref(), Some(&b"{\"a\":\""[..]));
        assert_eq!(decoder.next_frame().unwrap(), None);
    }

    #[test]
    fn e4_pieces_that_wait_for_too_long_are_given_up() {
        let mut decoder = FrameDecoder::new(1 << 20);
        decoder.join_pieces(true);
        decoder.buffer().extend_from_slice("{\"a\":\"x¶{\"b\"".as_bytes());
        assert_eq!(decoder.next_frame().unwrap(), None);
        assert!(decoder.is_mid_frame());
        assert_eq!(decoder.give_up_pieces().as_deref(), Some(&b"{\"a\":\"x"[..]));
        assert_eq!(decoder.give_up_pieces(), None);
        decoder.buffer().extend_from_slice(":1}¶".as_bytes());
        assert_eq!(decoder.next_frame().unwrap().as_deref(), Some(&b"{\"b\":1}"[..]));
    }

    #[test]
    fn readers_of_version_2_join_nothing() {
        let mut decoder = FrameDecoder::new(1 << 20);
        decoder.buffer().extend_from_slice("{\"a\":\"x¶y\"}¶".as_bytes());
        assert_eq!(decoder.next_frame().unwrap().as_deref(), Some(&b"{\"a\":\"x"[..]));
        assert_eq!(decoder.next_frame().unwrap().as_deref(), Some(&b"y\"}"[..]));
    }
}
