//! The cost of a client's frames that request nothing: each frame is counted, within a budget.
//! There is no I/O, and the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::FrameHead;

/// The points of a new connection, and the most that it ever has. A browser uses less than a tenth.
const BURST: f64 = 1000.0;
/// Points that are regained in a second.
const PER_SECOND: f64 = 100.0;
/// Bytes of responses that earn a point: a client that reads much has to send many WINDOW_UPDATEs.
const BYTES_PER_POINT: f64 = 2048.0;

/// Follows the frames of one client.
#[derive(Debug)]
pub(crate) struct Meter {
    points: f64,
    paid: Instant,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { points: BURST, paid: now }
    }

    /// Counts a received frame.
    pub(crate) fn charge(&mut self, head: FrameHead) {
        self.points -= cost(head.kind, head.flags, head.length);
    }

    /// Whether the client is within its budget.
    pub(crate) fn has_points(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.paid);
        if since > Duration::ZERO {
            self.points = (self.points + since.as_secs_f64() * PER_SECOND).min(BURST);
            self.paid = now;
        }
        self.points >= 0.0
    }

    /// Counts bytes that were sent to the client.
    pub(crate) fn record_sent(&mut self, bytes: usize) {
        self.points = (self.points + bytes as f64 / BYTES_PER_POINT).min(BURST);
    }
}

/// The cost of a frame, by its type, flags and length (RFC 9113, 6).
fn cost(kind: u8, flags: u8, length: u32) -> f64 {
    const END_STREAM: u8 = 1;
    match kind {
        // DATA: an empty frame is useless except to end a stream, and a small one costs more than
        // it is worth. The last frame of a request comes once for each request.
        0 if length == 0 && flags & END_STREAM == 0 => 2.0,
        0 if flags & END_STREAM == 0 && length < 64 => 0.125,
        // HEADERS: a request costs more than this in any case, and requests at a time are limited.
        0 | 1 => 0.0,
        // RST_STREAM: work was done in vain.
        3 => 2.0,
        // SETTINGS have to be acknowledged, and may change much.
        4 => 5.0,
        // PRIORITY, PING, WINDOW_UPDATE, CONTINUATION, and unknown frames.
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u32) -> FrameHead {
        FrameHead { length, kind, flags, stream: 0 }
    }

    fn takes(meter: &mut Meter, frame: FrameHead, now: Instant) -> bool {
        meter.charge(frame);
        meter.has_points(now)
    }

    /// How many of these frames in a row a client may send.
    #[track_caller]
    fn check(kind: u8, flags: u8, length: u32, expected: Option<usize>) {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        let seen = (0..20_000).find(|_| !takes(&mut meter, frame(kind, flags, length), now));
        assert_eq!(seen, expected, "{kind}");
    }

    #[tokio::test]
    async fn gh12_gh15_useless_frames_are_counted() {
        check(0, 0, 0, Some(500));
        check(0, 1, 0, None);
        check(0, 0, 1, Some(8000));
        check(0, 0, 100, None);
        check(1, 4, 30, None);
        check(2, 0, 5, Some(1000));
        check(3, 0, 4, Some(500));
        check(4, 0, 6, Some(200));
        check(6, 0, 8, Some(1000));
        check(8, 0, 4, Some(1000));
        check(9, 0, 4, Some(1000));
        check(99, 0, 0, Some(1000));
    }

    #[tokio::test]
    async fn points_are_regained_with_time_and_sent_bytes() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let ping = frame(6, 0, 8);
        (0..1000).for_each(|_| assert!(takes(&mut meter, ping, start)));
        assert!(!takes(&mut meter, ping, start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).take_while(|_| takes(&mut meter, ping, later)).count(), 99);
        meter.record_sent(2048 * 51);
        assert_eq!((0..1000).take_while(|_| takes(&mut meter, ping, later)).count(), 50);
        meter.record_sent(usize::MAX);
        assert_eq!((0..2000).take_while(|_| takes(&mut meter, ping, later)).count(), 1000);
    }
}
