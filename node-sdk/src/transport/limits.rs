//! Limits that both directions of calls share.

use std::time::Duration;

/// Most bytes of one packet, either way.
pub(crate) const MAX_FRAME_BYTES: usize = 8 << 20;

/// How long a call may take unless it says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// How much may wait on one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlightLimits {
    /// Calls that somebody waits for: less than 65,536.
    pub(crate) max_calls: usize,
    /// Bytes that are not written.
    pub(crate) max_queued_bytes: usize,
    /// Bytes of one packet that a version 2 node takes.
    pub(crate) max_packet_bytes: usize,
}
