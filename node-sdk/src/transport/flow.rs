//! The two directions of a stream, without I/O: received parts that were not read, and the credit
//! to send.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use protocol::{MAX_RAW_PART_BYTES, Packet, Part, Side, parse_part, read_raw_part};
use serde::de::{DeserializeOwned, Error as _};

/// A smaller part is copied. Otherwise it would keep alive the whole buffer that it was read with,
/// 64 KiB or more, which no budget counts. A larger part is most of its buffer.
const SMALL_BYTES: usize = 64 * 1024;
/// A smaller part of raw bytes is copied. Readers know where such a part ends, and read a larger
/// one into a buffer of its own.
const SMALL_RAW_BYTES: usize = 16 * 1024;
/// Raw bytes of a part at least, unless there are no more: with little credit left, parts would be
/// small.
const MIN_RAW_PART_BYTES: usize = 4 * 1024;

/// The memory of a waiting part beside its own bytes.
const PART_OVERHEAD_BYTES: usize = 64;

/// The receiving side: parts that were received, in order.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// Bytes that the peer may send ahead; the last part may exceed them. Credit is returned when
    /// half of it is consumed, which keeps the peer busy.
    window: u32,
    /// The credit that is left. With any credit, one whole part may be sent.
    credit: i64,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// The number of the last part.
    last: u64,
    /// Bytes that were read and not yet returned as credit.
    consumed: u32,
    is_over: bool,
    reader: Option<Waker>,
}

/// How the peer broke the rules of flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowViolation {
    /// A part is missing or was sent twice.
    Gap,
    /// A part was sent without credit.
    Overrun,
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct SendWindow {
    credit: i64,
    sent: u64,
    is_over: bool,
    writer: Option<Waker>,
}

impl ReceiveWindow {
    pub(crate) fn new(window: u32) -> Self {
        let (credit, waiting) = (window.into(), VecDeque::new());
        Self { window, credit, waiting, waiting_bytes: 0, last: 0, consumed: 0, is_over: false, reader: None }
    }

    /// Takes a received part. Returns the task to wake.
    pub(crate) fn push(&mut self, part: Part, frame: Bytes) -> Result<Option<Waker>, FlowViolation> {
        if self.is_over || part.number != self.last + 1 {
            return Err(FlowViolation::Gap);
        }
        self.last = part.number;
        if part.is_end {
            return Ok(self.end());
        }
        if self.credit <= 0 {
            return Err(FlowViolation::Overrun);
        }
        self.credit -= i64::try_from(frame.len()).unwrap_or(i64::MAX);
        self.waiting_bytes += PART_OVERHEAD_BYTES + frame.len();
        let small = if read_raw_part(&frame).is_some() { SMALL_RAW_BYTES } else { SMALL_BYTES };
        self.waiting.push_back(if frame.len() > small { frame } else { Bytes::copy_from_slice(&frame) });
        Ok(self.reader.take())
    }

    /// Lets the peer send this many more bytes ahead, which it has to be told.
    pub(crate) fn widen(&mut self, bytes: u32) {
        self.window = self.window.saturating_add(bytes);
        self.credit += i64::from(bytes);
    }

    /// Records that no more parts follow. Returns the task to wake.
    pub(crate) fn end(&mut self) -> Option<Waker> {
        self.is_over = true;
        self.reader.take()
    }

    /// The next part; `None` after the last.
    pub(crate) fn poll_part(&mut self, task: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(frame) = self.waiting.pop_front() {
            self.waiting_bytes -= PART_OVERHEAD_BYTES + frame.len();
            self.consumed = self.consumed.saturating_add(u32::try_from(frame.len()).unwrap_or(u32::MAX));
            return Poll::Ready(Some(frame));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.reader = Some(task.waker().clone());
        Poll::Pending
    }

    /// Bytes of parts that wait to be read.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Discards the parts that wait.
    pub(crate) fn clear(&mut self) {
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
    }

    /// Whether no more parts follow. Some may still wait to be read.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether there is enough credit to return.
    pub(crate) fn has_credit_due(&self) -> bool {
        self.consumed >= self.window / 2 && !self.is_over
    }

    /// The credit to return now, if there is enough.
    pub(crate) fn next_credit(&mut self) -> Option<u32> {
        let given = self.has_credit_due().then(|| std::mem::take(&mut self.consumed));
        self.credit += i64::from(given.unwrap_or(0));
        given
    }
}

impl SendWindow {
    pub(crate) fn new(credit: u32) -> Self {
        Self { credit: credit.into(), sent: 0, is_over: false, writer: None }
    }

    /// Takes credit from the peer. Returns the task to wake.
    pub(crate) fn grant(&mut self, bytes: u32) -> Option<Waker> {
        // Saturating: no peer can use that much credit.
        self.credit = self.credit.saturating_add(bytes.into());
        self.writer.take()
    }

    /// The credit in bytes; negative after a part that was larger than the rest of it.
    pub(crate) fn credit(&self) -> i64 {
        self.credit
    }

    /// Whether a part may be sent now.
    pub(crate) fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.credit > 0 {
            return Poll::Ready(());
        }
        self.writer = Some(task.waker().clone());
        Poll::Pending
    }

    /// The number of the next packet.
    pub(crate) fn next_number(&self) -> u64 {
        self.sent + 1
    }

    /// Records that a packet of this size was sent, not counting its delimiter.
    pub(crate) fn record_sent(&mut self, bytes: usize) {
        self.sent += 1;
        self.credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Ends the direction. Returns whether it was open.
    pub(crate) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_over, true)
    }

    /// Whether the end was sent.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }
}

/// The data of a part.
pub(crate) fn read_part<T: DeserializeOwned>(frame: &[u8], from: Side) -> Result<T, serde_json::Error> {
    if let Some((_, _, body)) = parse_part(frame, from)
        && let Ok(item) = serde_json::from_slice(body)
    {
        return Ok(item);
    }
    let packet = Packet::parse(frame).map_err(serde_json::Error::custom)?;
    serde_json::from_str(packet.params.map_or("null", |params| params.get()))
}

/// How many raw bytes a part may have, if the other side takes `credit` more: with plenty of it as
/// many as any part, and with little about as many as are taken.
pub(crate) fn max_part_bytes(credit: i64) -> usize {
    match usize::try_from(credit).unwrap_or(0) {
        credit if credit > MAX_RAW_PART_BYTES / 2 => MAX_RAW_PART_BYTES,
        credit => credit.max(MIN_RAW_PART_BYTES),
    }
}

/// Takes the first `max` bytes.
pub(crate) fn take_front(body: &mut VecDeque<Bytes>, mut max: usize) -> Vec<Bytes> {
    let mut taken = Vec::with_capacity(body.len());
    while let Some(piece) = body.front_mut().filter(|_| max > 0) {
        let part = piece.split_to(max.min(piece.len()));
        if piece.is_empty() {
            body.pop_front();
        }
        max -= part.len();
        taken.push(part);
    }
    taken
}

#[cfg(test)]
mod tests {
    use protocol::{STREAM_WINDOW, write_raw_part};

    use super::*;
    use crate::transport::limits::MAX_FRAME_BYTES;

    fn part(number: u64) -> Part {
        Part { number, is_end: false }
    }

    fn frame(bytes: usize) -> Bytes {
        Bytes::from(vec![b' '; bytes])
    }

    #[test]
    fn parts_come_in_order_and_in_bounds() {
        let mut receive = ReceiveWindow::new(STREAM_WINDOW);
        assert_eq!(receive.push(part(0), frame(1)).err(), Some(FlowViolation::Gap));
        assert_eq!(receive.push(part(2), frame(1)).err(), Some(FlowViolation::Gap));
        assert!(receive.push(part(1), frame(STREAM_WINDOW as usize - 1)).is_ok());
        assert!(
            receive.push(part(2), frame(MAX_FRAME_BYTES)).is_ok(),
            "with any credit left, one whole part may be sent"
        );
        assert_eq!(receive.push(part(3), frame(1)).err(), Some(FlowViolation::Overrun));
        assert_eq!(receive.waiting_bytes(), STREAM_WINDOW as usize - 1 + MAX_FRAME_BYTES + 2 * PART_OVERHEAD_BYTES);
        let mut ended = ReceiveWindow::new(STREAM_WINDOW);
        assert!(ended.push(Part { number: 1, is_end: true }, frame(0)).is_ok());
        assert_eq!(ended.push(part(2), frame(1)).err(), Some(FlowViolation::Gap));
    }

    #[test]
    fn credit_is_returned_in_portions() {
        let mut task = Context::from_waker(Waker::noop());
        let (mut receive, mut send) = (ReceiveWindow::new(STREAM_WINDOW), SendWindow::new(STREAM_WINDOW));
        let (mut sent, mut granted) = (0, 0);
        for number in 1..=1000 {
            while send.poll_ready(&mut task).is_pending() {
                let Poll::Ready(Some(taken)) = receive.poll_part(&mut task) else { panic!("the part has arrived") };
                assert_eq!(taken.len(), 1000);
                if let Some(credit) = receive.next_credit() {
                    assert!((STREAM_WINDOW / 2..STREAM_WINDOW / 2 + 1000).contains(&credit));
                    granted += u64::from(credit);
                    send.grant(credit);
                }
            }
            receive.push(part(number), frame(1000)).unwrap();
            assert_eq!(send.next_number(), number);
            send.record_sent(1000);
            sent += 1000;
            let overhead = receive.waiting.len() * PART_OVERHEAD_BYTES;
            assert!(receive.waiting_bytes <= STREAM_WINDOW as usize + 1000 + overhead);
        }
        assert!(granted <= sent && sent <= granted + u64::from(STREAM_WINDOW) + 1000);
        while let Poll::Ready(Some(_)) = receive.poll_part(&mut task) {}
        assert_eq!(receive.waiting_bytes(), 0);
    }

    #[test]
    fn a_waiting_part_keeps_alive_nothing_else() {
        #[track_caller]
        fn check(read: &Bytes, alone: bool) {
            let mut receive = ReceiveWindow::new(STREAM_WINDOW);
            receive.push(part(1), read.slice(..)).unwrap();
            assert_eq!(read.is_unique(), alone, "{}", read.len());
        }
        check(&frame(40), true);
        check(&frame(SMALL_BYTES), true);
        check(&frame(SMALL_BYTES + 1), false);
        for (bytes, alone) in [(40, true), (SMALL_RAW_BYTES - 100, true), (SMALL_RAW_BYTES, false)] {
            let mut out = bytes::BytesMut::new();
            write_raw_part(&mut out, Side::Caller, (1, 1), bytes, [&vec![0; bytes][..]]);
            check(&out.freeze(), alone);
        }
    }

    #[test]
    fn a_wider_window_lets_more_be_sent() {
        let mut receive = ReceiveWindow::new(1000);
        receive.push(part(1), frame(1000)).unwrap();
        receive.widen(500);
        receive.push(part(2), frame(500)).unwrap();
        assert_eq!(receive.push(part(3), frame(1)).err(), Some(FlowViolation::Overrun));
        let mut task = Context::from_waker(Waker::noop());
        assert!(receive.poll_part(&mut task).is_ready());
        assert_eq!(receive.next_credit(), Some(1000), "more than half of the wider window was read");
    }

    #[test]
    fn parts_are_cut_at_any_piece() {
        let check = |pieces: &[&'static str], max: usize, expected: &[&str], left: &[&str]| {
            let mut body: VecDeque<Bytes> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            assert_eq!(take_front(&mut body, max), expected, "{pieces:?} {max}");
            assert_eq!(body, left, "{pieces:?} {max}");
        };
        check(&["abc", "de"], 2, &["ab"], &["c", "de"]);
        check(&["abc", "de"], 3, &["abc"], &["de"]);
        check(&["abc", "de"], 4, &["abc", "d"], &["e"]);
        check(&["abc", "de"], 9, &["abc", "de"], &[]);
        check(&["", "a"], 1, &["", "a"], &[]);
        check(&[], 1, &[], &[]);
    }

    #[test]
    fn parts_are_about_as_large_as_the_credit() {
        for (credit, bytes) in [(-5, 4096), (1, 4096), (16_000, 16_000), (32_768, 32_768), (32_769, 65_536)] {
            assert_eq!(max_part_bytes(credit), bytes, "{credit}");
        }
    }
}
