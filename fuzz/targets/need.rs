//! Questions and their answers read back from what is written of them, and what is read is bounded.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{Key, MAX_NEED_BYTES, MAX_NEED_ROUTES, Packet, read_need, read_needed, write_need, write_needed};

pub(crate) fn run(data: &[u8]) {
    let Ok(packet) = Packet::parse(data) else { return };
    let mut out = BytesMut::new();
    if let Some(routes) = read_need(packet.params) {
        assert!((1..=MAX_NEED_ROUTES).contains(&routes.len()));
        assert!(routes.iter().all(|route| route.len() <= MAX_NEED_BYTES));
        write_need(&mut out, 7, routes.iter().map(String::as_str));
        let again = Packet::parse(&out[..out.len() - 2]).expect("it is sound");
        assert_eq!(read_need(again.params), Some(routes));
    }
    if let Some(needs) = read_needed(packet.params) {
        let mut out = BytesMut::new();
        write_needed(&mut out, packet.key.as_ref().unwrap_or(&Key::Number(7)), &needs);
        let again = Packet::parse(&out[..out.len() - 2]).expect("it is sound");
        assert_eq!(read_needed(again.params), Some(needs));
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
