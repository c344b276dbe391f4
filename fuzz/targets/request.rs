//! A call that is cut apart means what the parser says, and what is written of it reads back.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{CallUrl, ClientRequest, JsonText, Key, Packet, Request, Version, write_request};

pub(crate) fn run(data: &[u8]) {
    let parsed = Packet::parse(data).map(Request::from_packet);
    let Ok(mut call) = Request::parse(data) else { return assert!(parsed.is_err()) };
    if call.verify().is_err() {
        return;
    }
    let parsed = parsed.expect("what is cut out is JSON");
    assert_eq!(format!("{call:?}"), format!("{parsed:?}"));
    if let Some(client) = call.meta.request.and_then(|JsonText(text)| ClientRequest::parse(text)) {
        assert_eq!(ClientRequest::parse(&client.to_json()).as_ref(), Some(&client));
    }
    let key = call.key.as_ref().and_then(Key::number);
    let mut out = BytesMut::new();
    let url = CallUrl::new("GET", &call.uri);
    write_request(&mut out, Version::V2, url, key, call.params.unwrap_or("null"), &call.meta);
    let again = Request::parse(&out[..out.len() - 2]).expect("it is sound");
    assert_eq!((&again.uri, &again.meta), (&call.uri, &call.meta));
    assert_eq!(again.key.as_ref().and_then(Key::number), key);
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
