//! A packet is one JSON object, as any other parser sees it, and reads back from what is written of
//! it.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{DELIMITER, Packet, check_depth, is_one_value, seal};
use serde_json::Value;

pub(crate) fn run(data: &[u8]) {
    let value = serde_json::from_slice::<Value>(data);
    // A packet may have numbers that are too large for a `Value`.
    assert!(value.as_ref().map_or(true, Value::is_object) || Packet::parse(data).is_err());
    let Ok(value) = value else { return };
    assert!(is_one_value(data) && check_depth(data, 128).is_ok());
    let mut out = BytesMut::from(data);
    seal(&mut out, 0);
    let frame = out.strip_suffix(&DELIMITER[..]).expect("a packet ends with the delimiter");
    assert!(!frame.windows(2).any(|pair| pair == DELIMITER), "and has none inside");
    assert_eq!(serde_json::from_slice::<Value>(frame).ok(), Some(value));
    assert_eq!(Packet::parse(frame).is_ok(), Packet::parse(data).is_ok());
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
