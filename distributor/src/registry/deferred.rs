//! Registrations that wait until they are listed, because their nodes come and go, or change, too
//! often.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use protocol::Registration;

use crate::entries::SessionId;
use crate::entries::address_shares::AddressShares;
use crate::registry::Registry;
use crate::registry::admission::instance_of;

/// All of them, at most one for each session, and one for each instance.
#[derive(Debug, Default)]
pub(super) struct DeferredRegistrations {
    by_session: BTreeMap<SessionId, Deferred>,
    by_instance: HashMap<Box<str>, SessionId>,
    /// Bytes of the entries that they would have.
    shares: AddressShares,
}

/// One registration that waits.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) registration: Registration,
    pub(super) host: String,
    /// Of the entry that it would have.
    pub(super) bytes: usize,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl DeferredRegistrations {
    pub(super) fn len(&self) -> usize {
        self.by_session.len()
    }

    /// Bytes of the entries that they would have.
    pub(super) fn bytes(&self) -> usize {
        self.shares.total()
    }

    /// The same by address.
    pub(super) fn shares(&self) -> &AddressShares {
        &self.shares
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Deferred> {
        self.by_session.get(&session)
    }

    /// The session on which this instance waits.
    pub(super) fn session_of(&self, instance: &str) -> Option<SessionId> {
        self.by_instance.get(instance).copied()
    }

    /// One more, of a session, and an instance, that has none.
    fn insert(&mut self, session: SessionId, deferred: Deferred) {
        if let Some(instance) = instance_of(&deferred.registration) {
            self.by_instance.insert(instance.into(), session);
        }
        self.shares.add(&deferred.host, deferred.bytes);
        self.by_session.insert(session, deferred);
    }

    /// What a session has had waiting waits no more.
    pub(super) fn remove(&mut self, session: SessionId) -> Option<Deferred> {
        let deferred = self.by_session.remove(&session)?;
        self.shares.remove(&deferred.host, deferred.bytes);
        if let Some(instance) = instance_of(&deferred.registration)
            && self.by_instance.get(instance) == Some(&session)
        {
            self.by_instance.remove(instance);
        }
        Some(deferred)
    }

    /// The sessions of those whose time has come.
    pub(super) fn due(&self, now: Instant) -> Vec<SessionId> {
        let due = self.by_session.iter().filter(|(_, deferred)| deferred.until <= now);
        due.map(|(session, _)| *session).collect()
    }

    /// When the next of them is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_session.values().map(|deferred| deferred.until).min()
    }
}

impl Registry {
    /// A registration waits, in place of any that its session, or its instance on another session,
    /// has had waiting.
    pub(super) fn defer(&mut self, session: SessionId, deferred: Deferred) {
        self.deferred.remove(session);
        if let Some(instance) = instance_of(&deferred.registration) {
            self.supersede_deferred(session, instance);
        }
        self.deferred.insert(session, deferred);
    }

    /// An instance registers: what it has had waiting on another session is older, and must not
    /// take over from it later.
    pub(super) fn supersede_deferred(&mut self, session: SessionId, instance: &str) {
        if let Some(other) = self.deferred.session_of(instance)
            && other != session
        {
            self.deferred.remove(other);
            // If that session has an entry as well, it is another instance's, and stays.
            if self.entries.record_of(other).is_none() {
                self.forget(other);
                self.superseded.push(other);
            }
        }
    }
}
