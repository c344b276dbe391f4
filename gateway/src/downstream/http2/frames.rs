//! The heads of the frames that a client sends. Pure.

/// The bytes that a client sends before its first frame (RFC 9113, 3.4).
const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

/// Finds frames in bytes that arrive in any pieces.
#[derive(Debug)]
pub(crate) struct Frames {
    at: FramePosition,
}

/// The position of the next byte.
#[derive(Debug)]
enum FramePosition {
    /// The reader is in a frame's payload, of which this many bytes are left. The preface counts as
    /// a payload.
    Payload(u32),
    /// The reader is in a frame's head, of which this many bytes have arrived.
    Head([u8; HEAD_BYTES], usize),
}

/// The head of a frame: RFC 9113, 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// A part of the stream of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameEvent<'a> {
    Head(FrameHead),
    /// Bytes of the payload of the last head, or of the preface.
    Payload(&'a [u8]),
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { at: FramePosition::Payload(PREFACE_BYTES) }
    }

    /// Consumes `bytes` up to the end of the next frame's head, or those of a payload. Consumes all
    /// of them and returns `None` when that end has not arrived.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<FrameEvent<'a>> {
        loop {
            match &mut self.at {
                FramePosition::Payload(0) => self.at = FramePosition::Head([0; HEAD_BYTES], 0),
                FramePosition::Payload(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if taken == 0 {
                        return None;
                    }
                    let (payload, rest) = bytes.split_at(taken);
                    *bytes = rest;
                    *left -= u32::try_from(taken).unwrap_or(*left);
                    return Some(FrameEvent::Payload(payload));
                }
                FramePosition::Head(head, have) => {
                    let taken = bytes.len().min(HEAD_BYTES - *have);
                    head[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                    *bytes = &bytes[taken..];
                    *have += taken;
                    if *have < HEAD_BYTES {
                        return None;
                    }
                    let [a, b, c, kind, flags, stream @ ..] = *head;
                    let stream = stream_id(stream);
                    let head = FrameHead { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream };
                    self.at = FramePosition::Payload(head.length);
                    return Some(FrameEvent::Head(head));
                }
            }
        }
    }
}

/// The stream of a frame: the first bit is reserved.
pub(super) fn stream_id(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_any_pieces() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0, 3, 1, 5, 0x80, 0, 0, 7];
        let bytes = [&preface[..], &settings, &headers, b"abc", &settings].concat();
        let settings = FrameHead { length: 0, kind: 4, flags: 0, stream: 0 };
        let expected = [settings, FrameHead { length: 3, kind: 1, flags: 5, stream: 7 }, settings];
        for step in 1..=bytes.len() {
            let (mut frames, mut found, mut payloads) = (Frames::new(), Vec::new(), Vec::new());
            for mut piece in bytes.chunks(step) {
                while let Some(event) = frames.next(&mut piece) {
                    match event {
                        FrameEvent::Head(head) => found.push(head),
                        FrameEvent::Payload(bytes) => payloads.extend_from_slice(bytes),
                    }
                }
                assert!(piece.is_empty());
            }
            assert_eq!(found, expected, "in pieces of {step}");
            assert_eq!(payloads, [&preface[..], b"abc"].concat(), "in pieces of {step}");
        }
    }
}
