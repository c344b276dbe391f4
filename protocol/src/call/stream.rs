//! Streams: calls whose response or arguments come in parts. Version 2 only.

use bytes::{BufMut, BytesMut};
use serde::Deserialize;

use super::event_fields::EventFields;
use crate::json::{number_prefix, put_number};
use crate::{Packet, seal};

/// The uri of a part that a caller sends. A part from the callee has only a key, as responses do.
pub const PART_URI: &str = "$part";
/// The uri of [`write_credit`].
pub const CREDIT_URI: &str = "$credit";

/// Bytes of parts, without delimiters, that a side of a stream may send beyond what the other side
/// has consumed. A side with any credit left may send one whole part of any size.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// A packet of a stream: its number, and whether it is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// `n`: 0 for the packet that opens the response and has no data, then one more for each part.
    pub number: u64,
    /// Whether no part follows (`end`).
    pub is_end: bool,
}

impl Part {
    /// Reads it from its packet; `None` when the packet is not part of a stream.
    pub fn from_packet(packet: &Packet<'_>) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawPart {
            n: u64,
            #[serde(default)]
            end: bool,
        }
        let RawPart { n, end } = serde_json::from_str(packet.meta?.get()).ok()?;
        Some(Self { number: n, is_end: end })
    }
}

/// The side that sends a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that called.
    Caller,
    /// The side that was called.
    Callee,
}

/// Writes one part whose data is made in place: begin, append JSON text to the buffer, and end. If
/// the data cannot be made, truncate the buffer to its earlier length.
#[derive(Debug)]
pub struct PartWriter {
    start: usize,
}

impl PartWriter {
    /// Writes the part before the data.
    pub fn begin(out: &mut BytesMut, from: Side, key: u64, number: u64) -> Self {
        Self::begin_event(out, from, key, number, &EventFields::default())
    }

    /// As [`begin`](Self::begin), with the fields of a server-sent event.
    pub fn begin_event(out: &mut BytesMut, from: Side, key: u64, number: u64, fields: &EventFields<'_>) -> Self {
        let start = out.len();
        put_head(out, from, key, number);
        fields.put_member(out);
        out.put_slice(br#"},"params":"#);
        Self { start }
    }

    /// Ends the packet, ready to send. Returns the credit that it uses: its bytes without the
    /// delimiter.
    pub fn end(self, out: &mut BytesMut) -> usize {
        out.put_u8(b'}');
        seal(out, self.start);
        out.len() - self.start - crate::DELIMITER.len()
    }
}

/// Splits a part in the form that [`PartWriter`] writes into key, number and data, without a JSON
/// parser, as [`success_parts`](crate::success_parts) does. `None` for all other frames: parse
/// them.
pub fn parse_part(frame: &[u8], from: Side) -> Option<(u64, Part, &[u8])> {
    let (key, rest) = number_prefix(frame.strip_prefix(head(from))?)?;
    let (number, rest) = number_prefix(rest.strip_prefix(br#","$":{"n":"#)?)?;
    let body = rest.strip_prefix(br#"},"params":"#)?.strip_suffix(b"}")?;
    Some((key, Part { number, is_end: false }, body))
}

/// Writes the packet that opens the response of a stream. Parts follow.
pub fn write_open(out: &mut BytesMut, key: u64) {
    let start = out.len();
    put_head(out, Side::Callee, key, 0);
    out.put_slice(b"}}");
    seal(out, start);
}

/// Writes that no part follows.
pub fn write_end(out: &mut BytesMut, from: Side, key: u64, number: u64) {
    let start = out.len();
    put_head(out, from, key, number);
    out.put_slice(br#","end":true}}"#);
    seal(out, start);
}

/// Writes that the other side may send `bytes` more.
pub fn write_credit(out: &mut BytesMut, key: u64, bytes: u32) {
    let start = out.len();
    out.put_slice(br#"{"uri":"$credit","key":"#);
    put_number(out, key);
    out.put_slice(br#","$":{"c":"#);
    put_number(out, bytes.into());
    out.put_slice(b"}}");
    seal(out, start);
}

/// Reads a credit; `None` for any other packet.
pub fn read_credit(packet: &Packet<'_>) -> Option<u32> {
    #[derive(Deserialize)]
    struct RawCredit {
        c: u32,
    }
    (packet.uri() == CREDIT_URI).then_some(())?;
    let RawCredit { c } = serde_json::from_str(packet.meta?.get()).ok()?;
    Some(c)
}

fn head(from: Side) -> &'static [u8] {
    match from {
        Side::Caller => br#"{"uri":"$part","key":"#,
        Side::Callee => br#"{"key":"#,
    }
}

fn put_head(out: &mut BytesMut, from: Side, key: u64, number: u64) {
    out.put_slice(head(from));
    put_number(out, key);
    out.put_slice(br#","$":{"n":"#);
    put_number(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut BytesMut), expected: &str, part: Option<Part>, credit: Option<u32>) {
        let mut out = BytesMut::new();
        write(&mut out);
        let frame = out.strip_suffix("¶".as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(frame), expected);
        let packet = Packet::parse(frame).unwrap();
        assert_eq!((Part::from_packet(&packet), read_credit(&packet)), (part, credit));
        assert_eq!(packet.key.as_ref().and_then(crate::Key::number), Some(7));
    }

    #[test]
    fn packets_of_a_stream() {
        let part = |number, is_end| Some(Part { number, is_end });
        check(|out| write_open(out, 7), r#"{"key":7,"$":{"n":0}}"#, part(0, false), None);
        let write_item = |side| {
            move |out: &mut BytesMut| {
                let writer = PartWriter::begin(out, side, 7, 1);
                out.put_slice("[\"¶\"]".as_bytes());
                let cost = writer.end(out);
                assert_eq!(cost + 2, out.len());
            }
        };
        let item = r#"{"key":7,"$":{"n":1},"params":[1]}"#.as_bytes();
        assert_eq!(parse_part(item, Side::Callee), Some((7, Part { number: 1, is_end: false }, b"[1]".as_slice())));
        assert_eq!(parse_part(item, Side::Caller), None);
        check(write_item(Side::Callee), r#"{"key":7,"$":{"n":1},"params":["\u00b6"]}"#, part(1, false), None);
        let from_caller = r#"{"uri":"$part","key":7,"$":{"n":1},"params":["\u00b6"]}"#;
        check(write_item(Side::Caller), from_caller, part(1, false), None);
        check(|out| write_end(out, Side::Callee, 7, 2), r#"{"key":7,"$":{"n":2,"end":true}}"#, part(2, true), None);
        let end = r#"{"uri":"$part","key":7,"$":{"n":2,"end":true}}"#;
        check(|out| write_end(out, Side::Caller, 7, 2), end, part(2, true), None);
        check(|out| write_credit(out, 7, 9), r#"{"uri":"$credit","key":7,"$":{"c":9}}"#, None, Some(9));
    }

    #[test]
    fn other_packets_are_not_parts() {
        for text in [r#"{"key":7,"$":{}}"#, r#"{"key":7,"$":{"n":-1}}"#, r#"{"key":7,"n":1}"#, r#"{"key":7,"$":7}"#] {
            assert_eq!(Part::from_packet(&Packet::parse(text.as_bytes()).unwrap()), None, "{text}");
        }
    }
}
