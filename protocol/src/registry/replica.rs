//! What one node knows of the registry: in order, without gaps, and never less because the Distributor knows less.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Delta, Digest, ListUpdate, Node, Pong, Revision, Snapshot, UpdateHeader};

/// How long a node that a new Distributor of version 1 does not list yet is kept: two periods in which nodes reconnect,
/// and 5 s. One of version 2 says itself while it is warming.
pub const RETENTION: Duration = Duration::from_secs(11);

/// What one node knows of the registry.
#[derive(Debug, Default)]
pub struct Replica {
    /// The state that `entries` are; `None` from a Distributor of version 1, or from none.
    revision: Option<Revision>,
    entries: BTreeMap<u64, Listed>,
    /// The entries of each place, in their order.
    places: BTreeMap<SocketAddr, BTreeSet<u64>>,
    digest: Digest,
    /// Nodes that no list shows any more although nobody can have told that they are gone.
    kept: BTreeMap<SocketAddr, Retained>,
    /// Where the last change has made a difference.
    changed: BTreeSet<SocketAddr>,
    /// The connection to the Distributor is new, and has brought nothing yet.
    awaiting: bool,
    warming: bool,
    /// Where the Distributor is, if it is on another machine.
    far: Option<IpAddr>,
}

#[derive(Debug)]
struct Listed {
    /// As it went over the wire.
    text: Box<str>,
    /// `None` when no node can be made of it.
    node: Option<Arc<Node>>,
    /// Where the Distributor was when its loopback was read as that.
    far: Option<IpAddr>,
}

impl Listed {
    /// Whether a Distributor that is there would mean the same by it.
    fn is_read_as_from(&self, far: Option<IpAddr>) -> bool {
        let is_own = self.node.as_ref().is_some_and(|node| is_own(node.host));
        if is_own || self.far.is_some() { self.far == far } else { true }
    }
}

#[derive(Debug)]
struct Retained {
    node: Arc<Node>,
    goes: RetainedUntil,
}

/// When a node goes that no list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetainedUntil {
    /// When the Distributor says that it knows everybody.
    Warm,
    /// At this time.
    At(Instant),
    /// There is no Distributor that could say.
    Open,
}

/// What became of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
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
pub struct KnownNode {
    /// Where it can be called.
    pub address: SocketAddr,
    /// What it offers. Connections that registered the same place are one node, which offers what any of them says.
    pub node: Arc<Node>,
    /// The ids of its entries; none when no list shows it.
    pub ids: Vec<u64>,
}

impl Replica {
    /// A replica that begins with what an earlier process of this node has known.
    pub fn seeded<'a>(revision: Revision, entries: impl Iterator<Item = (u64, &'a str)>) -> Self {
        Self::seeded_from(None, revision, entries)
    }

    /// The same, of what a Distributor has told that was there: see [`set_far`](Self::set_far).
    pub fn seeded_from<'a>(
        far: Option<IpAddr>,
        revision: Revision,
        entries: impl Iterator<Item = (u64, &'a str)>,
    ) -> Self {
        let mut replica = Self { revision: Some(revision), far, ..Self::default() };
        for (id, text) in entries {
            replica.insert(id, text, node_of(text, far));
        }
        replica.changed = replica.places.keys().copied().collect();
        replica
    }

    /// The connection to the Distributor is new. Until it brings a list nobody goes: whoever accepts connections need not
    /// be a Distributor that works.
    pub fn connected(&mut self) {
        self.awaiting = true;
    }

    /// The Distributor that tells from now on is on another machine, at this address; `None`: on this one. What it shows on its
    /// loopback is on that machine, and on ours is something else, which must not be called for it. What is told stays as it is
    /// for copies and digests.
    pub fn set_far(&mut self, far: Option<IpAddr>) {
        self.far = far;
    }

    /// See [`set_far`](Self::set_far).
    pub fn far(&self) -> Option<IpAddr> {
        self.far
    }

    /// The connection to the Distributor is lost: nobody can tell who left, so nobody goes.
    pub fn disconnected(&mut self) {
        self.awaiting = false;
        for kept in self.kept.values_mut() {
            kept.goes = RetainedUntil::Open;
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
    pub fn take(&mut self, now: Instant, news: &ListUpdate<'_>) -> UpdateOutcome {
        self.changed.clear();
        match news {
            ListUpdate::Snapshot(snapshot) => self.take_snapshot(now, snapshot),
            ListUpdate::Delta(delta) => self.take_delta(delta),
        }
    }

    fn take_snapshot(&mut self, now: Instant, snapshot: &Snapshot<'_>) -> UpdateOutcome {
        if let (Some(stamp), Some(known)) = (&snapshot.stamp, self.revision) {
            // A new connection may be to another Distributor; one connection is to one.
            let same_epoch = known.epoch == stamp.revision.epoch;
            if stamp.revision < known && (same_epoch || !self.awaiting) {
                return UpdateOutcome::Stale;
            }
        }
        let far = self.far;
        let mut next = Self { revision: snapshot.stamp.map(|stamp| stamp.revision), far, ..Self::default() };
        // Entries of version 1 have no ids, and nobody asks for them.
        let ids = snapshot.ids.iter().copied().chain(0..);
        // An old Distributor sends the whole list at every change: most of it has been read before.
        let known = self.entries.values().filter(|listed| listed.is_read_as_from(far));
        let known = known.filter_map(|listed| Some((&*listed.text, listed.node.as_ref()?)));
        let known: HashMap<_, _> = known.filter(|(_, node)| !node.suspect).collect();
        for (id, entry) in ids.zip(&snapshot.entries) {
            let text = entry.get();
            next.insert(id, text, known.get(text).map(|node| Arc::clone(node)).or_else(|| node_of(text, far)));
        }
        if snapshot.stamp.and_then(|stamp| stamp.digest).is_some_and(|digest| digest != next.digest) {
            return UpdateOutcome::Gap;
        }
        next.mark(&snapshot.suspect, true);
        let before = self.nodes();
        self.keep(now, snapshot.stamp.as_ref(), &mut next);
        *self = next;
        let mut gone: HashMap<_, _> = before.into_iter().map(|known| (known.address, known)).collect();
        let came = self.nodes().into_iter().filter(|known| gone.remove(&known.address).as_ref() != Some(known));
        self.changed = came.map(|known| known.address).collect();
        self.changed.extend(gone.into_keys());
        if self.changed.is_empty() { UpdateOutcome::Same } else { UpdateOutcome::Changed }
    }

    /// Hands over to `next` those who are known and not in it although nobody said that they left.
    fn keep(&mut self, now: Instant, stamp: Option<&UpdateHeader>, next: &mut Self) {
        next.warming = stamp.is_some_and(|stamp| stamp.warming);
        let goes = match stamp {
            Some(stamp) if stamp.warming => Some(RetainedUntil::Warm),
            Some(_warm) => None,
            None if self.awaiting => Some(RetainedUntil::At(now + RETENTION)),
            None => None,
        };
        let kept = std::mem::take(&mut self.kept);
        let kept = kept.into_iter().map(|(address, kept)| match (kept.goes, goes) {
            // An old Distributor does not say when it knows everybody, and later lists do not put it off.
            (RetainedUntil::At(time), _) if stamp.is_none() => (address, kept.node, Some(RetainedUntil::At(time))),
            _ => (address, kept.node, goes),
        });
        let listed = self.entries.values().filter_map(|listed| listed.node.clone());
        let listed = listed.map(|node| (place_of(&node), node, goes));
        for (address, node, goes) in kept.chain(listed) {
            if let Some(goes) = goes
                && !next.places.contains_key(&address)
            {
                next.kept.insert(address, Retained { node, goes });
            }
        }
    }

    fn take_delta(&mut self, delta: &Delta<'_>) -> UpdateOutcome {
        let stamp = &delta.stamp;
        match self.revision {
            Some(known) if known == delta.base => {}
            Some(known) if known.epoch == stamp.revision.epoch && stamp.revision <= known => {
                return UpdateOutcome::Stale;
            }
            _ => return UpdateOutcome::Gap,
        }
        if let Some(expected) = stamp.digest
            && self.digest_after(delta) != expected
        {
            return UpdateOutcome::Gap;
        }
        let mut changed = false;
        for (id, _) in &delta.left {
            changed |= self.remove(*id);
        }
        for (id, entry) in &delta.joined {
            self.insert(*id, entry.get(), node_of(entry.get(), self.far));
            if let Some(address) = self.entries.get(id).and_then(|listed| listed.node.as_deref()).map(place_of) {
                self.kept.remove(&address);
                self.changed.insert(address);
            }
            changed = true;
        }
        changed |= self.mark(&delta.suspect, true) | self.mark(&delta.trusted, false);
        self.revision = Some(stamp.revision);
        self.awaiting = false;
        self.warming = stamp.warming;
        if !stamp.warming {
            changed |= !self.kept.is_empty();
            self.changed.extend(std::mem::take(&mut self.kept).into_keys());
        }
        if changed { UpdateOutcome::Changed } else { UpdateOutcome::Same }
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

    fn insert(&mut self, id: u64, text: &str, node: Option<Arc<Node>>) {
        self.remove(id);
        if let Some(node) = &node {
            self.places.entry(place_of(node)).or_default().insert(id);
        }
        self.digest.add(id, text);
        let far = self.far.filter(|far| node.as_ref().is_some_and(|node| node.host == *far));
        self.entries.insert(id, Listed { text: text.into(), node, far });
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(Listed { text, node, .. }) = self.entries.remove(&id) else { return false };
        self.digest.remove(id, &text);
        if let Some(address) = node.as_deref().map(place_of)
            && let Entry::Occupied(mut ids) = self.places.entry(address)
        {
            ids.get_mut().remove(&id);
            if ids.get().is_empty() {
                ids.remove();
            }
            self.changed.insert(address);
        }
        true
    }

    fn mark(&mut self, ids: &[u64], suspect: bool) -> bool {
        let mut changed = false;
        for id in ids {
            let node = self.entries.get_mut(id).and_then(|listed| listed.node.as_mut());
            if let Some(node) = node.filter(|node| node.suspect != suspect) {
                Arc::make_mut(node).suspect = suspect;
                self.changed.insert(place_of(node));
                changed = true;
            }
        }
        changed
    }

    /// A connection to this node failed. If no list shows it either, it is gone. Returns whether that is so.
    pub fn unreachable(&mut self, address: SocketAddr) -> bool {
        let gone = self.kept.remove(&address);
        self.changed = gone.iter().map(|_| address).collect();
        gone.is_some()
    }

    /// Removes nodes whose time has come. Returns whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = |kept: &Retained| matches!(kept.goes, RetainedUntil::At(time) if time <= now);
        self.changed = self.kept.iter().filter(|(_, kept)| is_over(kept)).map(|(address, _)| *address).collect();
        self.kept.retain(|_, kept| !is_over(kept));
        !self.changed.is_empty()
    }

    /// When the next node goes unless a list shows it.
    pub fn next_expiry(&self) -> Option<Instant> {
        let times = self.kept.values().filter_map(|kept| match kept.goes {
            RetainedUntil::At(time) => Some(time),
            RetainedUntil::Warm | RetainedUntil::Open => None,
        });
        times.min()
    }

    /// Where the last of [`take`](Self::take), [`unreachable`](Self::unreachable), [`expire`](Self::expire), or the seed, has made a
    /// difference, with who is there now.
    pub fn changes(&self) -> impl Iterator<Item = (SocketAddr, Option<KnownNode>)> {
        self.changed.iter().map(|address| (*address, self.at(*address)))
    }

    /// All nodes, by address.
    pub fn nodes(&self) -> Vec<KnownNode> {
        let addresses: BTreeSet<_> = self.places.keys().chain(self.kept.keys()).collect();
        addresses.into_iter().filter_map(|address| self.at(*address)).collect()
    }

    /// Who is at this address.
    fn at(&self, address: SocketAddr) -> Option<KnownNode> {
        let Some(ids) = self.places.get(&address) else {
            return self.kept.get(&address).map(|kept| KnownNode {
                address,
                node: Arc::clone(&kept.node),
                ids: vec![],
            });
        };
        let mut nodes = ids.iter().filter_map(|id| self.entries.get(id)?.node.as_ref());
        let mut node = Arc::clone(nodes.next()?);
        if ids.len() > 1 {
            let merged = Arc::make_mut(&mut node);
            let mut seen: HashSet<_> = merged.routes.iter().cloned().collect();
            let more = nodes.flat_map(|node| &node.routes).filter(|route| seen.insert((*route).clone()));
            merged.routes.extend(more.cloned());
        }
        Some(KnownNode { address, node, ids: ids.iter().copied().collect() })
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

/// The node of an entry that a Distributor at `far` has told.
fn node_of(text: &str, far: Option<IpAddr>) -> Option<Arc<Node>> {
    let mut node = serde_json::from_str(text).ok().and_then(Node::from_entry)?;
    if let Some(far) = far.filter(|_| is_own(node.host)) {
        node.host = far;
    }
    Some(Arc::new(node))
}

/// Whether an address means the machine itself, whichever it is; systems take the unspecified one for that too.
fn is_own(host: IpAddr) -> bool {
    host.is_loopback() || host.is_unspecified()
}

fn place_of(node: &Node) -> SocketAddr {
    SocketAddr::new(node.host, node.port)
}

#[cfg(test)]
mod tests;
