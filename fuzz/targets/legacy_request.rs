//! Whatever the arguments of a call are, a version 1 service receives an object that has our key,
//! and the arguments unchanged.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{CallMeta, CallUrl, Packet, Request, Version, write_request};
use serde_json::{Map, Value};

pub(crate) fn run(data: &[u8]) {
    let Ok(params) = std::str::from_utf8(data) else { return };
    let Ok(value) = serde_json::from_str::<Value>(params) else { return };
    let mut out = BytesMut::new();
    write_request(&mut out, Version::V1, CallUrl::new("GET", "/g"), Some(7), params, &CallMeta::default());
    let packet = Packet::parse(&out[..out.len() - 2]).expect("it is sound");
    let text = packet.params.expect("it is written").get();
    let mut seen: Map<String, Value> = serde_json::from_str(text).expect("it is an object");
    assert_eq!(seen.remove("key"), Some(7.into()));
    let mut expected = value.as_object().cloned().unwrap_or_default();
    expected.remove("key");
    assert_eq!(seen, expected);
    let again = Request::from_packet(packet);
    assert_eq!((again.version, again.key.and_then(|key| key.number())), (Version::V1, Some(7)));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
