//! A budget for the bytes of all nodes' interests, with a share for each address.

use std::collections::HashMap;

use crate::entries::SessionId;
use crate::entries::address_shares::AddressShares;
use crate::registry::admission::RegisterError;
use crate::registry::admission::address_limit::is_within_share;

/// Bytes of interests, by session, until the session ends.
#[derive(Debug)]
pub(crate) struct InterestBudget {
    limit: usize,
    shares: AddressShares,
    by_session: HashMap<SessionId, SessionInterests>,
}

#[derive(Debug)]
struct SessionInterests {
    host: Box<str>,
    bytes: usize,
}

impl InterestBudget {
    pub(in crate::registry) fn new(limit: usize) -> Self {
        Self { limit, shares: AddressShares::default(), by_session: HashMap::new() }
    }

    /// Bytes that there may be.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that there are.
    pub(crate) fn used(&self) -> usize {
        self.shares.total()
    }

    /// Checks that there is room for interests of `bytes` bytes, in place of those that the session
    /// has.
    pub(in crate::registry) fn check(&self, session: SessionId, host: &str, bytes: usize) -> Result<(), RegisterError> {
        let replaced = self.by_session.get(&session).map_or(0, |interests| interests.bytes);
        if bytes <= replaced {
            return Ok(());
        }
        let others = self.used() - replaced;
        let free = self.limit.checked_sub(others.saturating_add(bytes)).ok_or(RegisterError::Full)?;
        let held = self.shares.held_by(host) - replaced + bytes;
        if is_within_share(host, held, free) { Ok(()) } else { Err(RegisterError::AddressFull) }
    }

    /// Records that a session has these interests from now on, and no others.
    pub(in crate::registry) fn set(&mut self, session: SessionId, host: &str, bytes: usize) {
        self.remove(session);
        if bytes > 0 {
            self.shares.add(host, bytes);
            self.by_session.insert(session, SessionInterests { host: host.into(), bytes });
        }
    }

    pub(in crate::registry) fn remove(&mut self, session: SessionId) {
        if let Some(SessionInterests { host, bytes }) = self.by_session.remove(&session) {
            self.shares.remove(&host, bytes);
        }
    }
}
