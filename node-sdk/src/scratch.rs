//! A buffer for text that is on its way to another one, so that making it allocates nothing.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that has become larger is given back.
const USUAL_BYTES: usize = 64 * 1024;

/// Lends an empty buffer. What is made in it may ask for one too: it gets another.
pub(crate) fn with_scratch<R>(make: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let made = make(&mut scratch);
    if scratch.capacity() <= USUAL_BYTES {
        SCRATCH.set(scratch);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_empty_even_inside_another() {
        with_scratch(|outer| {
            outer.extend_from_slice(b"outer");
            with_scratch(|inner| {
                assert!(inner.is_empty());
                inner.resize(2 * USUAL_BYTES, 0);
            });
            assert_eq!(outer, b"outer");
        });
        with_scratch(|next| assert!(next.is_empty() && next.capacity() <= USUAL_BYTES));
    }
}
