//! One connection: reads packets, writes the packets of its session's outbox, and ends when either
//! fails.
//!
//! It must not write of its own accord to another connection: the publisher does.

mod closing;
mod peer_reader;
mod queue_state;
mod task;

use std::time::Duration;

use net::{MAX_ESCAPED_BYTES, escaped};
use protocol::{LeaveReason, Version};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::closing::{abort, close_with_reason};
use self::peer_reader::PeerReader;
use self::task::serve;
use crate::peer::command::FrameCounts;
use crate::registry::Rejection;
use crate::shell::session::SessionGuard;

/// How long a peer may take to send a packet, or to read a large one, while memory is short.
pub(super) const SHORT_MEMORY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a connection ended.
pub(super) enum ConnectionEnd {
    /// The peer closed its side, or the connection broke.
    Gone(LeaveReason),
    /// We are stopping.
    Stopping,
    /// The peer is told the reason, and is then cut.
    Rejected(Rejection),
    /// The registry has removed the session; the peer is told why.
    CutByRegistry(LeaveReason),
    /// The peer reads none of the bytes that it is sent.
    Stalled,
    /// The peer reads slowly while memory is short.
    Slow,
    /// The connection was evicted to make room for another one.
    Evicted,
}

impl ConnectionEnd {
    fn leave_reason(&self) -> LeaveReason {
        match self {
            Self::Gone(reason) | Self::CutByRegistry(reason) => *reason,
            Self::Stopping | Self::Evicted => LeaveReason::Closed,
            Self::Rejected(_) => LeaveReason::Refused,
            Self::Stalled | Self::Slow => LeaveReason::Stalled,
        }
    }
}

/// Serves one connection until it ends. Dropping the future ends it too; either way its session is
/// removed.
pub(crate) async fn run(guard: SessionGuard, stop: CancellationToken) {
    let mut reader = PeerReader::new(&guard.shared().config);
    let end = serve(&guard, &mut reader, &stop).await;
    // The list must not wait until the peer is told.
    guard.unregister(end.leave_reason());
    let counts = reader.commands.counts;
    // A version 1 peer that follows takes any packet for the list: one that says why it is cut
    // would tell a gateway to forget all of its routes. A plain close tells it to come back.
    let may_be_told = reader.commands.version() == Version::V2 || !reader.has_registered;
    // Other connections wait for the memory of its packet.
    drop(reader);
    end_connection(&guard, end, counts, may_be_told).await;
}

/// Logs why a connection ends, and tells its peer, if it can be told.
async fn end_connection(guard: &SessionGuard, end: ConnectionEnd, counts: FrameCounts, may_be_told: bool) {
    let (session, shared) = (&guard.session, guard.shared());
    let (peer, conn, reason) = (session.peer, session.id.0, end.leave_reason().as_str());
    let FrameCounts { packets, ignored, blank, strikes } = counts;
    let is_lost = session.outbox().is_mid_packet() || matches!(end, ConnectionEnd::CutByRegistry(_));
    let rejection = match end {
        ConnectionEnd::Gone(_) | ConnectionEnd::Stopping | ConnectionEnd::Evicted => {
            debug!(conn, %peer, packets, ignored, blank, strikes, reason, "connection closed");
            return;
        }
        ConnectionEnd::Stalled => {
            let seconds = shared.config.write_timeout.as_secs_f32();
            if let Some(suppressed) = shared.cut_log.allow_for(reason, peer.ip(), Instant::now().into_std()) {
                warn!(conn, %peer, packets, suppressed, "cut: the peer has read nothing for {seconds} s");
            }
            return abort(&session.socket);
        }
        ConnectionEnd::Slow => {
            if let Some(suppressed) = shared.cut_log.allow_for("slow", peer.ip(), Instant::now().into_std()) {
                let used = shared.update_budget.used();
                warn!(conn, %peer, suppressed, used, "cut: the peer reads slowly, and unread packets take too much memory");
            }
            return abort(&session.socket);
        }
        ConnectionEnd::CutByRegistry(LeaveReason::Superseded) => {
            Rejection::new(409, "superseded", "the same instance has registered on a newer connection")
        }
        ConnectionEnd::CutByRegistry(reason) => Rejection::new(408, reason.as_str(), "no sign of life"),
        ConnectionEnd::Rejected(rejection) => rejection,
    };
    let Rejection { reason, message, .. } = &rejection;
    if let Some(suppressed) = shared.cut_log.allow_for(reason, peer.ip(), Instant::now().into_std()) {
        let shown = escaped(message, MAX_ESCAPED_BYTES);
        info!(conn, %peer, packets, ignored, blank, strikes, reason, suppressed, "cut: {shown}");
    }
    let told = may_be_told.then_some(&rejection);
    // A packet behind an unfinished one would be part of it.
    let heard = !session.outbox().is_mid_packet() && close_with_reason(guard, told).await;
    if !heard && is_lost {
        abort(&session.socket);
    }
}
