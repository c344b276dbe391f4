//! Who is there, and what has changed since when: the heart of the Distributor, without I/O.

pub(crate) mod interests;
pub(crate) mod view;

use std::collections::hash_map;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use protocol::{Digest, LeaveReason, Registration, ResumePoint, Revision, Version};

use crate::entries::view::View;

/// A connection for as long as it lives. Never used twice, unlike an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// The registered nodes in order of registration, and the last changes.
#[derive(Debug)]
pub(crate) struct EntryTable {
    revision: Revision,
    /// The state of an earlier Distributor that one of ours was equal to, and the number of ours.
    resumes: Option<(ResumePoint, u64)>,
    entries: BTreeMap<u64, Entry>,
    sessions: HashMap<SessionId, u64>,
    /// Where an instance of version 2 sits.
    instances: HashMap<Box<str>, u64>,
    /// Where nodes of version 1 sit that are expected back.
    awaited: HashMap<NodeIdentity, u64>,
    /// How many entries each place has, by its hash.
    identity_counts: HashMap<u64, u32>,
    hasher: RandomState,
    next_id: u64,
    /// One for each of the last revisions, the newest last.
    changes: VecDeque<Change>,
    /// Bytes that they keep alive.
    change_bytes: usize,
    /// Entries that only a copy has shown so far: their own nodes have not come.
    unconfirmed: usize,
    /// Whose nodes have come since the last change that says so.
    returned: Vec<Arc<Record>>,
    /// Somebody was told a list without the unconfirmed, and has to be told of those who come.
    is_partly_published: bool,
    /// The first revision since which every list has been whole.
    whole_since: u64,
    digest: Digest,
    /// Bytes of all entries together.
    entry_bytes: usize,
}

/// What lists show of a node, and what we know of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its place in the order of registration, and its name in changes.
    pub(crate) id: u64,
    pub(crate) name: Box<str>,
    /// As lists spell it.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    pub(crate) urls: Box<[Box<str>]>,
    pub(crate) instance: Option<Box<str>>,
    pub(crate) version: Version,
    /// Its entry in lists: JSON text in which `¶` is escaped, so its length is what goes over the wire.
    pub(crate) entry: Box<str>,
    pub(crate) suspect: bool,
    /// Its own node has registered here. What has only been copied from another node may be invented.
    pub(crate) is_confirmed: bool,
}

/// What makes two registrations of version 1 the same node.
pub(crate) type NodeIdentity = (Box<str>, u16, Box<str>);

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    held_by: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Session(SessionId),
    /// Nobody, and it goes at this time unless its node is back by then.
    Retained(Instant),
}

#[derive(Debug)]
enum Change {
    /// Something happened to a node.
    Entry(EntryChange),
    /// What is said of the whole changed.
    Header,
    /// The nodes of these entries have come. Whoever knew the entries already need not be told.
    Confirmed(Vec<Arc<Record>>),
}

#[derive(Debug)]
struct EntryChange {
    id: u64,
    before: Option<Arc<Record>>,
    /// Why it is gone, if it is.
    reason: LeaveReason,
}

/// What a registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterOutcome {
    /// Somebody who was not listed is.
    Joined,
    /// An entry was replaced.
    Updated,
    /// The entry stays what it was: nobody has to be told.
    Unchanged,
}

/// What a registration changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) entrance: RegisterOutcome,
    /// The session that had registered the same instance, and is out now.
    pub(crate) superseded: Option<SessionId>,
}

/// What has changed between two revisions, as far as it concerns one receiver.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) joined: Vec<Arc<Record>>,
    pub(crate) left: Vec<(u64, LeaveReason)>,
    pub(crate) suspect: Vec<u64>,
    pub(crate) trusted: Vec<u64>,
    /// Something happened, even if nothing of it is left to tell.
    pub(crate) has_changes: bool,
    /// What is said of the whole changed.
    pub(crate) header_changed: bool,
}

/// Changes that are remembered: a node that is further behind gets the list.
pub(crate) const MAX_CHANGES: usize = 8192;
/// Bytes of entries as they were before those changes. As many as a list has, and as many again: whoever is further behind is told
/// in fewer bytes by the list.
pub(crate) const MAX_CHANGE_BYTES: usize = 16 << 20;

impl EntryTable {
    /// An empty registry. Its epoch should be higher than that of any before.
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            revision: Revision { epoch, rev: 0 },
            resumes: None,
            entries: BTreeMap::new(),
            sessions: HashMap::new(),
            instances: HashMap::new(),
            awaited: HashMap::new(),
            identity_counts: HashMap::new(),
            hasher: RandomState::new(),
            next_id: 1,
            changes: VecDeque::new(),
            change_bytes: 0,
            unconfirmed: 0,
            returned: Vec::new(),
            is_partly_published: false,
            whole_since: 0,
            digest: Digest::default(),
            entry_bytes: 0,
        }
    }

    /// The state that lists show now.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The digest of that state.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// How many nodes are listed.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What a session has registered.
    pub(crate) fn record_of(&self, session: SessionId) -> Option<&Arc<Record>> {
        self.sessions.get(&session).and_then(|id| self.entries.get(id)).map(|entry| &entry.record)
    }

    /// The entry of this id.
    pub(crate) fn record(&self, id: u64) -> Option<&Arc<Record>> {
        self.entries.get(&id).map(|entry| &entry.record)
    }

    /// Whether a place is kept for this node, or its instance has one already.
    pub(crate) fn is_awaited(&self, record: &Record) -> bool {
        match &record.instance {
            Some(instance) => self.instances.contains_key(instance),
            None => self.awaited.contains_key(&record.identity()),
        }
    }

    /// The entry of this instance.
    pub(crate) fn record_of_instance(&self, instance: &str) -> Option<&Arc<Record>> {
        self.instances.get(instance).and_then(|id| self.record(*id))
    }

    /// Whether an entry has this place.
    pub(crate) fn has_identity(&self, identity: &NodeIdentity) -> bool {
        self.identity_counts.contains_key(&self.hasher.hash_one(identity))
    }

    /// Whether the node of every entry has registered here.
    pub(crate) fn is_whole(&self) -> bool {
        self.unconfirmed == 0
    }

    /// The first revision since which every list has been whole; `None` while some are not, or have to be made so.
    pub(crate) fn whole_since(&self) -> Option<u64> {
        (self.is_whole() && !self.is_partly_published).then_some(self.whole_since)
    }

    /// A list without the unconfirmed is told.
    pub(crate) fn publish_partly(&mut self) {
        self.is_partly_published = true;
    }

    /// Makes a change of the nodes that have come since the last one, for whoever was told a list without them.
    pub(crate) fn confirm_returned(&mut self) {
        let returned = std::mem::take(&mut self.returned);
        if self.is_partly_published && !returned.is_empty() {
            self.push(Change::Confirmed(returned));
        }
        if self.is_partly_published && self.is_whole() {
            self.is_partly_published = false;
            self.whole_since = self.revision.rev;
        }
    }

    /// The session that holds an entry.
    pub(crate) fn holder(&self, id: u64) -> Option<SessionId> {
        match self.entries.get(&id)?.held_by {
            Owner::Session(session) => Some(session),
            Owner::Retained(_) => None,
        }
    }

    /// Registers a session at the end, or replaces its registration in place, or takes the place that is kept for it.
    /// `host` is the remote end of its connection. Another session that has registered the same instance is out: it is a
    /// connection that the instance has given up and that has not ended yet; the instance keeps its place.
    pub(crate) fn register(&mut self, session: SessionId, registration: &Registration, host: &str) -> Registered {
        let instance = registration.advert.as_ref().and_then(|advert| advert.id.as_deref());
        let own = self.sessions.get(&session).copied();
        let of_instance = instance.and_then(|instance| self.instances.get(instance).copied());
        let mut superseded = None;
        if let Some(id) = of_instance
            && own != Some(id)
        {
            superseded = self.evict(id);
            if own.is_some() {
                // It sits elsewhere already, and nobody sits twice.
                self.remove(id, LeaveReason::Superseded);
            }
        }
        let identity = (Box::from(host), registration.port, Box::from(registration.name.as_str()));
        let kept = || if instance.is_none() { self.awaited.get(&identity).copied() } else { None };
        let known = own.or(of_instance).or_else(kept);
        let id = known.unwrap_or(self.next_id);
        self.next_id = self.next_id.max(id + 1);
        let record = Record::new(id, registration, host);
        let before = self.entries.get(&id).map(|entry| Arc::clone(&entry.record));
        self.sessions.insert(session, id);
        self.awaited.remove(&identity);
        let entrance = match &before {
            Some(before) if before.is_listed_as(&record) => RegisterOutcome::Unchanged,
            Some(_) => RegisterOutcome::Updated,
            None => RegisterOutcome::Joined,
        };
        match before {
            Some(before) if entrance == RegisterOutcome::Unchanged => {
                if before.is_confirmed {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.held_by = Owner::Session(session);
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
        Registered { entrance, superseded }
    }

    /// Removes what a session registered. A session that never registered, or is out already, changes nothing.
    pub(crate) fn remove_session(&mut self, session: SessionId, reason: LeaveReason) -> Option<Arc<Record>> {
        let id = self.sessions.remove(&session)?;
        self.remove(id, reason)
    }

    /// The session is gone, and its node is kept for it until `until`.
    pub(crate) fn retain_entry(&mut self, session: SessionId, until: Instant) -> Option<Arc<Record>> {
        let id = self.sessions.remove(&session)?;
        let entry = self.entries.get_mut(&id)?;
        entry.held_by = Owner::Retained(until);
        let record = Arc::clone(&entry.record);
        self.await_return(&record);
        Some(record)
    }

    /// Removes up to `most` of those whose time to come back is over.
    pub(crate) fn expire(&mut self, now: Instant, most: usize) -> Vec<Arc<Record>> {
        let is_due = |entry: &Entry| matches!(entry.held_by, Owner::Retained(until) if until <= now);
        let due: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| *id).take(most).collect();
        due.into_iter().filter_map(|id| self.remove(id, LeaveReason::Unreachable)).collect()
    }

    /// When the next of those goes.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let times = self.entries.values().filter_map(|entry| match entry.held_by {
            Owner::Retained(until) => Some(until),
            Owner::Session(_) => None,
        });
        times.min()
    }

    /// How many are kept for nodes that are not there.
    pub(crate) fn retained_len(&self) -> usize {
        self.entries.len() - self.sessions.len()
    }

    /// Marks a node that gives no sign of life, or one that does again. Returns whether that is new.
    pub(crate) fn mark_suspect(&mut self, id: u64, suspect: bool) -> Option<Arc<Record>> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.record.suspect != suspect)?;
        let before = Arc::clone(&entry.record);
        entry.record = Arc::new(Record { suspect, ..(*before).clone() });
        let record = Arc::clone(&entry.record);
        self.log_change(id, Some(before), LeaveReason::Changed);
        Some(record)
    }

    /// A new revision although nobody came or went.
    pub(crate) fn touch(&mut self) {
        self.push(Change::Header);
    }

    /// Takes over what a node knew of the Distributor before: everybody in it is expected back by `until`. Whoever has
    /// registered with us already stays. Receivers that know that state can be told of changes since then; others are told of
    /// an entry when its own node has come.
    pub(crate) fn restore(&mut self, copied: ResumePoint, records: impl IntoIterator<Item = Record>, until: Instant) {
        let registered = std::mem::take(&mut self.entries);
        let sessions = std::mem::take(&mut self.sessions);
        let rev = self.revision.rev + 1;
        // Whatever was told under our epoch so far is void: its ids may be others' now.
        *self = Self::new(self.revision.epoch.max(copied.revision.epoch + 1));
        self.revision.rev = rev;
        self.resumes = Some((copied, rev));
        for record in records {
            self.next_id = self.next_id.max(record.id + 1);
            self.insert(Record { is_confirmed: false, ..record }, Owner::Retained(until));
        }
        let mut sessions: Vec<_> = sessions.into_iter().collect();
        sessions.sort_unstable_by_key(|(_, id)| *id);
        for (session, id) in sessions {
            let Some(Entry { record, .. }) = registered.get(&id) else { continue };
            let identity = record.identity();
            let known = match &record.instance {
                Some(instance) => self.instances.get(instance).copied(),
                None => self.awaited.get(&identity).copied(),
            };
            let id = known.unwrap_or(self.next_id);
            self.next_id = self.next_id.max(id + 1);
            self.sessions.insert(session, id);
            self.awaited.remove(&identity);
            let before = self.entries.get(&id).map(|entry| Arc::clone(&entry.record));
            self.insert(Record { id, ..(**record).clone() }, Owner::Session(session));
            self.log_change(id, before, LeaveReason::Changed);
        }
    }

    /// The revision of ours that a receiver of `have` can be told the changes since; `None` when it needs the list.
    pub(crate) fn base(&self, have: ResumePoint) -> Option<u64> {
        let ResumePoint { revision, digest } = have;
        let rev = match self.resumes {
            Some((copied, rev)) if copied.revision == revision && (digest.is_none() || copied.digest == digest) => rev,
            _ if revision.epoch == self.revision.epoch => revision.rev,
            _ => return None,
        };
        let behind = self.revision.rev.checked_sub(rev)?;
        (behind <= self.changes.len() as u64).then_some(rev)
    }

    /// The changes after a revision that is one of [`base`](Self::base).
    fn after(&self, rev: u64) -> impl Iterator<Item = &Change> {
        let behind = usize::try_from(self.revision.rev.saturating_sub(rev)).unwrap_or(usize::MAX);
        self.changes.range(self.changes.len().saturating_sub(behind)..)
    }

    /// What those were at an earlier revision that something has happened to since.
    fn reverted_since(&self, rev: u64) -> HashMap<u64, Option<&Arc<Record>>> {
        let mut undone = HashMap::new();
        for touched in self.after(rev).filter_map(Change::touched) {
            // The first change after it found what it was.
            undone.entry(touched.id).or_insert(touched.before.as_ref());
        }
        undone
    }

    /// All nodes of an earlier revision, one of [`base`](Self::base), in order of registration.
    pub(crate) fn records_at(&self, rev: u64) -> Vec<&Arc<Record>> {
        let undone = self.reverted_since(rev);
        let now = self.entries.iter().filter(|(id, _)| !undone.contains_key(id)).map(|(_, entry)| &entry.record);
        let mut records: Vec<_> = now.chain(undone.values().copied().flatten()).collect();
        records.sort_unstable_by_key(|record| record.id);
        records
    }

    /// What has changed from `base` to `target`, both of [`base`](Self::base), for whoever sees this much of it.
    pub(crate) fn difference(&self, base: u64, target: u64, view: &View) -> Difference {
        let mut difference = Difference::default();
        let undone = self.reverted_since(target);
        // What it was at the base is what the first change found.
        let mut touched: BTreeMap<u64, (Option<&Arc<Record>>, LeaveReason)> = BTreeMap::new();
        let mut returned = HashSet::new();
        let changes = usize::try_from(target.saturating_sub(base)).unwrap_or(usize::MAX);
        for change in self.after(base).take(changes) {
            match change {
                Change::Entry(EntryChange { id, before, reason }) => {
                    difference.has_changes = true;
                    touched.entry(*id).or_insert((before.as_ref(), *reason)).1 = *reason;
                }
                Change::Header => {
                    difference.has_changes = true;
                    difference.header_changed = true;
                }
                Change::Confirmed(records) if view.confirmed_only => {
                    for record in records {
                        returned.insert(record.id);
                        touched.entry(record.id).or_insert((None, LeaveReason::Changed));
                    }
                }
                Change::Confirmed(_known_already) => {}
            }
        }
        for (id, (before, reason)) in touched {
            let before = before.filter(|record| view.includes(record));
            let after = match undone.get(&id) {
                Some(after) => *after,
                None => self.entries.get(&id).map(|entry| &entry.record),
            };
            let after = after.filter(|record| view.includes(record));
            let has_returned = returned.contains(&id);
            // A peer that is shown the confirmed only may have been told of it, by a list, before this was noted. Telling it twice
            // does no harm.
            let before = before.filter(|_| !(has_returned && after.is_some()));
            match (before, after) {
                (None, None) if has_returned => difference.left.push((id, reason)),
                (None, None) => {}
                (Some(_), None) => {
                    let is_listed = undone.get(&id).map_or_else(|| self.entries.contains_key(&id), Option::is_some);
                    difference.left.push((id, if is_listed { LeaveReason::Changed } else { reason }));
                }
                (before, Some(after)) => {
                    let was_suspect = match before {
                        Some(before) if before.entry == after.entry => before.suspect,
                        // A new entry begins with trust.
                        _ => {
                            difference.joined.push(Arc::clone(after));
                            false
                        }
                    };
                    match (was_suspect, after.suspect) {
                        (false, true) => difference.suspect.push(id),
                        (true, false) => difference.trusted.push(id),
                        (false, false) | (true, true) => {}
                    }
                }
            }
        }
        difference
    }

    /// Bytes of changes that are remembered.
    pub(crate) fn change_bytes(&self) -> usize {
        self.change_bytes
    }

    /// Bytes of all entries with a comma between them.
    pub(crate) fn list_bytes(&self) -> usize {
        self.entry_bytes + self.entries.len().saturating_sub(1)
    }

    /// All nodes in order of registration.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<Record>> + Clone {
        self.entries.values().map(|entry| &entry.record)
    }

    /// The confirmed entries that fit into `max_bytes` with a comma between them, in order of registration: the first node of
    /// each name before the second of any, so that every service is known for as long as possible.
    pub(crate) fn entries_within(&self, max_bytes: usize) -> Vec<&str> {
        let mut left = max_bytes;
        let mut take = |record: &Record| {
            let fits = record.is_confirmed && record.entry.len() < left;
            if fits {
                left -= record.entry.len() + 1;
            }
            fits
        };
        let mut names = HashSet::new();
        let first_of_name: Vec<_> = self.records().map(|record| names.insert(&record.name)).collect();
        let mut taken: Vec<_> =
            self.records().zip(&first_of_name).map(|(record, &first)| first && take(record)).collect();
        for (record, taken) in self.records().zip(&mut taken) {
            *taken = *taken || take(record);
        }
        self.records().zip(taken).filter_map(|(record, taken)| taken.then_some(&*record.entry)).collect()
    }

    /// Makes the session that holds a seat hold it no longer.
    fn evict(&mut self, id: u64) -> Option<SessionId> {
        let session = self.holder(id)?;
        self.sessions.remove(&session);
        Some(session)
    }

    fn insert(&mut self, record: Record, held_by: Owner) -> Arc<Record> {
        let id = record.id;
        self.detach(id);
        self.digest.add(id, &record.entry);
        self.entry_bytes += record.entry.len();
        self.unconfirmed += usize::from(!record.is_confirmed);
        *self.identity_counts.entry(self.hasher.hash_one(record.identity())).or_default() += 1;
        if let Some(instance) = &record.instance {
            self.instances.insert(instance.clone(), id);
        }
        let record = Arc::new(record);
        self.entries.insert(id, Entry { record: Arc::clone(&record), held_by });
        if matches!(held_by, Owner::Retained(_)) {
            self.await_return(&record);
        }
        record
    }

    fn await_return(&mut self, record: &Record) {
        if record.instance.is_none() {
            self.awaited.insert(record.identity(), record.id);
        }
    }

    fn remove(&mut self, id: u64, reason: LeaveReason) -> Option<Arc<Record>> {
        let record = self.detach(id)?;
        let identity = record.identity();
        if self.awaited.get(&identity) == Some(&id) {
            self.awaited.remove(&identity);
        }
        self.log_change(id, Some(Arc::clone(&record)), reason);
        Some(record)
    }

    fn detach(&mut self, id: u64) -> Option<Arc<Record>> {
        let Entry { record, .. } = self.entries.remove(&id)?;
        self.digest.remove(id, &record.entry);
        self.entry_bytes -= record.entry.len();
        self.unconfirmed -= usize::from(!record.is_confirmed);
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
        self.push(Change::Entry(EntryChange { id, before, reason }));
    }

    fn push(&mut self, change: Change) {
        self.change_bytes += change.bytes();
        self.changes.push_back(change);
        self.revision.rev += 1;
        while self.changes.len() > MAX_CHANGES || self.change_bytes > MAX_CHANGE_BYTES {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.change_bytes -= oldest.bytes();
        }
    }
}

impl Change {
    fn touched(&self) -> Option<&EntryChange> {
        match self {
            Self::Entry(touched) => Some(touched),
            Self::Header | Self::Confirmed(_) => None,
        }
    }

    /// Bytes that it keeps alive.
    fn bytes(&self) -> usize {
        match self {
            Self::Entry(EntryChange { before, .. }) => before.as_ref().map_or(0, |record| record.bytes()),
            // The entries are listed.
            Self::Confirmed(records) => size_of_val(records.as_slice()),
            Self::Header => 0,
        }
    }
}

impl Record {
    pub(crate) fn new(id: u64, registration: &Registration, host: &str) -> Self {
        Self {
            id,
            name: registration.name.as_str().into(),
            host: host.into(),
            port: registration.port,
            urls: registration.urls.iter().map(|url| url.as_str().into()).collect(),
            instance: registration.advert.as_ref().and_then(|advert| advert.id.as_deref().map(Box::from)),
            version: if registration.advert.is_some() { Version::V2 } else { Version::V1 },
            entry: registration.entry(host).replace('¶', "\\u00b6").into(),
            suspect: false,
            is_confirmed: true,
        }
    }

    /// Whether lists show the same of both.
    pub(crate) fn is_listed_as(&self, other: &Self) -> bool {
        (self.id, &self.entry, self.suspect) == (other.id, &other.entry, other.suspect)
    }

    /// About how much memory it takes: the entry has what the other members have, too.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + 2 * self.entry.len() + self.urls.len() * size_of::<Box<str>>()
    }

    /// What makes it the same node when it comes again without an instance.
    pub(crate) fn identity(&self) -> NodeIdentity {
        (self.host.clone(), self.port, self.name.clone())
    }

    /// Where it can be called, for people.
    pub(crate) fn address(&self) -> String {
        let host = self.host.strip_prefix("::ffff:").unwrap_or(&self.host);
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

impl Difference {
    /// Nothing that the receiver has to know but that there is a new revision.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { joined, left, suspect, trusted, header_changed, .. } = self;
        joined.is_empty() && left.is_empty() && suspect.is_empty() && trusted.is_empty() && !header_changed
    }

    /// About how many bytes it takes to tell.
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.joined.iter().map(|record| record.entry.len() + 8).sum();
        entries + 32 * self.left.len() + 8 * (self.suspect.len() + self.trusted.len())
    }
}

#[cfg(test)]
mod tests;
