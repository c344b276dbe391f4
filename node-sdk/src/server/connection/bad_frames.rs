//! Frames of a caller that are not packets, or that became packets when their pieces were joined.

use std::net::SocketAddr;

use net::{KeyedThrottle, warn};
use protocol::Version;
use tokio::time::Instant;

/// Broken packets after which a connection is cut: later packets are unlikely to be better.
const MAX_STRIKES: u32 = 3;

/// The broken frames of one caller.
#[derive(Debug)]
pub(super) struct BadFrames {
    peer: SocketAddr,
    strikes: u32,
    /// Whether the caller's last sound packet was of version 1.
    is_legacy: bool,
    log: KeyedThrottle,
}

impl BadFrames {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { peer, strikes: 0, is_legacy: false, log: KeyedThrottle::default() }
    }

    /// Records that the caller has sent a sound packet.
    pub(super) fn record_sound(&mut self, version: Version) {
        self.is_legacy = version == Version::V1;
    }

    /// Counts a frame that is not a packet, and is ignored.
    ///
    /// # Errors
    /// The caller must be cut, for this reason.
    pub(super) fn reject(&mut self) -> Result<(), &'static str> {
        if let Some(suppressed) = self.log.allow("no packet", Instant::now().into_std()) {
            warn!(peer = %self.peer, suppressed, "a frame of this caller is not a packet, and is ignored");
        }
        // A version 1 gateway passes on what its clients send. It must not lose its connection, and
        // with that all routes of this node, because of one client's bytes.
        if self.is_legacy {
            return Ok(());
        }
        self.strikes += 1;
        if self.strikes == MAX_STRIKES { Err("too many broken packets") } else { Ok(()) }
    }

    /// Logs that a packet was joined from `pieces` pieces.
    pub(super) fn log_pieces(&mut self, pieces: usize) {
        if let Some(suppressed) = self.log.allow("pieces", Instant::now().into_std()) {
            let peer = self.peer;
            warn!(%peer, pieces, suppressed, "a call of this caller was cut by a raw ¶ in a text; its pieces were joined");
        }
    }
}
