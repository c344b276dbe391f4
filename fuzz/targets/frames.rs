//! Frames are cut at the same places however they arrive, and none is longer than the limit.
#![cfg_attr(fuzzing, no_main)]

use protocol::{DELIMITER, FrameDecoder};

const MAX_BYTES: usize = 100;

pub(crate) fn run(data: &[u8]) {
    let read = |size: usize| {
        let (mut decoder, mut frames) = (FrameDecoder::new(MAX_BYTES), Vec::new());
        for chunk in data.chunks(size) {
            decoder.buffer().extend_from_slice(chunk);
            while let Some(frame) = decoder.next_frame().transpose() {
                let Ok(frame) = frame else { return (frames, true) };
                frames.push(frame);
            }
            assert!(decoder.unfinished().len() <= MAX_BYTES + 1, "too much is kept");
        }
        (frames, false)
    };
    let whole = read(data.len().max(1));
    assert!(read(1) == whole && read(3) == whole);
    assert!(whole.0.iter().all(|frame| frame.len() <= MAX_BYTES));
    assert!(whole.0.iter().all(|frame| !frame.windows(2).any(|pair| pair == DELIMITER)));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
