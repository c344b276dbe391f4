//! When an event is sent again that was not acknowledged, without I/O.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::CallError;

/// The pause before the second attempt: about as long as a connection to another node takes. It
/// doubles with each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: a group that is back gets its events soon.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The attempts to deliver one event to one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redelivery {
    deadline: Instant,
    attempts: u32,
}

impl Redelivery {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, attempts: 0 }
    }

    /// How many attempts there were before the present one.
    pub(super) fn attempt(&self) -> u8 {
        u8::try_from(self.attempts).unwrap_or(u8::MAX)
    }

    /// When to try again after an attempt that has failed; `None` if another one would fail, too,
    /// or there is no time. `sample` is a random number from 0 to 1: nodes that have failed
    /// together do not try again together.
    pub(super) fn next(&mut self, now: Instant, error: &CallError, sample: f64) -> Option<Instant> {
        let after = retry_after(error)?;
        let pause = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(16)).min(MAX_PAUSE);
        self.attempts += 1;
        let pause = pause.mul_f64(0.5 + sample.clamp(0.0, 1.0) / 2.0).max(after);
        Some(now + pause).filter(|at| *at < self.deadline)
    }
}

/// Whether another attempt would fail, too.
#[cfg(feature = "event-log")]
pub(crate) fn is_final(error: &CallError) -> bool {
    retry_after(error).is_none()
}

/// How long to wait at least before another attempt; `None` if that would fail, too.
fn retry_after(error: &CallError) -> Option<Duration> {
    match error {
        CallError::NoRoute { .. }
        | CallError::NoProvider { .. }
        | CallError::NotAsked { .. }
        | CallError::NoList { .. }
        | CallError::Overloaded { .. }
        | CallError::Deadline { .. }
        | CallError::Lost { .. }
        // The node has acknowledged it in a form that cannot be read, or something else listens
        // there.
        | CallError::Response { .. }
        | CallError::Ended { .. } => Some(Duration::ZERO),
        CallError::Refused { status: 408 | 421 | 425 | 429 | 500 | 502.., retry_after, .. } => {
            Some(retry_after.unwrap_or_default())
        }
        CallError::Refused { .. }
        | CallError::BadUrl { .. }
        | CallError::OutsideInterests { .. }
        | CallError::TooLarge { .. }
        | CallError::Params { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<Duration>) -> CallError {
        CallError::Refused { status, reason: String::new(), message: String::new(), retry_after }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_the_time_is_over() {
        let start = Instant::now();
        let (mut redelivery, mut now) = (Redelivery::new(start + Duration::from_secs(30)), start);
        let mut pauses = Vec::new();
        while let Some(at) = redelivery.next(now, &refused(503, None), 1.0) {
            pauses.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]);
        assert_eq!(redelivery.attempt(), 12);
        let half = Redelivery::new(start + Duration::from_secs(1)).next(start, &refused(500, None), 0.0);
        assert_eq!(half, Some(start + FIRST_PAUSE / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_fail_again_is_not_tried_again() {
        #[track_caller]
        fn check(error: &CallError, expected: Option<u64>) {
            let now = Instant::now();
            let next = Redelivery::new(now + Duration::from_secs(60)).next(now, error, 1.0);
            assert_eq!(next, expected.map(|ms| now + Duration::from_millis(ms)), "{error}");
        }
        let url = || "EVENT/a".to_owned();
        for status in [408, 421, 425, 429, 500, 503, 504, 599] {
            check(&refused(status, None), Some(50));
        }
        for status in [400, 404, 409, 422, 501] {
            check(&refused(status, None), None);
        }
        check(&refused(503, Some(Duration::from_secs(2))), Some(2000));
        check(&refused(503, Some(Duration::from_secs(70))), None);
        check(&CallError::Lost { url: url(), node: ([127, 0, 0, 1], 1).into() }, Some(50));
        check(&CallError::NoProvider { url: url() }, Some(50));
        check(&CallError::TooLarge { url: url() }, None);
        check(&CallError::BadUrl { url: url(), reason: "" }, None);
    }
}
