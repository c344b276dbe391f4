//! What the played Distributor lists, and the packets that say so. Nothing here knows sockets.

use protocol::{Digest, Revision, pack, write_block};

/// The first epoch. A real Distributor takes the time of its start.
const FIRST_EPOCH: u64 = 1_700_000_000_000;

/// The entries that are listed, and their state.
#[derive(Clone, Debug)]
pub(super) struct PlayedList {
    pub(super) revision: Revision,
    entries: Vec<(u64, String)>,
    next_id: u64,
}

impl PlayedList {
    pub(super) fn new() -> Self {
        Self { revision: Revision { epoch: FIRST_EPOCH, rev: 1 }, entries: Vec::new(), next_id: 1 }
    }

    /// Lists an entry, and returns its id.
    pub(super) fn put(&mut self, entry: String) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.revision.rev += 1;
        self.entries.push((id, entry));
        id
    }

    /// Replaces the entry of an id.
    pub(super) fn replace(&mut self, id: u64, entry: &str) {
        self.revision.rev += 1;
        for (other, listed) in &mut self.entries {
            if *other == id {
                entry.clone_into(listed);
            }
        }
    }

    /// Removes the entry of an id.
    pub(super) fn remove(&mut self, id: u64) {
        self.revision.rev += 1;
        self.entries.retain(|(other, _)| *other != id);
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.entries.iter().map(|(id, _)| *id).collect()
    }

    pub(super) fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        self.entries.iter().for_each(|(id, entry)| digest.add(*id, entry));
        digest
    }

    fn state(&self, Digest(digest): Digest) -> String {
        let Revision { epoch, rev } = self.revision;
        format!(r#""epoch":{epoch},"rev":{rev},"digest":{digest},"ack":true"#)
    }

    fn texts(&self, ids: &[u64]) -> String {
        let listed = self.entries.iter().filter(|(id, _)| ids.contains(id));
        listed.map(|(_, entry)| entry.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The whole list under a key, as JSON text. `more` are members of `$`, such as `,"new":1`.
    pub(super) fn whole(&self, key: &str, more: &str) -> String {
        let (texts, state, ids) = (self.texts(&self.ids()), self.state(self.digest()), joined(&self.ids()));
        format!(
            r#"{{"uri":"/distributes","method":"GET","key":{key},"params":[{texts}],"$":{{{state},"ids":[{ids}]{more}}}}}"#
        )
    }

    /// The whole list with all entries in a block.
    pub(super) fn whole_packed(&self) -> String {
        let mut block = String::new();
        write_block(&mut block, self.entries.iter().map(|(id, entry)| (*id, entry.as_str())));
        let (packed, state) = (pack(&block), self.state(self.digest()));
        format!(
            r#"{{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{{{state},"ids":[],"packed":["{packed}"]}}}}"#
        )
    }

    /// The change from `base` to the present state, in which these entries have joined and left.
    pub(super) fn change(&self, base: Revision, joined: &[u64], left: &[u64]) -> String {
        self.change_to(self.digest(), base, joined, left)
    }

    /// A change that states this digest, which may be wrong.
    pub(super) fn change_to(&self, digest: Digest, base: Revision, joined_ids: &[u64], left: &[u64]) -> String {
        let was = if base.epoch == self.revision.epoch { String::new() } else { format!(r#","was":{}"#, base.epoch) };
        let left: Vec<_> = left.iter().map(|id| format!(r#"{{"id":{id},"reason":"closed"}}"#)).collect();
        let (texts, state, ids) = (self.texts(joined_ids), self.state(digest), joined(joined_ids));
        format!(
            r#"{{"uri":"/distributes","method":"PATCH","key":0,"params":{{"joined":[{texts}],"left":[{}]}},"$":{{{state},"base":{}{was},"ids":[{ids}]}}}}"#,
            left.join(","),
            base.rev
        )
    }

    /// A ping that states the present state and this digest.
    pub(super) fn ping(&self, Digest(digest): Digest) -> String {
        let Revision { epoch, rev } = self.revision;
        format!(r#"{{"uri":"$ping","$":{{"every":1000,"epoch":{epoch},"rev":{rev},"digest":{digest}}}}}"#)
    }
}

/// A list without entries that states a fault or a notice.
pub(super) fn notice(status: u16, word: &str, retry_after_ms: Option<u128>) -> String {
    let retry_after = retry_after_ms.map_or_else(String::new, |ms| format!(r#","ra":{ms}"#));
    format!(
        r#"{{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{{"s":{status},"r":"{word}","m":"from nodeconform"{retry_after}}}}}"#
    )
}

fn joined(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}
