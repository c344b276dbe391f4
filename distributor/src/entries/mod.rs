//! The table of registered nodes: the entries, the session that owns each, and the last changes.
//! Without I/O: no socket, task, clock or log.
//!
//! It must not decide anything: the registry asks, and the table answers. It must not import other
//! folders.

pub(crate) mod address_shares;
mod changelog;
mod expected;
pub(crate) mod interests;
mod list_fit;
pub(crate) mod offers;
mod record;
mod registration_change;
mod restore;

use std::collections::hash_map;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use protocol::{Digest, LeaveReason, Registration, ResumePoint, Revision};

use crate::config::ToldToOldPeers;
use crate::entries::address_shares::AddressShares;
pub(crate) use crate::entries::changelog::MAX_CHANGE_BYTES;
pub(crate) use crate::entries::changelog::difference::{Difference, Touched};
use crate::entries::changelog::{Change, Changelog, EntryChange};
use crate::entries::expected::ExpectedEntries;
use crate::entries::offers::Offers;
use crate::entries::offers::offer_index::OfferIndex;
use crate::entries::offers::route_index::RouteIndex;
pub(crate) use crate::entries::record::{NodeIdentity, Record, SessionId, shown_address};
pub(crate) use crate::entries::registration_change::{RegisterOutcome, RegistrationChange, Retained};

/// The registered nodes in order of registration, and the last changes.
#[derive(Debug)]
pub(crate) struct EntryTable {
    changelog: Changelog,
    entries: BTreeMap<u64, Entry>,
    sessions: HashMap<SessionId, u64>,
    /// The entry of each version 2 instance.
    instances: HashMap<Box<str>, u64>,
    /// The entries of version 1 nodes that are expected back.
    expected: ExpectedEntries,
    offers: Offers,
    /// The ids of entries by what they offer.
    index: OfferIndex,
    routes: RouteIndex,
    /// How many entries each identity has, by its hash.
    identity_counts: HashMap<u64, u32>,
    hasher: RandomState,
    next_id: u64,
    /// Entries that only a copy has shown so far: their own nodes have not registered.
    unconfirmed: usize,
    /// Entries whose nodes have registered since the last change that says so.
    returned: Vec<Arc<Record>>,
    /// Whether a list without the unconfirmed entries was sent. Its receivers must be told when
    /// those nodes register.
    is_partly_published: bool,
    /// The first revision from which every list has been whole.
    whole_since: u64,
    digest: Digest,
    /// Bytes of all entries together.
    entry_bytes: usize,
    /// Bytes of all entries of lists of version 1 that have public urls only.
    public_bytes: usize,
    /// Bytes of the confirmed entries, by address. Another node may have invented the host of an
    /// entry that is only copied.
    shares: AddressShares,
}

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    owner: Owner,
}

impl Entry {
    /// Why the entry is retained, if it is.
    fn retained(&self) -> Option<Retained> {
        match self.owner {
            Owner::Session(_) => None,
            Owner::Retained(_) if self.record.is_confirmed => Some(Retained::OverMassLoss),
            Owner::Retained(_) => Some(Retained::OverRestart),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Session(SessionId),
    /// No session owns the entry, which is removed at this time unless its node is back.
    Retained(Instant),
}

impl EntryTable {
    /// An empty table. Its epoch must be higher than that of any Distributor before.
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            changelog: Changelog::new(Revision { epoch, rev: 0 }, None),
            entries: BTreeMap::new(),
            sessions: HashMap::new(),
            instances: HashMap::new(),
            expected: ExpectedEntries::default(),
            offers: Offers::default(),
            index: OfferIndex::default(),
            routes: RouteIndex::default(),
            identity_counts: HashMap::new(),
            hasher: RandomState::new(),
            next_id: 1,
            unconfirmed: 0,
            returned: Vec::new(),
            is_partly_published: false,
            whole_since: 0,
            digest: Digest::default(),
            entry_bytes: 0,
            public_bytes: 0,
            shares: AddressShares::default(),
        }
    }

    /// The state that lists show now.
    pub(crate) fn revision(&self) -> Revision {
        self.changelog.revision()
    }

    /// The digest of that state.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// How many nodes are listed.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many version 2 nodes are listed that say which instance they are.
    pub(crate) fn instances(&self) -> usize {
        self.instances.len()
    }

    /// The record of a session's registration.
    pub(crate) fn record_of(&self, session: SessionId) -> Option<&Arc<Record>> {
        self.sessions.get(&session).and_then(|id| self.entries.get(id)).map(|entry| &entry.record)
    }

    /// The entry of this id.
    pub(crate) fn record(&self, id: u64) -> Option<&Arc<Record>> {
        self.entries.get(&id).map(|entry| &entry.record)
    }

    /// Whether this node's instance has an entry, or an entry is retained for the node.
    pub(crate) fn is_expected(&self, record: &Record) -> bool {
        match &record.instance {
            Some(instance) => self.instances.contains_key(instance),
            None => self.expected.has(&record.identity()),
        }
    }

    /// The entry of this instance.
    pub(crate) fn record_of_instance(&self, instance: &str) -> Option<&Arc<Record>> {
        self.instances.get(instance).and_then(|id| self.record(*id))
    }

    /// Whether an entry has this identity.
    pub(crate) fn has_identity(&self, identity: &NodeIdentity) -> bool {
        self.identity_counts.contains_key(&self.hasher.hash_one(identity))
    }

    /// Whether the node of every entry has registered here.
    pub(crate) fn is_whole(&self) -> bool {
        self.unconfirmed == 0
    }

    /// The first revision from which every list has been whole; `None` while lists may lack
    /// entries, or their receivers have not been told of all.
    pub(crate) fn whole_since(&self) -> Option<u64> {
        (self.is_whole() && !self.is_partly_published).then_some(self.whole_since)
    }

    /// Records that a list without the unconfirmed entries is sent.
    pub(crate) fn publish_partly(&mut self) {
        self.is_partly_published = true;
    }

    /// Logs a change with the nodes that have registered since the last one, for peers that were
    /// sent a list without them.
    pub(crate) fn confirm_returned(&mut self) {
        let returned = std::mem::take(&mut self.returned);
        if self.is_partly_published && !returned.is_empty() {
            self.changelog.push(Change::Confirmed(returned));
        }
        if self.is_partly_published && self.is_whole() {
            self.is_partly_published = false;
            self.whole_since = self.revision().rev;
        }
    }

    /// The session that owns an entry.
    pub(crate) fn owner(&self, id: u64) -> Option<SessionId> {
        match self.entries.get(&id)?.owner {
            Owner::Session(session) => Some(session),
            Owner::Retained(_) => None,
        }
    }

    /// Registers a session at the end, replaces its registration in place, or gives it the entry
    /// that is retained for its node. `host` is the remote end of its connection. Another session
    /// with the same instance loses the entry to this one: the instance has given up that
    /// connection, which has not ended yet.
    pub(crate) fn register(
        &mut self,
        session: SessionId,
        registration: &Registration,
        host: &str,
    ) -> RegistrationChange {
        let instance = registration.advert.as_ref().and_then(|advert| advert.id.as_deref());
        let own = self.sessions.get(&session).copied();
        let of_instance = instance.and_then(|instance| self.instances.get(instance).copied());
        let mut superseded = None;
        if let Some(id) = of_instance
            && own != Some(id)
        {
            superseded = self.evict(id);
            if own.is_some() {
                // The session already has an entry, and may have only one.
                self.remove(id, LeaveReason::Superseded);
            }
        }
        let identity = (Box::from(host), registration.port, Box::from(registration.name.as_str()));
        let retained_for = || if instance.is_none() { self.expected.first(&identity) } else { None };
        let known = own.or(of_instance).or_else(retained_for);
        let id = known.unwrap_or(self.next_id);
        self.next_id = self.next_id.max(id + 1);
        let record = Record::new(id, registration, host);
        let retained = self.entries.get(&id).and_then(Entry::retained);
        let before = self.entries.get(&id).map(|entry| Arc::clone(&entry.record));
        self.sessions.insert(session, id);
        self.expected.remove(&identity, id);
        let outcome = match &before {
            Some(before) if before.is_listed_as(&record) => RegisterOutcome::Unchanged,
            Some(_) => RegisterOutcome::Updated,
            None => RegisterOutcome::Joined,
        };
        match before {
            Some(before) if outcome == RegisterOutcome::Unchanged => {
                if before.is_confirmed {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.owner = Owner::Session(session);
                    }
                } else {
                    let record = self.insert(record, Owner::Session(session));
                    self.returned.push(record);
                }
            }
            before => {
                self.insert(record, Owner::Session(session));
                self.log_change(id, before, LeaveReason::Changed);
            }
        }
        RegistrationChange { outcome, superseded, retained }
    }

    /// Removes a session's registration. A session that never registered, or was removed, changes
    /// nothing.
    pub(crate) fn remove_session(&mut self, session: SessionId, reason: LeaveReason) -> Option<Arc<Record>> {
        let id = self.sessions.remove(&session)?;
        self.remove(id, reason)
    }

    /// Retains the entry of a session that has ended, until `until`.
    pub(crate) fn retain_entry(&mut self, session: SessionId, until: Instant) -> Option<Arc<Record>> {
        let id = self.sessions.remove(&session)?;
        let entry = self.entries.get_mut(&id)?;
        entry.owner = Owner::Retained(until);
        let record = Arc::clone(&entry.record);
        self.expect_return(&record);
        Some(record)
    }

    /// Removes up to `max` retained entries whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, max: usize) -> Vec<Arc<Record>> {
        let is_due = |entry: &Entry| matches!(entry.owner, Owner::Retained(until) if until <= now);
        let due: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| *id).take(max).collect();
        due.into_iter().filter_map(|id| self.remove(id, LeaveReason::Unreachable)).collect()
    }

    /// When the next retained entry is due.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let times = self.entries.values().filter_map(|entry| match entry.owner {
            Owner::Retained(until) => Some(until),
            Owner::Session(_) => None,
        });
        times.min()
    }

    /// How many entries are retained for nodes that are not connected.
    pub(crate) fn retained_len(&self) -> usize {
        self.entries.len() - self.sessions.len()
    }

    /// Marks a node as suspect, or as not suspect any more. Returns its record if that is a
    /// change.
    pub(crate) fn mark_suspect(&mut self, id: u64, is_suspect: bool) -> Option<Arc<Record>> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.record.is_suspect != is_suspect)?;
        let before = Arc::clone(&entry.record);
        entry.record = Arc::new(Record { is_suspect, ..(*before).clone() });
        let record = Arc::clone(&entry.record);
        self.log_change(id, Some(before), LeaveReason::Changed);
        Some(record)
    }

    /// Makes a new revision although no entry has changed.
    pub(crate) fn touch(&mut self) {
        self.changelog.push(Change::Header);
    }

    /// All nodes of an earlier revision, a result of [`base`](Self::base), in order of
    /// registration.
    pub(crate) fn records_at(&self, rev: u64) -> Vec<&Arc<Record>> {
        let undone = self.changelog.reverted_since(rev);
        let now = self.entries.iter().filter(|(id, _)| !undone.contains_key(id)).map(|(_, entry)| &entry.record);
        let mut records: Vec<_> = now.chain(undone.values().copied().flatten()).collect();
        records.sort_unstable_by_key(|record| record.id);
        records
    }

    /// Our revision from which a receiver that has `have` can be told the changes; `None` when it
    /// needs the list.
    pub(crate) fn base(&self, have: ResumePoint) -> Option<u64> {
        self.changelog.base(have)
    }

    /// Bytes of the changes that are kept.
    pub(crate) fn change_bytes(&self) -> usize {
        self.changelog.bytes()
    }

    /// Bytes of all entries with a comma between them.
    pub(crate) fn list_bytes(&self) -> usize {
        self.entry_bytes + self.entries.len().saturating_sub(1)
    }

    /// Bytes of all entries of lists of version 1, with a comma between them.
    pub(crate) fn legacy_list_bytes(&self, told: ToldToOldPeers) -> usize {
        let entry_bytes = match told {
            ToldToOldPeers::Public => self.public_bytes,
            ToldToOldPeers::All => self.entry_bytes,
        };
        entry_bytes + self.entries.len().saturating_sub(1)
    }

    /// Bytes of the confirmed entries, by address.
    pub(crate) fn shares(&self) -> &AddressShares {
        &self.shares
    }

    /// All nodes in order of registration.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<Record>> + Clone {
        self.entries.values().map(|entry| &entry.record)
    }

    /// Takes an entry from the session that owns it.
    fn evict(&mut self, id: u64) -> Option<SessionId> {
        let session = self.owner(id)?;
        self.sessions.remove(&session);
        Some(session)
    }

    fn insert(&mut self, record: Record, owner: Owner) -> Arc<Record> {
        let id = record.id;
        // Before those that it replaces are removed: their shapes would be another node's then.
        self.routes.add(&record);
        self.detach(id);
        self.digest.add(id, &record.entry);
        self.entry_bytes += record.entry.len();
        self.public_bytes += record.legacy_entry(ToldToOldPeers::Public).len();
        if record.is_confirmed {
            self.shares.add(&record.host, record.entry.len());
        } else {
            self.unconfirmed += 1;
        }
        *self.identity_counts.entry(self.hasher.hash_one(record.identity())).or_default() += 1;
        self.offers.add(&record);
        self.index.add(id, &record);
        if let Some(instance) = &record.instance {
            self.instances.insert(instance.clone(), id);
        }
        let record = Arc::new(record);
        self.entries.insert(id, Entry { record: Arc::clone(&record), owner });
        if matches!(owner, Owner::Retained(_)) {
            self.expect_return(&record);
        }
        record
    }

    fn expect_return(&mut self, record: &Record) {
        if record.instance.is_none() {
            self.expected.insert(record.identity(), record.id);
        }
    }

    fn remove(&mut self, id: u64, reason: LeaveReason) -> Option<Arc<Record>> {
        let record = self.detach(id)?;
        self.expected.remove(&record.identity(), id);
        self.log_change(id, Some(Arc::clone(&record)), reason);
        Some(record)
    }

    fn detach(&mut self, id: u64) -> Option<Arc<Record>> {
        let Entry { record, .. } = self.entries.remove(&id)?;
        self.digest.remove(id, &record.entry);
        self.entry_bytes -= record.entry.len();
        self.public_bytes -= record.legacy_entry(ToldToOldPeers::Public).len();
        if record.is_confirmed {
            self.shares.remove(&record.host, record.entry.len());
        } else {
            self.unconfirmed -= 1;
        }
        self.offers.remove(&record);
        self.index.remove(id, &record);
        self.routes.remove(&record);
        if let hash_map::Entry::Occupied(mut count) =
            self.identity_counts.entry(self.hasher.hash_one(record.identity()))
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(instance) = &record.instance
            && self.instances.get(instance) == Some(&id)
        {
            self.instances.remove(instance);
        }
        Some(record)
    }

    fn log_change(&mut self, id: u64, before: Option<Arc<Record>>, reason: LeaveReason) {
        self.changelog.push(Change::Entry(EntryChange { id, before, reason }));
    }
}

#[cfg(test)]
mod tests;
