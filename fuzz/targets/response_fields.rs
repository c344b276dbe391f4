//! A response with header fields that is cut apart means what the parser says.
#![cfg_attr(fuzzing, no_main)]

use protocol::{Key, Packet, Response, read_pairs, response_parts};
use serde_json::value::RawValue;

pub(crate) fn run(data: &[u8]) {
    let Some(parts) = response_parts(data) else { return };
    if serde_json::from_slice::<&RawValue>(parts.body).is_err() {
        return;
    }
    let packet = Packet::parse(data).expect("what is cut out is JSON");
    let response = Response::from_packet(&packet);
    assert_eq!((packet.key.as_ref(), response.status), (Some(&Key::Number(parts.key)), parts.status));
    assert_eq!(response.headers.map(RawValue::get), parts.headers);
    assert_eq!(response.body.map_or("null", RawValue::get).as_bytes(), parts.body.trim_ascii());
    let _ = read_pairs(parts.headers.unwrap_or_default().as_bytes());
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
