//! Restores the table after a restart, from the copy of one node.

use std::sync::Arc;
use std::time::Instant;

use protocol::{LeaveReason, ResumePoint, Revision};

use crate::entries::changelog::Changelog;
use crate::entries::{Entry, EntryTable, Owner, Record};

impl EntryTable {
    /// Restores a node's copy of the table of an earlier Distributor. Each of its nodes is expected
    /// back by `until`, and nodes that have registered already stay. Peers that know that state can
    /// be sent the changes since; other peers are told of an entry when its own node has
    /// registered. Returns the nodes that are back already.
    pub(crate) fn restore(
        &mut self,
        copied: ResumePoint,
        records: impl IntoIterator<Item = Record>,
        until: Instant,
    ) -> Vec<Arc<Record>> {
        let mut returned = Vec::new();
        let registered = std::mem::take(&mut self.entries);
        let sessions = std::mem::take(&mut self.sessions);
        let revision = self.revision();
        // Lists that were sent under our epoch so far are void, because their ids may belong to
        // other entries now.
        let epoch = revision.epoch.max(copied.revision.epoch + 1);
        *self = Self::new(epoch);
        self.changelog = Changelog::new(Revision { epoch, rev: revision.rev + 1 }, Some(copied));
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
                None => self.expected.first(&identity),
            };
            let id = known.unwrap_or(self.next_id);
            self.next_id = self.next_id.max(id + 1);
            self.sessions.insert(session, id);
            self.expected.remove(&identity, id);
            let before = self.entries.get(&id).map(|entry| Arc::clone(&entry.record));
            let record = self.insert(Record { id, ..(**record).clone() }, Owner::Session(session));
            if before.is_some() {
                returned.push(record);
            }
            self.log_change(id, before, LeaveReason::Changed);
        }
        returned
    }
}
