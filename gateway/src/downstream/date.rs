//! The time of day in the form of HTTP.

use std::cell::RefCell;
use std::time::Duration;

use net::time_of_day;
use tokio::time::Instant;

/// How long a date may be used again. It shows seconds, so it is half a second late at most.
const MAX_AGE: Duration = Duration::from_millis(500);

/// Calls `with` with the time of day as text, which each thread writes twice a second at most.
pub(crate) fn with_date<T>(now: Instant, with: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
    }
    DATE.with_borrow_mut(|date| {
        if date.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= MAX_AGE) {
            *date = Some((now, httpdate::fmt_http_date(time_of_day())));
        }
        with(date.as_ref().map_or("", |(_, date)| date))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_date_is_written_as_http_has_it() {
        let date = with_date(Instant::now(), str::to_owned);
        assert!(date.ends_with(" GMT") && httpdate::parse_http_date(&date).is_ok(), "{date}");
    }
}
