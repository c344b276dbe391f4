//! Parts of raw bytes that are cut apart mean what the decoder and the parser say, and what is
//! written of them, and of heads, reads back.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{
    Packet, Part, ResponseHeaders, Side, StreamHead, parse_raw_part, read_raw_part, split_attachment, write_raw_part,
    write_stream_head,
};

pub(crate) fn run(data: &[u8]) {
    for side in [Side::Caller, Side::Callee] {
        let Some((key, part, raw)) = parse_raw_part(data, side) else { continue };
        let packet = Packet::parse(split_attachment(data).0).expect("it was cut apart");
        assert_eq!((Part::from_packet(&packet), read_raw_part(data)), (Some(part), Some(raw)));
        let mut out = BytesMut::new();
        write_raw_part(&mut out, side, (key, part.number), raw.len(), [raw]);
        assert_eq!(parse_raw_part(&out, side), Some((key, part, raw)));
    }
    let Ok(packet) = Packet::parse(data) else { return };
    let Some(StreamHead { status, length, .. }) = StreamHead::from_packet(&packet) else { return };
    let mut out = BytesMut::new();
    let bytes = write_stream_head(&mut out, 7, 1, (status, length), &ResponseHeaders::NONE);
    let again = StreamHead::from_packet(&Packet::parse(&out[..bytes]).expect("it is sound")).map(|head| head.length);
    assert_eq!(again, Some(length));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
