//! What one node knows of the registry: in order, without gaps, and never less because the Distributor knows less.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::news::{Delta, News, Snapshot, Stamp};
use crate::{Digest, Node, Pong, Revision};

/// How long a node that a new Distributor of version 1 does not list yet is kept: two periods in which nodes reconnect,
/// and 5 s. One of version 2 says itself while it is warming.
pub const HOLD: Duration = Duration::from_secs(11);

/// What one node knows of the registry.
#[derive(Debug, Default)]
pub struct Replica {
    /// The state that `entries` are; `None` from a Distributor of version 1, or from none.
    revision: Option<Revision>,
    entries: BTreeMap<u64, Listed>,
    digest: Digest,
    /// Nodes that no list shows any more although nobody can have told that they are gone.
    kept: BTreeMap<SocketAddr, Kept>,
    /// The connection to the Distributor is new, and has brought nothing yet.
    awaiting: bool,
    warming: bool,
}

#[derive(Debug)]
struct Listed {
    /// As it went over the wire.
    text: Box<str>,
    /// `None` when no node can be made of it.
    node: Option<Node>,
}

#[derive(Debug)]
struct Kept {
    node: Node,
    goes: Goes,
}

/// When a node goes that no list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// When the Distributor says that it knows everybody.
    Warm,
    /// At this time.
    At(Instant),
    /// There is no Distributor that could say.
    Open,
}

/// What became of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody came, went, or is not what it was, or not listed any more.
    Changed,
    /// Taken in, and nobody did.
    Same,
    /// Older than what is known; ignored.
    Stale,
    /// It does not follow what is known, or its digest is not what it leads to; ignored. The receiver asks for the list.
    Gap,
}

/// A node as a replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it can be called.
    pub address: SocketAddr,
    /// What it offers. Connections that registered the same place are one node, which offers what any of them says.
    pub node: Node,
    /// The ids of its entries; none when no list shows it.
    pub ids: Vec<u64>,
}

impl Replica {
    /// A replica that begins with what an earlier process of this node has known.
    pub fn seeded<'a>(revision: Revision, entries: impl Iterator<Item = (u64, &'a str)>) -> Self {
        let mut replica = Self { revision: Some(revision), ..Self::default() };
        for (id, text) in entries {
            replica.insert(id, text);
        }
        replica
    }

    /// The connection to the Distributor is new. Until it brings a list nobody goes: whoever accepts connections need not
    /// be a Distributor that works.
    pub fn connected(&mut self) {
        self.awaiting = true;
    }

    /// The connection to the Distributor is lost: nobody can tell who left, so nobody goes.
    pub fn disconnected(&mut self) {
        self.awaiting = false;
        for kept in self.kept.values_mut() {
            kept.goes = Goes::Open;
        }
    }

    /// The state that is known, for the Distributor to go on from.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The digest of what is known.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What to say to a ping, by a node that is told of `all` or of a part only.
    pub fn pong(&self, all: bool) -> Pong {
        Pong { revision: self.revision, digest: all.then_some(self.digest) }
    }

    /// The entries of that state with their ids, as they went over the wire.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().map(|(id, listed)| (*id, &*listed.text))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether what is known may lack nodes that are there, because the Distributor has just started.
    pub fn is_warming(&self) -> bool {
        self.warming
    }

    /// Takes in what the Distributor told.
    pub fn take(&mut self, now: Instant, news: &News<'_>) -> Outcome {
        match news {
            News::Snapshot(snapshot) => self.take_snapshot(now, snapshot),
            News::Delta(delta) => self.take_delta(delta),
        }
    }

    fn take_snapshot(&mut self, now: Instant, snapshot: &Snapshot<'_>) -> Outcome {
        if let (Some(stamp), Some(known)) = (&snapshot.stamp, self.revision) {
            // A new connection may be to another Distributor; one connection is to one.
            let same_epoch = known.epoch == stamp.revision.epoch;
            if stamp.revision < known && (same_epoch || !self.awaiting) {
                return Outcome::Stale;
            }
        }
        let mut next = Self { revision: snapshot.stamp.map(|stamp| stamp.revision), ..Self::default() };
        // Entries of version 1 have no ids, and nobody asks for them.
        let ids = snapshot.ids.iter().copied().chain(0..);
        for (id, entry) in ids.zip(&snapshot.entries) {
            next.insert(id, entry.get());
        }
        if snapshot.stamp.and_then(|stamp| stamp.digest).is_some_and(|digest| digest != next.digest) {
            return Outcome::Gap;
        }
        next.mark(&snapshot.suspect, true);
        let before = self.nodes();
        self.keep(now, snapshot.stamp.as_ref(), &mut next);
        *self = next;
        if self.nodes() == before { Outcome::Same } else { Outcome::Changed }
    }

    /// Hands over to `next` those who are known and not in it although nobody said that they left.
    fn keep(&mut self, now: Instant, stamp: Option<&Stamp>, next: &mut Self) {
        next.warming = stamp.is_some_and(|stamp| stamp.warming);
        let goes = match stamp {
            Some(stamp) if stamp.warming => Some(Goes::Warm),
            Some(_warm) => None,
            None if self.awaiting => Some(Goes::At(now + HOLD)),
            None => None,
        };
        let shown: HashMap<_, _> = next.nodes().into_iter().map(|known| (known.address, ())).collect();
        let kept = std::mem::take(&mut self.kept);
        let kept = kept.into_iter().map(|(address, kept)| match (kept.goes, goes) {
            // An old Distributor does not say when it knows everybody, and later lists do not put it off.
            (Goes::At(time), _) if stamp.is_none() => (address, kept.node, Some(Goes::At(time))),
            _ => (address, kept.node, goes),
        });
        let listed = self.entries.values().filter_map(|listed| listed.node.clone());
        let listed = listed.map(|node| (SocketAddr::new(node.host, node.port), node, goes));
        for (address, node, goes) in kept.chain(listed) {
            if let Some(goes) = goes
                && !shown.contains_key(&address)
            {
                next.kept.insert(address, Kept { node, goes });
            }
        }
    }

    fn take_delta(&mut self, delta: &Delta<'_>) -> Outcome {
        let stamp = &delta.stamp;
        match self.revision {
            Some(known) if known == delta.base => {}
            Some(known) if known.epoch == stamp.revision.epoch && stamp.revision <= known => return Outcome::Stale,
            _ => return Outcome::Gap,
        }
        if let Some(expected) = stamp.digest
            && self.digest_after(delta) != expected
        {
            return Outcome::Gap;
        }
        let mut changed = false;
        for (id, _) in &delta.left {
            changed |= self.remove(*id);
        }
        for (id, entry) in &delta.joined {
            self.insert(*id, entry.get());
            let address = self.entries.get(id).and_then(|listed| listed.node.as_ref());
            if let Some(address) = address.map(|node| SocketAddr::new(node.host, node.port)) {
                self.kept.remove(&address);
            }
            changed = true;
        }
        changed |= self.mark(&delta.suspect, true) | self.mark(&delta.trusted, false);
        self.revision = Some(stamp.revision);
        self.awaiting = false;
        self.warming = stamp.warming;
        if !stamp.warming {
            changed |= !self.kept.is_empty();
            self.kept.clear();
        }
        if changed { Outcome::Changed } else { Outcome::Same }
    }

    fn digest_after(&self, delta: &Delta<'_>) -> Digest {
        let mut digest = self.digest;
        for id in delta.left.iter().map(|(id, _)| id).chain(delta.joined.iter().map(|(id, _)| id)) {
            if let Some(listed) = self.entries.get(id) {
                digest.remove(*id, &listed.text);
            }
        }
        for (id, entry) in &delta.joined {
            digest.add(*id, entry.get());
        }
        digest
    }

    fn insert(&mut self, id: u64, text: &str) {
        let node = serde_json::from_str(text).ok().and_then(Node::from_entry);
        self.digest.add(id, text);
        if let Some(before) = self.entries.insert(id, Listed { text: text.into(), node }) {
            self.digest.remove(id, &before.text);
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let removed = self.entries.remove(&id);
        if let Some(listed) = &removed {
            self.digest.remove(id, &listed.text);
        }
        removed.is_some()
    }

    fn mark(&mut self, ids: &[u64], suspect: bool) -> bool {
        let mut changed = false;
        for id in ids {
            if let Some(node) = self.entries.get_mut(id).and_then(|listed| listed.node.as_mut()) {
                changed |= node.suspect != suspect;
                node.suspect = suspect;
            }
        }
        changed
    }

    /// A connection to this node failed. If no list shows it either, it is gone. Returns whether that is so.
    pub fn unreachable(&mut self, address: SocketAddr) -> bool {
        self.kept.remove(&address).is_some()
    }

    /// Removes nodes whose time has come. Returns whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.kept.len();
        self.kept.retain(|_, kept| !matches!(kept.goes, Goes::At(time) if time <= now));
        self.kept.len() != before
    }

    /// When the next node goes unless a list shows it.
    pub fn next_expiry(&self) -> Option<Instant> {
        let times = self.kept.values().filter_map(|kept| match kept.goes {
            Goes::At(time) => Some(time),
            Goes::Warm | Goes::Open => None,
        });
        times.min()
    }

    /// All nodes, by address.
    pub fn nodes(&self) -> Vec<Known> {
        let mut known: BTreeMap<SocketAddr, Known> = BTreeMap::new();
        for (id, listed) in &self.entries {
            let Some(node) = &listed.node else { continue };
            let address = SocketAddr::new(node.host, node.port);
            match known.entry(address) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Known { address, node: node.clone(), ids: vec![*id] });
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let Known { node: first, ids, .. } = entry.get_mut();
                    let more: Vec<_> = node.routes.iter().filter(|route| !first.routes.contains(route)).collect();
                    first.routes.extend(more.into_iter().cloned());
                    ids.push(*id);
                }
            }
        }
        for (address, kept) in &self.kept {
            known.entry(*address).or_insert_with(|| Known { address: *address, node: kept.node.clone(), ids: vec![] });
        }
        known.into_values().collect()
    }

    /// Where an instance stands among all entries, from 0 up to 1, both in order of registration; `None` when it is not listed.
    pub fn rank(&self, instance: &str) -> Option<f64> {
        let is_it = |listed: &Listed| {
            let id = listed.node.as_ref().and_then(|node| node.advert.as_ref()?.id.as_deref());
            id == Some(instance)
        };
        let position = self.entries.values().position(is_it)?;
        #[expect(clippy::cast_precision_loss, reason = "no list has 2^52 entries")]
        Some(position as f64 / self.entries.len() as f64)
    }
}

#[cfg(test)]
mod tests;
