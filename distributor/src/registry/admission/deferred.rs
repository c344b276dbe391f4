//! Registrations that wait to be listed, because their nodes come and go, or change, too often.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use protocol::Registration;

use crate::entries::address_shares::AddressShares;
use crate::entries::{NodeIdentity, SessionId};
use crate::registry::Registry;
use crate::registry::admission::damping::SOLE_PERIOD;
use crate::registry::admission::instance_of;

/// The time between two looks at all deferred registrations, which may be many.
const REVIEW_PERIOD: Duration = Duration::from_millis(250);

/// All deferred registrations, at most one for each session and one for each instance.
#[derive(Debug, Default)]
pub(in crate::registry) struct DeferredRegistrations {
    by_session: BTreeMap<SessionId, Deferred>,
    by_instance: HashMap<Box<str>, SessionId>,
    /// How many of them have each identity.
    by_identity: HashMap<NodeIdentity, u32>,
    /// Bytes of the entries that the nodes would have.
    shares: AddressShares,
    /// When to look which of them have become sole providers, if an entry has gone or changed.
    review_at: Option<Instant>,
    reviewed: Option<Instant>,
}

/// A deferred registration.
#[derive(Debug)]
pub(in crate::registry) struct Deferred {
    pub(in crate::registry) registration: Registration,
    pub(in crate::registry) host: String,
    /// Bytes of the entry that the node would have.
    pub(in crate::registry) bytes: usize,
    /// The offers of the node: see [`EntryTable::lacks`](crate::entries::EntryTable::lacks).
    pub(in crate::registry) offers: Box<[u64]>,
    pub(in crate::registry) since: Instant,
    pub(in crate::registry) until: Instant,
}

impl Deferred {
    /// The identity by which it is recognised when it comes again without an instance.
    pub(in crate::registry) fn identity(&self) -> NodeIdentity {
        (self.host.as_str().into(), self.registration.port, self.registration.name.as_str().into())
    }
}

impl DeferredRegistrations {
    pub(in crate::registry) fn len(&self) -> usize {
        self.by_session.len()
    }

    /// Bytes of the entries that the nodes would have.
    pub(in crate::registry) fn bytes(&self) -> usize {
        self.shares.total()
    }

    /// Bytes of the entries that the nodes would have, by address.
    pub(in crate::registry) fn shares(&self) -> &AddressShares {
        &self.shares
    }

    pub(in crate::registry) fn get(&self, session: SessionId) -> Option<&Deferred> {
        self.by_session.get(&session)
    }

    /// Whether one of them has this identity.
    pub(in crate::registry) fn has_identity(&self, identity: &NodeIdentity) -> bool {
        self.by_identity.contains_key(identity)
    }

    /// The session on which this instance waits.
    pub(in crate::registry) fn session_of(&self, instance: &str) -> Option<SessionId> {
        self.by_instance.get(instance).copied()
    }

    /// Adds a registration of a session and an instance that have none here.
    fn insert(&mut self, session: SessionId, deferred: Deferred) {
        if let Some(instance) = instance_of(&deferred.registration) {
            self.by_instance.insert(instance.into(), session);
        }
        self.shares.add(&deferred.host, deferred.bytes);
        *self.by_identity.entry(deferred.identity()).or_default() += 1;
        self.by_session.insert(session, deferred);
    }

    /// Drops the deferred registration of a session.
    pub(in crate::registry) fn remove(&mut self, session: SessionId) -> Option<Deferred> {
        let deferred = self.by_session.remove(&session)?;
        self.shares.remove(&deferred.host, deferred.bytes);
        if let Entry::Occupied(mut count) = self.by_identity.entry(deferred.identity()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(instance) = instance_of(&deferred.registration)
            && self.by_instance.get(instance) == Some(&session)
        {
            self.by_instance.remove(instance);
        }
        Some(deferred)
    }

    /// The sessions whose registrations are due.
    pub(in crate::registry) fn due(&self, now: Instant) -> Vec<SessionId> {
        let due = self.by_session.iter().filter(|(_, deferred)| deferred.until <= now);
        due.map(|(session, _)| *session).collect()
    }

    /// When the next one is due.
    pub(in crate::registry) fn next_due(&self) -> Option<Instant> {
        self.by_session.values().map(|deferred| deferred.until).chain(self.review_at).min()
    }

    /// Records that an entry has gone or changed: a node that waits may be a sole provider now.
    pub(in crate::registry) fn record_offer_change(&mut self, now: Instant) {
        if !self.by_session.is_empty() && self.review_at.is_none() {
            self.review_at = Some(self.reviewed.map_or(now, |reviewed| now.max(reviewed + REVIEW_PERIOD)));
        }
    }

    /// The registrations that wait, with their sessions.
    pub(in crate::registry) fn iter(&self) -> impl Iterator<Item = (SessionId, &Deferred)> {
        self.by_session.iter().map(|(session, deferred)| (*session, deferred))
    }
}

impl Registry {
    /// Defers a registration. It replaces one of the same session, or of the same instance on
    /// another session.
    pub(in crate::registry) fn defer(&mut self, session: SessionId, deferred: Deferred) {
        self.deferred.remove(session);
        if let Some(instance) = instance_of(&deferred.registration) {
            self.supersede_deferred(session, instance);
        }
        self.deferred.insert(session, deferred);
    }

    /// Shortens the time of nodes that have become sole providers while they waited.
    pub(in crate::registry) fn review_deferred(&mut self, now: Instant) {
        if self.deferred.review_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        self.deferred.reviewed = Some(now);
        // A listed node waits for a change only, and not for long.
        let joins = |(session, deferred): &(SessionId, &Deferred)| {
            self.entries.record_of(*session).is_none() && self.entries.lacks(&deferred.offers)
        };
        let sole: Vec<_> = self.deferred.iter().filter(joins).map(|(session, one)| (session, one.identity())).collect();
        // One node is enough for each offer: the others are not sole providers once it is listed.
        let mut granted = HashSet::new();
        for (session, identity) in sole {
            let Some(deferred) = self.deferred.by_session.get_mut(&session) else { continue };
            if deferred.offers.iter().all(|offer| granted.contains(offer) || !self.entries.lacks(&[*offer])) {
                continue;
            }
            let until = now + self.damping.sole_delay(now, &identity).unwrap_or_default();
            if until <= now + SOLE_PERIOD {
                granted.extend(deferred.offers.iter().copied());
            } else {
                // The rate of all sole providers is used up.
                self.deferred.review_at = Some(now + REVIEW_PERIOD);
            }
            deferred.until = deferred.until.min(until);
        }
    }

    /// Drops the deferred registration that this instance has on another session: it is older, and
    /// must not be listed later.
    pub(in crate::registry) fn supersede_deferred(&mut self, session: SessionId, instance: &str) {
        if let Some(other) = self.deferred.session_of(instance)
            && other != session
        {
            self.deferred.remove(other);
            // If that session also has an entry, it belongs to another instance, and stays.
            if self.entries.record_of(other).is_none() {
                self.forget(other);
                self.superseded.push(other);
            }
        }
    }
}
