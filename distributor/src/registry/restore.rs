//! After a restart: restores the list of an earlier Distributor from the copy of a node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use protocol::{CopyPart, Digest, RegistryEntry, ResumePoint, host_text};

use crate::entries::{Record, SessionId};
use crate::registry::Registry;
use crate::registry::history::BEFORE_RESTART;
use crate::registry::warmup::RETURN_WITHIN;

impl Registry {
    /// Takes a part of a node's copy. Returns whether it was the last part and the copy is now in
    /// use.
    pub(crate) fn restore_part(&mut self, now: Instant, session: SessionId, part: &CopyPart<'_>) -> bool {
        let Some(offered) = self.warmup.expected_copy(session) else { return false };
        let records: Option<Vec<_>> =
            part.entries.iter().map(|(id, entry)| Record::from_entry(*id, entry.get())).collect();
        self.copy.extend(records.unwrap_or_default());
        let bytes: usize = self.copy.iter().map(|record| record.entry.len()).sum();
        if self.copy.len() > self.config.max_connections || bytes > self.config.max_list_bytes {
            self.copy.clear();
            return self.refuse_copy(now, "it has more nodes than may register (--max-connections, --max-list-bytes)");
        }
        if part.more {
            return false;
        }
        let copy = std::mem::take(&mut self.copy);
        let mut digest = Digest::default();
        copy.iter().for_each(|record| digest.add(record.id, &record.entry));
        let is_offered = part.revision == offered.revision && offered.digest.is_none_or(|offered| offered == digest);
        if digest != part.digest || !is_sound(&copy) {
            return self.refuse_copy(now, "it is damaged");
        }
        if !is_offered {
            return self.refuse_copy(now, "it is not the list that was offered");
        }
        if self.exceeds_copy_limit(&copy) {
            return self.refuse_copy(now, "with the nodes that have registered it is too large (--max-list-bytes)");
        }
        let copied = ResumePoint { revision: part.revision, digest: Some(digest) };
        for record in self.entries.restore(copied, copy, now + RETURN_WITHIN) {
            self.history.record(now, self.entries.revision().rev, &record, "came back", BEFORE_RESTART);
        }
        self.warmup.record_restored();
        true
    }

    /// Refuses the copy, so that another node is asked. Returns `false`.
    fn refuse_copy(&mut self, now: Instant, why: &'static str) -> bool {
        self.warmup.record_bad_copy(now);
        self.bad_copy = Some(why);
        false
    }

    /// Whether a copy, with the registered nodes that it lacks, would make a longer list than nodes
    /// accept.
    fn exceeds_copy_limit(&self, copy: &[Record]) -> bool {
        let instances: HashSet<_> = copy.iter().filter_map(|record| record.instance.as_deref()).collect();
        let is_new = |record: &&Arc<Record>| record.instance.as_deref().is_none_or(|id| !instances.contains(id));
        let new: usize = self.entries.records().filter(is_new).map(|record| record.entry.len() + 1).sum();
        let copied: usize = copy.iter().map(|record| record.entry.len() + 1).sum();
        copied + new + self.deferred.bytes() > self.config.max_list_bytes
    }
}

impl Record {
    /// The record of an entry that another Distributor has sent; `None` when it is not an entry.
    pub(super) fn from_entry(id: u64, entry: &str) -> Option<Self> {
        let RegistryEntry { registration, host } = RegistryEntry::parse(entry)?;
        Some(Self::new(id, &registration, &host_text(host)))
    }
}

/// Whether each id and each instance occurs once.
fn is_sound(copy: &[Record]) -> bool {
    let (mut ids, mut instances) = (HashSet::new(), HashSet::new());
    copy.iter().all(|record| ids.insert(record.id) && record.instance.as_ref().is_none_or(|id| instances.insert(id)))
}
