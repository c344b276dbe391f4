//! A body means the same however it arrives, little of it is kept beside its data, and what is
//! written of it reads back.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::{BodyEnd, body, write_chunked};

/// A line, and all trailers before it.
const MAX_KEPT: usize = 2 * 16 * 1024 + 4;

pub(crate) fn run(data: &[u8]) {
    use BodyEnd::{Chunked, Close, Length};
    for (end, is_response) in [(Length(5), false), (Chunked, false), (Chunked, true), (Close, true)] {
        let whole = body(end, data, data.len(), is_response);
        for size in [1, 3] {
            let pieces = body(end, data, size, is_response);
            assert!(pieces.max_kept_bytes <= MAX_KEPT + size);
            assert_eq!((&pieces.data, &pieces.end, pieces.is_malformed), (&whole.data, &whole.end, whole.is_malformed));
        }
        let Some((trailers, rest)) = &whole.end else { continue };
        assert!(data.ends_with(rest));
        let written = write_chunked(&whole.data, trailers, 4);
        let again = body(Chunked, &written, 7, false);
        assert!(again.data == whole.data && again.end.is_some_and(|(_, rest)| rest.is_empty()));
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
