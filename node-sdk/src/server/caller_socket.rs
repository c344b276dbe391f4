//! Writes to a caller's socket, and observes how much of that the caller has read.

use net::{BacklogPoller, Socket, warn};
use protocol::WindowFull;
use tokio::time::{Instant, sleep_until};

use crate::server::dispatch::LocalService;
use crate::server::response_queue::{LEGACY_READ_TIME, ResponseQueue, WriteStep};

/// Why the connection of a caller has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerEnd {
    /// The caller has gone, or this node stops.
    Gone(&'static str),
    /// This node has cut the caller, for this reason.
    Cut(&'static str),
}

/// Waits until the read window of a version 1 caller may have room, and returns what the caller's
/// socket showed. Never completes when the window waits for nothing.
pub(super) async fn wait_for_read_room(
    socket: &Socket,
    service: &LocalService,
    unread: Option<WindowFull>,
    poller: &mut BacklogPoller,
    written: u64,
) -> (u64, Option<usize>) {
    match unread {
        None => std::future::pending().await,
        Some(WindowFull::Until(time)) => {
            sleep_until(Instant::from_std(time)).await;
            (written, None)
        }
        Some(WindowFull::PollPeer) => {
            let (written, unread) = poller.unread(&service.peer_backlog, socket, written).await;
            if unread.is_none()
                && let Some((_, peer)) = socket.ends()
                && let Some(suppressed) = service.allow_log_of(peer, "hidden")
            {
                warn!(%peer, suppressed, "the system does not show what this version 1 caller has read; it is given {LEGACY_READ_TIME:?} for each answer");
            }
            (written, unread)
        }
    }
}

/// Writes as much as the socket takes. The returned step says what the rest waits for.
pub(super) fn write(socket: &Socket, responses: &mut ResponseQueue) -> std::io::Result<WriteStep> {
    loop {
        let now = Instant::now().into_std();
        let step = responses.next_step(now);
        let WriteStep::Write(bytes) = &step else { return Ok(step) };
        match socket.try_write(bytes) {
            Ok(taken) => responses.record_write(now, taken),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                drop(step);
                responses.shrink();
                return Ok(responses.next_step(now));
            }
            Err(error) => return Err(error),
        }
    }
}
