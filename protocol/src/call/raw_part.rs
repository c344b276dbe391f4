//! Streams of raw bytes: the head of a response that comes in parts, and parts that are bytes.

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::stream::{Part, Side};
use crate::json::{number_prefix, put_number};
use crate::{DELIMITER, Packet, ResponseHeaders, seal, split_attachment};

/// Maximum raw bytes of one part. Larger parts would hold up other packets of the connection, and
/// smaller ones cost more packets.
pub const MAX_RAW_PART_BYTES: usize = 64 * 1024;

/// Bytes of parts that a caller may send ahead of a body: two of the largest parts, so that one is
/// on its way while the other is read. A node has thousands of such callers.
pub const BODY_WINDOW: u32 = 128 * 1024;

/// The head of a response whose body comes in parts of raw bytes.
#[derive(Clone, Copy, Debug)]
pub struct StreamHead<'a> {
    /// The HTTP status (`s`).
    pub status: u16,
    /// How many bytes all parts have together, if that is known (`l`).
    pub length: Option<u64>,
    /// The header fields, as JSON: [`read_pairs`](crate::read_pairs) reads them (`h`).
    pub headers: Option<&'a RawValue>,
}

impl<'a> StreamHead<'a> {
    /// Reads it from its packet; `None` when the packet is not a part with a status.
    pub fn from_packet(packet: &Packet<'a>) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawHead<'a> {
            s: u16,
            #[serde(default)]
            l: Option<u64>,
            #[serde(borrow, default)]
            h: Option<&'a RawValue>,
        }
        Part::from_packet(packet)?;
        let RawHead { s, l, h } = serde_json::from_str(packet.meta?.get()).ok()?;
        Some(Self { status: s, length: l, headers: h })
    }
}

/// Writes the head of a response whose body comes in parts of raw bytes. Returns the credit that it
/// uses if it is not the packet that opens the stream.
pub fn write_stream_head(
    out: &mut BytesMut,
    key: u64,
    number: u64,
    (status, length): (u16, Option<u64>),
    headers: &ResponseHeaders,
) -> usize {
    let start = out.len();
    out.put_slice(br#"{"key":"#);
    put_number(out, key);
    out.put_slice(br#","$":{"n":"#);
    put_number(out, number);
    out.put_slice(br#","s":"#);
    put_number(out, status.into());
    if let Some(length) = length {
        out.put_slice(br#","l":"#);
        put_number(out, length);
    }
    headers.put_member(out, ",");
    out.put_slice(b"}}");
    seal(out, start);
    out.len() - start - DELIMITER.len()
}

/// Writes a part of raw bytes, which `pieces` have together. Returns the credit that it uses: all
/// of its bytes.
pub fn write_raw_part<'p>(
    out: &mut BytesMut,
    from: Side,
    (key, number): (u64, u64),
    bytes: usize,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> usize {
    /// Bytes of the packet at most: three numbers of 20 digits, and the rest.
    const PACKET_BYTES: usize = 128;
    let start = out.len();
    out.reserve(PACKET_BYTES + bytes);
    out.put_slice(br#"{"bytes":"#);
    put_number(out, bytes as u64);
    out.put_slice(behind_count(from));
    put_number(out, key);
    out.put_slice(br#","$":{"n":"#);
    put_number(out, number);
    out.put_slice(b"}}");
    out.put_slice(&DELIMITER);
    pieces.into_iter().for_each(|piece| out.put_slice(piece));
    out.len() - start
}

/// Splits a part in the form that [`write_raw_part`] writes into key, number and raw bytes, without
/// a JSON parser. `None` for all other frames: see [`read_raw_part`].
pub fn parse_raw_part(frame: &[u8], from: Side) -> Option<(u64, Part, &[u8])> {
    let (bytes, rest) = number_prefix(frame.strip_prefix(br#"{"bytes":"#)?)?;
    let (key, rest) = number_prefix(rest.strip_prefix(behind_count(from))?)?;
    let (number, rest) = number_prefix(rest.strip_prefix(br#","$":{"n":"#)?)?;
    let raw = rest.strip_prefix(b"}}")?.strip_prefix(&DELIMITER)?;
    (raw.len() as u64 == bytes).then_some((key, Part { number, is_end: false }, raw))
}

/// The raw bytes of a part that its key and number have already been read of; `None` if it has
/// none.
pub fn read_raw_part(frame: &[u8]) -> Option<&[u8]> {
    split_attachment(frame).1
}

fn behind_count(from: Side) -> &'static [u8] {
    match from {
        Side::Caller => br#","uri":"$part","key":"#,
        Side::Callee => br#","key":"#,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameDecoder;

    /// What hides a delimiter and a packet.
    const RAW: &[u8] = b"\xC2\xB6{\"bytes\":1,\"$\":{}}\xC2\xB6\xFF";

    #[track_caller]
    fn check(from: Side, pieces: &[&[u8]], expected: &str) {
        let (mut out, bytes) = (BytesMut::new(), pieces.iter().map(|piece| piece.len()).sum());
        let cost = write_raw_part(&mut out, from, (7, 3), bytes, pieces.iter().copied());
        assert_eq!(cost, out.len());
        let mut decoder = FrameDecoder::new(1000);
        decoder.take_attachments();
        decoder.buffer().extend_from_slice(&out);
        let frame = decoder.next_frame().unwrap().unwrap();
        let (packet, raw) = split_attachment(&frame);
        let part = Part { number: 3, is_end: false };
        assert_eq!((std::str::from_utf8(packet), raw), (Ok(expected), Some(&*pieces.concat())));
        assert_eq!(Part::from_packet(&Packet::parse(packet).unwrap()), Some(part));
        assert_eq!(parse_raw_part(&frame, from), raw.map(|raw| (7, part, raw)));
        assert_eq!(read_raw_part(&frame), raw);
    }

    #[test]
    fn parts_of_raw_bytes() {
        check(Side::Callee, &[RAW], r#"{"bytes":23,"key":7,"$":{"n":3}}"#);
        check(Side::Caller, &[RAW, b"", RAW], r#"{"bytes":46,"uri":"$part","key":7,"$":{"n":3}}"#);
        check(Side::Caller, &[], r#"{"bytes":0,"uri":"$part","key":7,"$":{"n":3}}"#);
        for other in [
            &b"{\"bytes\":2,\"key\":7,\"$\":{\"n\":1}}\xC2\xB6x"[..],
            b"{\"bytes\":1,\"key\":7,\"$\":{\"n\":1,\"end\":true}}\xC2\xB6x",
            b"{\"bytes\":1,\"key\":\"7\",\"$\":{\"n\":1}}\xC2\xB6x",
            b"{\"bytes\":1,\"key\":7,\"$\":{\"n\":1}}x",
            b"{\"key\":7,\"$\":{\"n\":1}}",
        ] {
            assert_eq!(parse_raw_part(other, Side::Callee), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn heads_read_back() {
        let mut headers = ResponseHeaders::NONE;
        let check = |number, head, headers: &ResponseHeaders, expected: &str| {
            let mut out = BytesMut::new();
            let cost = write_stream_head(&mut out, 7, number, head, headers);
            let frame = &out[..cost];
            assert_eq!(std::str::from_utf8(frame), Ok(expected));
            let packet = Packet::parse(frame).unwrap();
            let read = StreamHead::from_packet(&packet).unwrap();
            assert_eq!((read.status, read.length), head);
            assert_eq!(read.headers.is_some(), !headers.is_empty());
            assert_eq!(Part::from_packet(&packet), Some(Part { number, is_end: false }));
        };
        check(0, (200, None), &headers, r#"{"key":7,"$":{"n":0,"s":200}}"#);
        headers.append("content-type", "a/¶");
        check(1, (206, Some(9)), &headers, r#"{"key":7,"$":{"n":1,"s":206,"l":9,"h":[["content-type","a/\u00b6"]]}}"#);
        for other in [r#"{"key":7,"$":{"n":0}}"#, r#"{"key":7,"$":{"s":200}}"#, r#"{"key":7,"$":{"n":1,"s":"200"}}"#] {
            assert!(StreamHead::from_packet(&Packet::parse(other.as_bytes()).unwrap()).is_none(), "{other}");
        }
    }
}
