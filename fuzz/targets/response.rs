//! A response that is cut apart means what the parser says, and what is written of it reads back.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{Key, Packet, Response, ResponseHeaders, ResponsePayload, Version, success_parts, write_response};
use serde_json::value::RawValue;

pub(crate) fn run(data: &[u8]) {
    let packet = Packet::parse(data);
    let is_json = |text: &[u8]| serde_json::from_slice::<&RawValue>(text).is_ok();
    if let Some((key, body)) = success_parts(data).filter(|(_, body)| is_json(body)) {
        let packet = packet.as_ref().expect("what is cut out is JSON");
        let response = Response::from_packet(packet);
        assert_eq!((packet.key.as_ref(), response.status), (Some(&Key::Number(key)), 200));
        assert_eq!(response.body.map_or("null", RawValue::get).as_bytes(), body.trim_ascii());
    }
    let Ok(packet) = packet else { return };
    let Response { status, reason, message, retry_after, .. } = Response::from_packet(&packet);
    let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
    let mut out = BytesMut::new();
    let headers = &ResponseHeaders::NONE;
    let payload = ResponsePayload::Failure { status, reason: &reason, message: &message, retry_after, headers };
    write_response(&mut out, Version::V2, &packet.key.unwrap_or(Key::Number(1)), payload);
    let again = Packet::parse(&out[..out.len() - 2]).expect("it is sound");
    let again = Response::from_packet(&again);
    assert_eq!((again.status, again.message, again.retry_after), (status, Some(message), retry_after));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
