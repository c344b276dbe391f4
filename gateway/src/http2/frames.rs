//! What a client sends, cut into frames as it comes. Pure.

/// What a client says before its first frame (RFC 9113, 3.4).
const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

/// Finds frames in bytes that come in any pieces.
#[derive(Debug)]
pub(crate) struct Frames {
    at: At,
}

/// What the next byte is.
#[derive(Debug)]
enum At {
    /// Of a frame's payload: so many are left. The preface is taken for one.
    Payload(u32),
    /// Of a frame's head, of which so many are there.
    Head([u8; HEAD_BYTES], usize),
}

/// What comes next of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Head(FrameHead),
    /// Some of the payload. `last`: no more of it follows. A frame that is empty has one of these, too.
    Payload {
        bytes: &'a [u8],
        last: bool,
    },
}

/// The first bytes of a frame: RFC 9113, 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { at: At::Payload(PREFACE_BYTES) }
    }

    /// Takes what it can off `bytes`: nothing when there are none left.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Part<'a>> {
        match &mut self.at {
            At::Payload(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                if taken == 0 && *left > 0 {
                    return None;
                }
                let (payload, rest) = bytes.split_at(taken);
                *bytes = rest;
                *left -= u32::try_from(taken).unwrap_or(*left);
                let last = *left == 0;
                if last {
                    self.at = At::Head([0; HEAD_BYTES], 0);
                }
                Some(Part::Payload { bytes: payload, last })
            }
            At::Head(head, have) => {
                let taken = bytes.len().min(HEAD_BYTES - *have);
                head[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                *bytes = &bytes[taken..];
                *have += taken;
                if *have < HEAD_BYTES {
                    return None;
                }
                let [a, b, c, kind, flags, stream @ ..] = *head;
                let head = FrameHead {
                    length: u32::from_be_bytes([0, a, b, c]),
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
                };
                self.at = At::Payload(head.length);
                Some(Part::Head(head))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in bytes that come in pieces of `step`, payloads put together again.
    fn parts(bytes: &[u8], step: usize) -> Vec<(Option<FrameHead>, Vec<u8>)> {
        let (mut frames, mut found, mut payload, mut head) = (Frames::new(), Vec::new(), Vec::new(), None);
        for mut piece in bytes.chunks(step) {
            while let Some(part) = frames.next(&mut piece) {
                match part {
                    Part::Head(next) => head = Some(next),
                    Part::Payload { bytes, last } => {
                        payload.extend_from_slice(bytes);
                        if last {
                            found.push((head.take(), std::mem::take(&mut payload)));
                        }
                    }
                }
            }
        }
        found
    }

    #[test]
    fn frames_are_found_whatever_pieces_they_come_in() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let bytes = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 3, 1, 5, 0x80, 0, 0, 7], b"abc"].concat();
        let settings = FrameHead { length: 0, kind: 4, flags: 0, stream: 0 };
        let headers = FrameHead { length: 3, kind: 1, flags: 5, stream: 7 };
        let expected = vec![(None, preface.to_vec()), (Some(settings), Vec::new()), (Some(headers), b"abc".to_vec())];
        for step in 1..=bytes.len() {
            assert_eq!(parts(&bytes, step), expected, "in pieces of {step}");
        }
    }
}
