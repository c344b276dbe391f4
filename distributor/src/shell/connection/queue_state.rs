//! The position of one peer in the queue of peers that wait for a packet of their own.

use crate::shell::session::Session;
use crate::shell::shared::update_queue::{PendingHead, QueueHead, UpdateQueue};
use crate::updates::lists::WaitReason;

/// The position of a peer in the queue of peers that wait for a packet of their own.
pub(super) enum QueueState {
    Outside,
    Pending(PendingHead),
    First { _head: QueueHead },
}

impl QueueState {
    /// When to try again. A peer that waits for the pace enters the queue, and tries again when it
    /// is first. A peer for which there is no memory leaves the queue for a while: the packets of
    /// others, which may be smaller, must not wait for it.
    pub(super) fn next_try(
        &mut self,
        wait: WaitReason,
        queue: &UpdateQueue,
        session: &Session,
    ) -> Option<std::time::Instant> {
        match (&self, wait) {
            (Self::Pending(_), _) => None,
            (Self::First { .. }, WaitReason::Pace(at)) => Some(at),
            (Self::First { .. } | Self::Outside, WaitReason::Memory(at)) => {
                *self = Self::Outside;
                Some(at)
            }
            (Self::Outside, WaitReason::Pace(_)) => {
                *self = Self::Pending(queue.enter(&session.address_queue));
                None
            }
        }
    }

    /// Waits until the peer is first, or for ever when it is not in the queue. Cancel safe.
    pub(super) async fn acquired(&mut self) -> QueueHead {
        match self {
            Self::Pending(head) => head.await,
            Self::Outside | Self::First { .. } => std::future::pending().await,
        }
    }
}
