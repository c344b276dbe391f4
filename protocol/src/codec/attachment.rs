//! Raw bytes that follow a packet, which says how many they are: `{"bytes":5,…}¶` and five bytes.

use bytes::{BufMut, BytesMut};

use crate::codec::DELIMITER;
use crate::json::{number_prefix, put_number};

/// How a packet begins that raw bytes follow.
const PREFIX: &[u8] = br#"{"bytes":"#;

/// How many bytes follow a packet. Only packets of version 2, which have `$`, can say it.
#[inline]
pub(super) fn attached_bytes(frame: &[u8]) -> Option<usize> {
    match frame {
        [b'{', _, b'b', ..] => stated_bytes(frame),
        // The usual packets begin with other names, and at once.
        [first, ..] if first.is_ascii_whitespace() => stated_bytes(frame.trim_ascii_start()),
        _ => None,
    }
}

fn stated_bytes(frame: &[u8]) -> Option<usize> {
    let (bytes, rest) = number_prefix(frame.strip_prefix(PREFIX)?)?;
    let is_version_2 = rest.starts_with(b",") && memchr::memmem::find(rest, br#""$":"#).is_some();
    usize::try_from(bytes).ok().filter(|_| is_version_2)
}

/// A packet without its delimiter, and the bytes that follow it, of a frame that a decoder has
/// given which [takes them](crate::FrameDecoder::take_attachments).
#[inline]
pub fn split_attachment(frame: &[u8]) -> (&[u8], Option<&[u8]>) {
    let start = match frame {
        [b'{', _, b'b', ..] => 0,
        [first, ..] if first.is_ascii_whitespace() => frame.len() - frame.trim_ascii_start().len(),
        _ => return (frame, None),
    };
    let Some(text) = frame[start..].strip_prefix(PREFIX) else { return (frame, None) };
    let bytes = number_prefix(text).and_then(|(bytes, _)| usize::try_from(bytes).ok());
    let end = bytes.and_then(|bytes| frame.len().checked_sub(bytes)?.checked_sub(DELIMITER.len()));
    match end.filter(|end| frame[*end..].starts_with(&DELIMITER) && stated_bytes(&frame[start..*end]) == bytes) {
        Some(end) => (&frame[..end], Some(&frame[end + DELIMITER.len()..])),
        None => (frame, None),
    }
}

/// Writes a packet, and has raw bytes follow it if there are any.
pub fn write_attached(out: &mut BytesMut, bytes: Option<&[u8]>, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    write(out);
    if let Some(bytes) = bytes {
        attach(out, start, bytes);
    }
}

/// Has raw bytes follow the packet that begins at `start` of `out` and is the last there.
pub fn attach(out: &mut BytesMut, start: usize, bytes: &[u8]) {
    let packet = out.split_off(start);
    out.put_slice(PREFIX);
    put_number(out, bytes.len() as u64);
    out.put_u8(b',');
    out.put_slice(packet.get(1..).unwrap_or_default());
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameDecoder;

    #[test]
    fn bytes_follow_the_packet_that_says_so() {
        let check = |packet: &str, behind: &[u8], expected: &[(&str, Option<&[u8]>)]| {
            let stream = [packet.as_bytes(), behind].concat();
            for size in [1, 2, 7, 1000] {
                let mut decoder = FrameDecoder::new(200);
                decoder.take_attachments();
                let mut seen = Vec::new();
                for part in stream.chunks(size) {
                    decoder.buffer().extend_from_slice(part);
                    while let Some(frame) = decoder.next_frame().unwrap() {
                        let (text, attached) = split_attachment(&frame);
                        seen.push((String::from_utf8(text.to_vec()).unwrap(), attached.map(<[u8]>::to_vec)));
                    }
                }
                let seen: Vec<_> = seen.iter().map(|(text, bytes)| (text.as_str(), bytes.as_deref())).collect();
                assert_eq!(seen, expected, "{packet} in pieces of {size}");
                assert!(!decoder.is_mid_frame(), "{packet}");
            }
        };
        let packet = r#"{"bytes":4,"key":7,"$":{}}"#;
        let raw = [0xC2, 0xB6, 0xFF, b'{'];
        check(&format!("{packet}¶"), &raw, &[(packet, Some(&raw))]);
        // A person types line ends.
        let typed = format!("\r\n {packet}");
        check(&format!("{typed}¶"), &raw, &[(&*typed, Some(&raw))]);
        let next = [&raw[..], "{\"key\":8}¶".as_bytes()].concat();
        check(&format!("{packet}¶"), &next, &[(packet, Some(&raw)), (r#"{"key":8}"#, None)]);
        let none = r#"{"bytes":0,"$":{}}"#;
        check(&format!("{none}¶{none}¶"), b"", &[(none, Some(b"")), (none, Some(b""))]);
        // Packets of version 1, and such that say it in another way, have none.
        for other in [
            r#"{"bytes":4,"key":7}"#,
            r#"{"key":7,"bytes":4,"$":{}}"#,
            r#"{"bytes":"4","$":{}}"#,
            r#"{"bytes":04,"$":{}}"#,
        ] {
            check(&format!("{other}¶"), b"", &[(other, None)]);
        }
    }

    #[test]
    fn too_many_bytes_are_refused_before_they_come() {
        for bytes in ["1000", "999999999999999999", "180"] {
            let mut decoder = FrameDecoder::new(200);
            decoder.take_attachments();
            decoder.buffer().extend_from_slice(format!("{{\"bytes\":{bytes},\"$\":{{}}}}¶").as_bytes());
            assert!(decoder.next_frame().is_err() && decoder.next_frame().is_err(), "{bytes}");
        }
    }

    #[test]
    fn a_decoder_that_takes_none_gives_the_packet_alone() {
        let mut decoder = FrameDecoder::new(200);
        decoder.buffer().extend_from_slice("{\"bytes\":1,\"$\":{}}¶x¶".as_bytes());
        assert_eq!(decoder.next_frame().unwrap().unwrap(), r#"{"bytes":1,"$":{}}"#);
        assert_eq!(decoder.next_frame().unwrap().unwrap(), "x");
    }

    #[test]
    fn attached_packets_are_split_again() {
        let mut out = BytesMut::from(&b"before"[..]);
        out.put_slice("{\"key\":7,\"$\":{}}¶".as_bytes());
        attach(&mut out, 6, b"\xc2\xb6");
        assert_eq!(&out[..], b"before{\"bytes\":2,\"key\":7,\"$\":{}}\xc2\xb6\xc2\xb6");
        assert_eq!(split_attachment(&out[6..]), (&br#"{"bytes":2,"key":7,"$":{}}"#[..], Some(&b"\xc2\xb6"[..])));
        for lies in [&b"{\"bytes\":9,\"$\":{}}"[..], b"{\"bytes\":1,\"$\":{}}x", b"{\"b", b""] {
            assert_eq!(split_attachment(lies), (lies, None));
        }
    }
}
