//! Random numbers for ids, which differ between processes.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};

use fastrand::Rng;

thread_local! {
    /// Seeded by the system. The generator's own seed is made of the time and the thread, so it can
    /// be the same in two processes that start at one moment. Two nodes with one id would supersede
    /// each other for ever.
    static RNG: RefCell<Rng> = RefCell::new(Rng::with_seed(from_system()));
}

/// A number for the id of an instance, a trace or a request. Not for secrets.
pub fn unique_id() -> u128 {
    RNG.with_borrow_mut(|rng| rng.u128(1..))
}

/// A number from the system's source of randomness, obtained through the keys of the standard
/// library's hasher.
fn from_system() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_in_and_among_threads() {
        let threads: Vec<_> = (0..64).map(|_| std::thread::spawn(|| [(); 16].map(|()| unique_id()))).collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 64 * 16);
    }

    /// The purpose of this file: the seed does not come from the clock.
    #[test]
    fn seeds_of_one_moment_differ() {
        let seeds: HashSet<_> = (0..1000).map(|_| from_system()).collect();
        assert_eq!(seeds.len(), 1000);
    }
}
