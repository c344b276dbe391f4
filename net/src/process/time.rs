//! Sleeping until a time that may not be set, and the time of day for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

/// Completes at `time`, or never if there is none. Cancel safe.
pub async fn sleep_until_opt(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The time of day for headers and logs. It is between 1970 and 9999, even if the clock is wrong,
/// because text formats reach no further. No decision may depend on it.
#[expect(clippy::disallowed_methods, reason = "people and clients are told the time of day")]
pub fn time_of_day() -> SystemTime {
    clamp_to_printable(SystemTime::now())
}

/// The nearest time whose year has four digits.
fn clamp_to_printable(time: SystemTime) -> SystemTime {
    // 9999-12-31T23:59:59Z.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr17_a_clock_that_is_far_off_can_be_written() {
        let day = Duration::from_secs(86_400);
        let check = |time: SystemTime, days_after_1970: u64| {
            assert_eq!(
                clamp_to_printable(time).duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400,
                days_after_1970
            );
        };
        check(UNIX_EPOCH - day * 20_000, 0);
        check(UNIX_EPOCH, 0);
        check(UNIX_EPOCH + day * 20_000, 20_000);
        check(UNIX_EPOCH + day * 4_000_000, 2_932_896);
    }
}
