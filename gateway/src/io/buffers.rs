//! Buffers that a thread uses again and again: an idle connection holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// Buffers that are kept for later: as many as are used at a time on a busy thread.
const MAX_KEPT: usize = 128;
/// A buffer that is larger is given back to the system.
const MAX_BYTES: usize = 16 * 1024;
/// One with less room is not worth keeping.
const LEAST_BYTES: usize = 1024;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn acquire() -> BytesMut {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Puts a buffer that can be written to in the place of one that was given away.
pub(crate) fn make_ready(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = acquire();
        buffer.reserve(LEAST_BYTES);
    }
}

/// Takes a buffer back; what is in it is lost.
pub(crate) fn release(mut buffer: BytesMut) {
    buffer.clear();
    // What others still hold a part of is theirs; what was never used is of no use.
    if !buffer.try_reclaim(LEAST_BYTES) || buffer.capacity() > MAX_BYTES {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < MAX_KEPT {
            kept.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_not_too_many() {
        let used = |bytes: usize| {
            let mut buffer = BytesMut::with_capacity(bytes);
            buffer.extend_from_slice(b"abc");
            buffer
        };
        release(used(MAX_BYTES + 1));
        assert_eq!(acquire().capacity(), 0, "too large");
        let mut buffer = BytesMut::new();
        make_ready(&mut buffer);
        assert!(buffer.capacity() >= LEAST_BYTES);
        let mut split = used(4096);
        let held = split.split().freeze();
        release(split);
        assert!(acquire().is_empty() && held == "abc");
        (0..MAX_KEPT + 10).for_each(|_| release(used(4096)));
        assert_eq!((0..MAX_KEPT + 10).filter(|_| acquire().capacity() >= 4096).count(), MAX_KEPT);
    }
}
