//! Large packets on their way to peers, and the nodes that wait for a first list.
//!
//! Thousands of nodes that start at once are each owed a list. If all lists went out together, none
//! would arrive for a long time, and all nodes would also be owed the changes of that time. So a
//! bounded number is under way at a time. A peer whose transfer begins late is sent the list as it
//! is then.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::entries::SessionId;

/// Packets of fewer bytes are not transfers: a socket takes them at once.
pub(crate) const MIN_TRANSFER_BYTES: usize = 64 * 1024;
/// Large packets that are under way at a time. Together they fill a fast network, and with what the
/// system holds for each (128 KiB) they take 32 MiB.
const MAX_TRANSFERS: usize = 256;
/// A transfer ends when the packet is written. While others wait, it counts no longer after this
/// time: peers that read slowly must not keep others waiting. The packet goes on.
const MAX_TRANSFER_TIME: Duration = Duration::from_millis(250);
/// A transfer counts until other nodes were told to wait this often. On a busy machine everything
/// that is ready is done between two such requests: then this process is slow, and not the peer.
const MIN_REFUSALS: u64 = 16;
/// When no further transfer may begin, the first peer in the queue asks again after this time.
const RETRY_DELAY: Duration = Duration::from_millis(1);
/// Maximum number of nodes that have registered and wait for their first list. Further nodes are
/// told to come back, because each new node makes the list longer for which the others wait. It is
/// as many as may register at once.
const MAX_WAITING: usize = 2000;

/// The transfers that have begun, and the nodes that wait for their first list.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// The oldest first.
    begun: VecDeque<Transfer>,
    /// How often a peer has asked and was told to wait.
    refusals: u64,
    waiting: HashSet<SessionId>,
}

#[derive(Debug)]
struct Transfer {
    session: SessionId,
    since: Instant,
    /// The refusals before it.
    refusals: u64,
}

impl Transfers {
    /// Records that a node which knows nothing waits for the list.
    pub(crate) fn wait_for_list(&mut self, session: SessionId) {
        self.waiting.insert(session);
    }

    /// Whether as many nodes wait as may wait: further nodes should come back later.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Begins the transfer of a peer, or says when to ask again.
    pub(crate) fn try_begin(&mut self, now: Instant, session: SessionId) -> Result<(), Instant> {
        while let Some(transfer) = self.begun.front()
            && now.saturating_duration_since(transfer.since) >= MAX_TRANSFER_TIME
            && self.refusals - transfer.refusals >= MIN_REFUSALS
        {
            self.waiting.remove(&transfer.session);
            self.begun.pop_front();
        }
        if self.begun.len() >= MAX_TRANSFERS {
            self.refusals += 1;
            return Err(now + RETRY_DELAY);
        }
        self.begun.push_back(Transfer { session, since: now, refusals: self.refusals });
        Ok(())
    }

    /// Ends the transfer to a peer that has been sent a list or change, or has gone.
    pub(crate) fn end(&mut self, session: SessionId) {
        self.waiting.remove(&session);
        if let Some(at) = self.begun.iter().position(|transfer| transfer.session == session) {
            self.begun.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_bounded_number_of_turns_is_under_way() {
        let (mut transfers, start) = (Transfers::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        (0..256).for_each(|session| assert_eq!(transfers.try_begin(start, SessionId(session)), Ok(())));
        assert_eq!(transfers.try_begin(at(1), SessionId(256)), Err(at(2)));
        for ended in [7, 7, 1000] {
            transfers.end(SessionId(ended));
        }
        assert_eq!(transfers.try_begin(at(2), SessionId(256)), Ok(()));
        // Neither time alone ends a transfer, nor questions alone.
        assert_eq!(transfers.try_begin(at(10_000), SessionId(257)), Err(at(10_001)));
        let mut transfers = Transfers::default();
        (0..256).for_each(|session| assert_eq!(transfers.try_begin(start, SessionId(session)), Ok(())));
        for _ in 0..100 {
            assert_eq!(transfers.try_begin(at(249), SessionId(256)), Err(at(250)));
        }
        // Peers that read slowly keep no other waiting for longer.
        (256..512).for_each(|session| assert_eq!(transfers.try_begin(at(250), SessionId(session)), Ok(())));
        assert_eq!(transfers.try_begin(at(250), SessionId(512)), Err(at(251)));
        transfers.end(SessionId(3));
        assert_eq!(transfers.try_begin(at(250), SessionId(512)), Err(at(251)), "that transfer was over");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_crowd_is_served_before_others_come() {
        let (mut transfers, now) = (Transfers::default(), Instant::now());
        (0..2000).for_each(|session| {
            assert!(!transfers.is_crowded());
            transfers.wait_for_list(SessionId(session));
        });
        assert!(transfers.is_crowded());
        transfers.end(SessionId(5));
        assert!(!transfers.is_crowded());
        // Nodes that do not read what they are sent count no longer than their transfers.
        transfers.wait_for_list(SessionId(5));
        (0..256).for_each(|session| assert_eq!(transfers.try_begin(now, SessionId(session)), Ok(())));
        (0..16).for_each(|_| assert!(transfers.try_begin(now, SessionId(256)).is_err()));
        assert!(transfers.is_crowded());
        assert_eq!(transfers.try_begin(now + MAX_TRANSFER_TIME, SessionId(256)), Ok(()));
        assert!(!transfers.is_crowded());
    }
}
