//! Parts of streams that are cut apart mean what the parser says, and what is written of parts and
//! credits reads back.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{Packet, Part, PartWriter, Side, parse_part, read_credit, write_credit};
use serde_json::value::RawValue;

pub(crate) fn run(data: &[u8]) {
    let packet = Packet::parse(data);
    let is_json = |text: &[u8]| serde_json::from_slice::<&RawValue>(text).is_ok();
    for side in [Side::Caller, Side::Callee] {
        let Some((key, part, body)) = parse_part(data, side).filter(|(_, _, body)| is_json(body)) else { continue };
        assert_eq!(Part::from_packet(packet.as_ref().expect("what is cut out is JSON")), Some(part));
        let mut out = BytesMut::new();
        let writer = PartWriter::begin(&mut out, side, key, part.number);
        out.extend_from_slice(body);
        writer.end(&mut out);
        assert!(parse_part(&out[..out.len() - 2], side).is_some_and(|again| (again.0, again.1) == (key, part)));
    }
    let Ok(packet) = packet else { return };
    let Some(credit) = read_credit(&packet) else { return };
    let mut out = BytesMut::new();
    write_credit(&mut out, 7, credit);
    assert_eq!(read_credit(&Packet::parse(&out[..out.len() - 2]).expect("it is sound")), Some(credit));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
