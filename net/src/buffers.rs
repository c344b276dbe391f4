//! Buffers that a thread uses again and again, so that neither an idle connection nor a small
//! message costs one.
//!
//! [`with_scratch`] lends memory for text that is then copied, [`with_read_buffer`] memory to read
//! into, and [`acquire`] gives a buffer that is kept until [`release`] takes it back.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of the buffer that [`with_read_buffer`] lends.
pub const READ_BYTES: usize = 16 * 1024;

/// A scratch buffer that has become larger is freed.
const MAX_SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers that are kept for later: as many as a busy thread uses at a time.
const MAX_KEPT: usize = 128;
/// A released buffer that is larger is freed.
const MAX_KEPT_BYTES: usize = 16 * 1024;
/// A released buffer with less room is not worth keeping.
const MIN_KEPT_BYTES: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Lends an empty buffer for text that is copied to another one, so that making it allocates
/// nothing. A call inside another one gets a buffer of its own.
pub fn with_scratch<R>(make: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let made = make(&mut scratch);
    if scratch.capacity() <= MAX_SCRATCH_BYTES {
        SCRATCH.set(scratch);
    }
    made
}

/// Lends [`READ_BYTES`] to read into, with arbitrary contents: copying a small message costs less
/// than clearing room for it in every buffer. A call inside another one gets a buffer of its own.
pub fn with_read_buffer<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = READ.take();
    // Only the first time: it keeps this length.
    buffer.resize(READ_BYTES, 0);
    let done = read(&mut buffer);
    READ.set(buffer);
    done
}

/// An empty buffer.
pub fn acquire() -> BytesMut {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Replaces a buffer that was given away by one that can be written to.
pub fn make_ready(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = acquire();
        buffer.reserve(MIN_KEPT_BYTES);
    }
}

/// Takes a buffer back. Its contents are lost.
pub fn release(mut buffer: BytesMut) {
    buffer.clear();
    // A buffer of which others still hold a part cannot be reused, and one that was never used is
    // not worth keeping.
    if !buffer.try_reclaim(MIN_KEPT_BYTES) || buffer.capacity() > MAX_KEPT_BYTES {
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
        release(used(MAX_KEPT_BYTES + 1));
        assert_eq!(acquire().capacity(), 0, "too large");
        let mut buffer = BytesMut::new();
        make_ready(&mut buffer);
        assert!(buffer.capacity() >= MIN_KEPT_BYTES);
        let mut split = used(4096);
        let held = split.split().freeze();
        release(split);
        assert!(acquire().is_empty() && held == "abc");
        (0..MAX_KEPT + 10).for_each(|_| release(used(4096)));
        assert_eq!((0..MAX_KEPT + 10).filter(|_| acquire().capacity() >= 4096).count(), MAX_KEPT);
    }

    #[test]
    fn a_scratch_buffer_is_empty_even_inside_another() {
        with_scratch(|outer| {
            outer.extend_from_slice(b"outer");
            with_scratch(|inner| {
                assert!(inner.is_empty());
                inner.resize(2 * MAX_SCRATCH_BYTES, 0);
            });
            assert_eq!(outer, b"outer");
        });
        with_scratch(|next| assert!(next.is_empty() && next.capacity() <= MAX_SCRATCH_BYTES));
    }

    #[test]
    fn a_read_buffer_keeps_its_size_even_inside_another() {
        let at = with_read_buffer(|outer| {
            outer[0] = 1;
            with_read_buffer(|inner| inner.fill(2));
            assert_eq!((outer[0], outer.len()), (1, READ_BYTES));
            outer.as_ptr()
        });
        with_read_buffer(|next| assert_eq!((next.as_ptr(), next.len()), (at, READ_BYTES), "it is lent again"));
    }
}
