//! A part of a copy of the registry reads back from what is written of it.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use protocol::{CopyPart, FrameDecoder, Packet, read_copy, write_copy};

pub(crate) fn run(data: &[u8]) {
    let Ok(packet) = Packet::parse(data) else { return };
    let Some(CopyPart { revision, digest, more: _, entries }) = read_copy(&packet) else { return };
    assert!(revision.is_sound());
    let texts: Vec<_> = entries.iter().map(|(id, entry)| (*id, entry.get().to_owned())).collect();
    let (mut out, mut again) = (BytesMut::new(), Vec::new());
    write_copy(&mut out, revision, digest, texts.iter().map(|(id, entry)| (*id, &**entry)));
    let mut decoder = FrameDecoder::new(usize::MAX - 1);
    decoder.buffer().extend_from_slice(&out);
    while let Ok(Some(frame)) = decoder.next_frame() {
        let packet = Packet::parse(&frame).expect("it is sound");
        let part = read_copy(&packet).expect("it is a copy");
        assert_eq!((part.revision, part.digest), (revision, digest));
        again.extend(part.entries.iter().map(|(id, entry)| (*id, entry.get().to_owned())));
    }
    assert!(decoder.unfinished().is_empty());
    assert_eq!(again, texts.iter().map(|(id, text)| (*id, text.replace('¶', "\\u00b6"))).collect::<Vec<_>>());
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
