//! Signs of life, reports and requests for a history read back from what is written of them.
#![cfg_attr(fuzzing, no_main)]

use std::time::Duration;

use bytes::BytesMut;
use protocol::{Packet, Ping, Pong, read_history_request, read_report};
use protocol::{write_history_request, write_ping, write_pong, write_report};

pub(crate) fn run(data: &[u8]) {
    let Ok(packet) = Packet::parse(data) else { return };
    let Ping { every, revision, digest } = Ping::from_packet(&packet);
    let (known, sum) = (revision.unwrap_or_default(), digest.unwrap_or_default());
    let (pong, failed) =
        (Pong { revision, digest: revision.and(digest) }, read_report(packet.params).unwrap_or_default());
    let node = read_history_request(packet.params).unwrap_or_default();
    let mut out = BytesMut::new();
    write_ping(&mut out, Duration::from_millis(every), known, sum);
    write_pong(&mut out, pong);
    write_report(&mut out, &failed);
    write_history_request(&mut out, 7, &node);
    let packets: Vec<_> = std::str::from_utf8(&out).expect("it is text").split_terminator('¶').collect();
    let packets: Vec<_> = packets.iter().map(|text| Packet::parse(text.as_bytes()).expect("it is sound")).collect();
    assert_eq!(Ping::from_packet(&packets[0]), Ping { every, revision: Some(known), digest: Some(sum) });
    assert_eq!(Pong::from_packet(&packets[1]), pong);
    assert_eq!((read_report(packets[2].params), read_history_request(packets[3].params)), (Some(failed), Some(node)));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
