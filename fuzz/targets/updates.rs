//! The replica of a node after lists and changes has the right digest, and reads back from a list.
#![cfg_attr(fuzzing, no_main)]

use protocol::{Digest, Key, ListUpdate, Packet, Replica, UnpackedBlocks, UpdateHeader, write_list};

pub(crate) fn run(data: &[u8]) {
    let (Ok(text), mut replica) = (std::str::from_utf8(data), Replica::default()) else { return };
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let now = std::time::Instant::now();
    for frame in text.split('¶') {
        let (Ok(packet), mut blocks) = (Packet::parse(frame.as_bytes()), UnpackedBlocks::default()) else { continue };
        let Ok(update) = ListUpdate::parse(&packet, &mut blocks) else { continue };
        let (_, once, _) = (replica.apply(now, &update), replica.pong(true), replica.apply(now, &update));
        assert_eq!(replica.pong(true), once, "twice the same");
        let mut sum = Digest::default();
        replica.entries().for_each(|(id, entry)| sum.add(id, entry));
        assert_eq!(replica.digest(), sum);
    }
    let Some(revision) = replica.revision() else { return };
    let header = UpdateHeader { revision, digest: Some(replica.digest()), ..UpdateHeader::default() };
    let (mut out, mut again, mut blocks) = (bytes::BytesMut::new(), Replica::default(), UnpackedBlocks::default());
    let entries: Vec<_> = replica.entries().collect();
    write_list(&mut out, &Key::Number(0), &header, entries.into_iter(), None.into_iter());
    let packet = Packet::parse(&out[..out.len() - 2]).expect("it is sound");
    again.apply(now, &ListUpdate::parse(&packet, &mut blocks).expect("a list is one"));
    assert_eq!(again.pong(true), replica.pong(true));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
