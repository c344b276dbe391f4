//! Limits of packets and queues that several modules need.

use std::time::Duration;

/// Maximum bytes of one packet, in either direction: larger data belongs into a stream.
pub(crate) const MAX_FRAME_BYTES: usize = 8 << 20;

/// How long a call may take, unless it sets a timeout: half of what the gateway gives a request.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlightLimits {
    /// Maximum number of calls in flight: less than 65,536.
    pub(crate) max_calls: usize,
    /// Maximum bytes that wait to be written.
    pub(crate) max_queued_bytes: usize,
    /// Maximum bytes of one packet to a version 2 node.
    pub(crate) max_packet_bytes: usize,
    /// Maximum bytes that a version 1 node may have unread.
    pub(crate) read_window: usize,
}
