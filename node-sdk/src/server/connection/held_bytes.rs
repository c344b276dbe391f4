//! How much may be held for one caller, and what is discarded beyond that.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use net::warn;
use tokio::time::Instant;

use super::{CallerConnection, MAX_RUNNING};
use crate::error::no_room;
use crate::handler::response_sink::ReturnPath;
use crate::server::running_calls::CallHandle;
use crate::transport::budget::MIN_BYTES;

/// Maximum bytes of responses that wait for one caller. Until it reads some of them, its calls are
/// not read. Its other limits are in [`budget`](crate::transport::budget).
const MAX_WAITING_BYTES: usize = 8 << 20;

impl CallerConnection<'_> {
    /// Whether more of its packets may be read.
    pub(super) fn has_room(&self) -> bool {
        self.running.len().saturating_sub(self.handles.streams) < MAX_RUNNING
            && self.is_reading()
            && self.running_bytes + self.in_streams.load(Ordering::Relaxed) < self.allowed_bytes
    }

    /// Bytes that are held for the caller.
    pub(super) fn held_bytes(&self) -> usize {
        let (come, large) = (self.reader.buffered().len(), self.large.as_ref().map_or(0, Bytes::len));
        come + large + self.running_bytes + self.in_streams.load(Ordering::Relaxed) + self.responses.kept_bytes()
    }

    /// Charges the bytes held for the caller to the budget, and stores how many may be held.
    pub(super) fn charge(&mut self) {
        let held = self.held_bytes();
        self.allowed_bytes = self.share.charge(held);
        if held >= self.allowed_bytes {
            self.discard_parts();
        }
    }

    /// Parts that handlers do not read must not keep the caller from being read. While they are
    /// most of the bytes that may be held for the caller, the stream with the most parts ends.
    fn discard_parts(&mut self) {
        while self.in_streams.load(Ordering::Relaxed) > self.allowed_bytes / 2 {
            let waiting =
                |call: &CallHandle| call.call_stream.as_ref().map_or(0, |call_stream| call_stream.waiting_bytes());
            let largest = self.handles.by_key.values().max_by_key(|call| waiting(call));
            // The remaining bytes belong to calls that are over.
            let Some(call_stream) =
                largest.filter(|largest| waiting(largest) > 0).and_then(|largest| largest.call_stream.clone())
            else {
                break;
            };
            call_stream.discard_parts();
            self.log_full("the parts of a stream");
        }
    }

    /// Counts and logs that something was refused for lack of memory.
    fn log_full(&mut self, what: &str) {
        self.share.count_refusal();
        if let Some(suppressed) = self.full.allow(Instant::now().into_std()) {
            let (held, allowed_bytes) = (self.held_bytes(), self.allowed_bytes);
            warn!(
                peer = %self.caller.address, held, allowed_bytes, suppressed,
                "cut: no room for {what} of this caller (the budget is that of all callers)"
            );
        }
    }

    /// Keeps the response that was written after `before` bytes, if it fits. Otherwise an error
    /// replaces it. Returns whether it fits.
    pub(super) fn keep_or_refuse(&mut self, before: usize, to: &ReturnPath) -> bool {
        let waiting = self.responses.len();
        if waiting == before || self.share.fits(waiting) {
            if waiting - before > MIN_BYTES {
                // Charged at once: other callers may be served before this one is charged again.
                self.charge();
            }
            return true;
        }
        self.responses.replace(before, to, &no_room("this answer"));
        self.log_full("a response");
        false
    }

    /// Whether the caller reads its responses. Otherwise its calls do not continue.
    pub(super) fn is_reading(&self) -> bool {
        self.responses.len() < MAX_WAITING_BYTES.min(self.allowed_bytes)
    }
}
