//! A table of fixed size, by hash, of what was seen recently. A new entry replaces the one that
//! expires soonest. There is no I/O, and the time is an argument.

use tokio::time::Instant;

/// The number of sets, each for some of the hashes, and the cells of a set. The table has 128 KiB
/// from its first entry on.
const SETS: usize = 1024;
const WAYS: usize = 4;

/// Remembers a number for each hash, for a while.
#[derive(Debug, Default)]
pub(crate) struct RecentTable {
    /// None until the first entry.
    sets: Vec<[Cell; WAYS]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    hash: u64,
    /// `None`: it is free.
    until: Option<Instant>,
    value: usize,
}

impl RecentTable {
    /// Whether there has never been an entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Sets the number of a hash.
    pub(crate) fn record(&mut self, hash: u64, value: usize, until: Instant) {
        if self.sets.is_empty() {
            self.sets = vec![Default::default(); SETS];
        }
        let set = &mut self.sets[set_of(hash)];
        let own = set.iter().position(|cell| cell.hash == hash && cell.until.is_some());
        let at = own.unwrap_or_else(|| (0..WAYS).min_by_key(|at| set[*at].until).unwrap_or(0));
        set[at] = Cell { hash, until: Some(until), value };
    }

    /// The number of a hash, if its time is not over.
    pub(crate) fn find(&self, hash: u64, now: Instant) -> Option<usize> {
        let cell = self.sets.get(set_of(hash))?.iter().find(|cell| cell.hash == hash)?;
        cell.until.filter(|until| now < *until).map(|_| cell.value)
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        let cells = self.sets.get_mut(set_of(hash)).into_iter().flatten();
        cells.filter(|cell| cell.hash == hash).for_each(|cell| *cell = Cell::default());
    }
}

fn set_of(hash: u64) -> usize {
    usize::try_from(hash).unwrap_or_default() % SETS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_found_until_it_is_over_and_the_table_stays_as_large_as_it_is() {
        let (mut table, now) = (RecentTable::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(table.is_empty() && table.find(7, now).is_none());
        table.record(7, 1, later(2));
        table.record(7, 3, later(1));
        assert_eq!((table.find(7, now), table.find(7, later(1)), table.find(8, now)), (Some(3), None, None));
        // Many of one set: the last ones stay.
        for number in 1..=10 {
            table.record(7 + 1024 * number, 1, later(number + 2));
        }
        let found = (0..=10).filter(|number| table.find(7 + 1024 * number, now).is_some());
        assert_eq!((found.collect::<Vec<_>>(), table.sets.len()), (vec![7, 8, 9, 10], SETS));
        table.remove(7 + 1024 * 10);
        assert_eq!(table.find(7 + 1024 * 10, now), None);
    }
}
