//! Medians and percentiles, and the lines of the tables.

use std::time::Duration;

/// Prints a line of a table.
pub(crate) fn row(what: &str, figures: &str) {
    println!("{what:44} {figures}");
}

/// Prints the title of a table.
pub(crate) fn title(text: &str) {
    println!("\n{text}");
}

/// The median and the 99th percentile.
pub(crate) fn percentiles(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[(times.len() * 99 / 100).min(times.len() - 1)])
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(crate) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The median.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
