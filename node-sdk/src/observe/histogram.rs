//! How long calls take, by a few bounds.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the times, in microseconds. A call that waits for its timeout takes 5 s.
const BOUNDS_US: [u64; 10] = [100, 250, 500, 1000, 2500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000];

/// Counts times by the lowest bound above each.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last counts all that are above the bounds.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    total_us: AtomicU64,
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Writes the series `name` with this label, in Prometheus' text format.
    pub(super) fn write(&self, out: &mut String, name: &str, label: &str) {
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            let bound = BOUNDS_US.get(at).map_or_else(|| "+Inf".to_owned(), |us| seconds(*us).to_string());
            let _ = writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {below}");
        }
        let total = seconds(self.total_us.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{{{label}}} {total}\n{name}_count{{{label}}} {below}");
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_each_bound() {
        let times = Histogram::default();
        [50, 100, 101, 3_000_000, 60_000_000]
            .map(Duration::from_micros)
            .into_iter()
            .for_each(|took| times.record(took));
        let mut text = String::new();
        times.write(&mut text, "n", "route=\"r\"");
        #[track_caller]
        fn check(text: &str, line: &str) {
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        }
        check(&text, "n_bucket{route=\"r\",le=\"0.0001\"} 2");
        check(&text, "n_bucket{route=\"r\",le=\"0.00025\"} 3");
        check(&text, "n_bucket{route=\"r\",le=\"1\"} 3");
        check(&text, "n_bucket{route=\"r\",le=\"10\"} 4");
        check(&text, "n_bucket{route=\"r\",le=\"+Inf\"} 5");
        check(&text, "n_sum{route=\"r\"} 63.000251");
        check(&text, "n_count{route=\"r\"} 5");
    }
}
