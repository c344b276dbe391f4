//! One node's copy of the registry. Updates are applied in order and without gaps, and a node that
//! is missing only because the Distributor has restarted stays known.
//!
//! It must not ask for the time, which is an argument, or know which routes a process needs.

mod one_address;
mod retained;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use self::one_address::{instance_of, node_of};
pub use self::retained::RETENTION;
use self::retained::Retained;
use crate::{Delta, Digest, ListUpdate, Node, Pong, Revision, WholeList};

/// What one node knows of the registry.
#[derive(Debug, Default)]
pub struct Replica {
    /// The state of `entries`; `None` from a Distributor of version 1, or before the first list.
    revision: Option<Revision>,
    entries: BTreeMap<u64, Listed>,
    /// The ids of the entries at each address.
    by_address: BTreeMap<SocketAddr, BTreeSet<u64>>,
    digest: Digest,
    /// Nodes that are missing in the list although the Distributor cannot know that they have left.
    retained: BTreeMap<SocketAddr, Retained>,
    /// Addresses at which the last change made a difference.
    changed: BTreeSet<SocketAddr>,
    /// Whether the connection to the Distributor is new, and has brought no list yet.
    awaits_list: bool,
    warming: bool,
    /// The address of the Distributor, if it is on another machine.
    registry_host: Option<IpAddr>,
}

#[derive(Debug)]
struct Listed {
    /// The entry as it went over the wire.
    text: Box<str>,
    /// `None` when no node can be made of it.
    node: Option<Arc<Node>>,
    /// The address that a loopback address was replaced with, if the entry has one.
    registry_host: Option<IpAddr>,
}

impl Listed {
    /// Whether the entry of a Distributor at `registry_host` would give the same node.
    fn is_parsed_for(&self, registry_host: Option<IpAddr>) -> bool {
        let is_this_machine = self.node.as_ref().is_some_and(|node| is_this_machine(node.host));
        if is_this_machine || self.registry_host.is_some() { self.registry_host == registry_host } else { true }
    }
}

/// The result of applying an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The update was applied, and a node came, left, changed, or is not listed any more.
    Changed,
    /// The update was applied, and no node changed.
    Same,
    /// The update is older than what is known, and was ignored.
    Stale,
    /// The update does not follow what is known, or does not lead to its digest, and was ignored.
    /// The receiver should request the list.
    Gap,
}

/// A node as a replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Where the node can be called.
    pub address: SocketAddr,
    /// What the node offers. Entries of the same address are one node, which offers the routes of
    /// all of them.
    pub node: Arc<Node>,
    /// The ids of the entries of the node; empty when it is not listed.
    pub ids: Vec<u64>,
    /// Whether several instances are listed there, and it cannot be told which of them listens.
    pub is_shared: bool,
}

impl Replica {
    /// A replica that begins with what an earlier process of this node knew.
    pub fn seeded<'a>(revision: Revision, entries: impl Iterator<Item = (u64, &'a str)>) -> Self {
        Self::seeded_from(None, revision, entries)
    }

    /// A replica of these entries from a Distributor at `registry_host`: see
    /// [`set_registry_host`](Self::set_registry_host).
    pub fn seeded_from<'a>(
        registry_host: Option<IpAddr>,
        revision: Revision,
        entries: impl Iterator<Item = (u64, &'a str)>,
    ) -> Self {
        let mut replica = Self { revision: Some(revision), registry_host, ..Self::default() };
        for (id, text) in entries {
            replica.insert(id, text, parse_node(text, registry_host));
        }
        replica.changed = replica.by_address.keys().copied().collect();
        replica
    }

    /// Records that the connection to the Distributor is new. No node is removed until it brings a
    /// list: what accepts a connection need not be a Distributor that works.
    pub fn record_connect(&mut self) {
        self.awaits_list = true;
    }

    /// How many entries of the list make no node, such as those of a version 1 Distributor without
    /// a usable port.
    pub fn unreadable(&self) -> usize {
        self.entries.values().filter(|listed| listed.node.is_none()).count()
    }

    /// Says where the Distributor is: at this address on another machine, or, with `None`, on this
    /// one. A loopback address in its lists means its own machine, and is replaced by this address,
    /// so that no process of our machine is called instead. Copies and digests keep the entries as
    /// they came.
    pub fn set_registry_host(&mut self, registry_host: Option<IpAddr>) {
        self.registry_host = registry_host;
    }

    /// The address of the Distributor, if it is on another machine.
    pub fn registry_host(&self) -> Option<IpAddr> {
        self.registry_host
    }

    /// The known state, from which the Distributor can continue.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The digest of the known entries.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The answer to a ping. `all` says whether this node is told of all others, not only of some.
    pub fn pong(&self, all: bool) -> Pong {
        Pong { revision: self.revision, digest: all.then_some(self.digest) }
    }

    /// The ids and entries of the known state, as they went over the wire.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().map(|(id, listed)| (*id, &*listed.text))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the Distributor has just started and may not know all nodes yet.
    pub fn is_warming(&self) -> bool {
        self.warming
    }

    /// Applies an update of the Distributor.
    pub fn apply(&mut self, now: Instant, update: &ListUpdate<'_>) -> UpdateOutcome {
        self.changed.clear();
        match update {
            ListUpdate::Whole(list) => self.apply_list(now, list),
            ListUpdate::Delta(delta) => self.apply_delta(delta),
        }
    }

    fn apply_list(&mut self, now: Instant, list: &WholeList<'_>) -> UpdateOutcome {
        if let (Some(header), Some(known)) = (&list.header, self.revision) {
            // Only a new connection can be to another Distributor.
            let same_epoch = known.epoch == header.revision.epoch;
            if header.revision < known && (same_epoch || !self.awaits_list) {
                return UpdateOutcome::Stale;
            }
        }
        let registry_host = self.registry_host;
        let mut next = Self { revision: list.header.map(|header| header.revision), registry_host, ..Self::default() };
        // Entries of version 1 have no ids, and none are needed: they are never copied.
        let ids = list.ids.iter().copied().chain(0..);
        // A version 1 Distributor sends the whole list at every change, and most of it is known.
        let known = self.entries.values().filter(|listed| listed.is_parsed_for(registry_host));
        let known = known.filter_map(|listed| Some((&*listed.text, listed.node.as_ref()?)));
        let known: HashMap<_, _> = known.filter(|(_, node)| !node.suspect).collect();
        for (id, entry) in ids.zip(&list.entries) {
            let text = entry.get();
            next.insert(
                id,
                text,
                known.get(text).map(|node| Arc::clone(node)).or_else(|| parse_node(text, registry_host)),
            );
        }
        if list.header.and_then(|header| header.digest).is_some_and(|digest| digest != next.digest) {
            return UpdateOutcome::Gap;
        }
        next.mark_suspects(&list.suspect, true);
        let before = self.nodes();
        self.retain_missing(now, list.header.as_ref(), &mut next);
        *self = next;
        let mut gone: HashMap<_, _> = before.into_iter().map(|known| (known.address, known)).collect();
        let came = self.nodes().into_iter().filter(|known| gone.remove(&known.address).as_ref() != Some(known));
        self.changed = came.map(|known| known.address).collect();
        self.changed.extend(gone.into_keys());
        if self.changed.is_empty() { UpdateOutcome::Same } else { UpdateOutcome::Changed }
    }

    fn apply_delta(&mut self, delta: &Delta<'_>) -> UpdateOutcome {
        let header = &delta.header;
        match self.revision {
            Some(known) if known == delta.base => {}
            Some(known) if known.epoch == header.revision.epoch && header.revision <= known => {
                return UpdateOutcome::Stale;
            }
            _ => return UpdateOutcome::Gap,
        }
        if let Some(expected) = header.digest
            && self.digest_after(delta) != expected
        {
            return UpdateOutcome::Gap;
        }
        // Another Distributor does not know whom its predecessor suspected, and names all suspects.
        let is_other = delta.base.epoch != header.revision.epoch;
        let trusted: Vec<u64> = if is_other { self.entries.keys().copied().collect() } else { Vec::new() };
        let mut changed = self.mark_suspects(&trusted, false);
        for (id, _) in &delta.left {
            changed |= self.remove(*id);
        }
        for (id, entry) in &delta.joined {
            self.insert(*id, entry.get(), parse_node(entry.get(), self.registry_host));
            if let Some(address) = self.entries.get(id).and_then(|listed| listed.node.as_deref()).map(address_of) {
                self.retained.remove(&address);
                self.changed.insert(address);
            }
            changed = true;
        }
        changed |= self.mark_suspects(&delta.suspect, true) | self.mark_suspects(&delta.trusted, false);
        self.revision = Some(header.revision);
        self.awaits_list = false;
        self.warming = header.warming;
        if !header.warming {
            changed |= !self.retained.is_empty();
            self.changed.extend(std::mem::take(&mut self.retained).into_keys());
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
            self.by_address.entry(address_of(node)).or_default().insert(id);
        }
        self.digest.add(id, text);
        let registry_host =
            self.registry_host.filter(|registry_host| node.as_ref().is_some_and(|node| node.host == *registry_host));
        self.entries.insert(id, Listed { text: text.into(), node, registry_host });
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(Listed { text, node, .. }) = self.entries.remove(&id) else { return false };
        self.digest.remove(id, &text);
        if let Some(address) = node.as_deref().map(address_of)
            && let Entry::Occupied(mut ids) = self.by_address.entry(address)
        {
            ids.get_mut().remove(&id);
            if ids.get().is_empty() {
                ids.remove();
            }
            self.changed.insert(address);
        }
        true
    }

    fn mark_suspects(&mut self, ids: &[u64], suspect: bool) -> bool {
        let mut changed = false;
        for id in ids {
            let node = self.entries.get_mut(id).and_then(|listed| listed.node.as_mut());
            if let Some(node) = node.filter(|node| node.suspect != suspect) {
                Arc::make_mut(node).suspect = suspect;
                self.changed.insert(address_of(node));
                changed = true;
            }
        }
        changed
    }

    /// The addresses at which the last [`apply`](Self::apply),
    /// [`mark_unreachable`](Self::mark_unreachable) or [`expire`](Self::expire), or the seed, made
    /// a difference, each with the node that is there now.
    pub fn last_changes(&self) -> impl Iterator<Item = (SocketAddr, Option<KnownNode>)> {
        self.changed.iter().map(|address| (*address, self.node_at(*address)))
    }

    /// All nodes, by address.
    pub fn nodes(&self) -> Vec<KnownNode> {
        let addresses: BTreeSet<_> = self.by_address.keys().chain(self.retained.keys()).collect();
        addresses.into_iter().filter_map(|address| self.node_at(*address)).collect()
    }

    /// The node at this address.
    fn node_at(&self, address: SocketAddr) -> Option<KnownNode> {
        let Some(ids) = self.by_address.get(&address) else {
            return self.retained.get(&address).map(|kept| KnownNode {
                address,
                node: Arc::clone(&kept.node),
                ids: vec![],
                is_shared: false,
            });
        };
        let (node, is_shared) = node_of(ids.iter().filter_map(|id| self.entries.get(id)?.node.as_ref()))?;
        Some(KnownNode { address, node, ids: ids.iter().copied().collect(), is_shared })
    }

    /// Where an instance is listed.
    pub fn host_of(&self, instance: &str) -> Option<IpAddr> {
        let mut nodes = self.entries.values().filter_map(|listed| listed.node.as_ref());
        nodes.find(|node| instance_of(node) == Some(instance)).map(|node| node.host)
    }

    /// The position of an instance among all entries, in order of registration, from 0 to 1; `None`
    /// when it is not listed.
    pub fn rank(&self, instance: &str) -> Option<f64> {
        let is_it = |listed: &Listed| listed.node.as_ref().and_then(|node| instance_of(node)) == Some(instance);
        let position = self.entries.values().position(is_it)?;
        #[expect(clippy::cast_precision_loss, reason = "no list has 2^52 entries")]
        Some(position as f64 / self.entries.len() as f64)
    }
}

/// Makes the node of an entry from a Distributor at `registry_host`.
fn parse_node(text: &str, registry_host: Option<IpAddr>) -> Option<Arc<Node>> {
    let mut node = Node::from_entry(text)?;
    if let Some(registry_host) = registry_host.filter(|_| is_this_machine(node.host)) {
        node.host = registry_host;
    }
    Some(Arc::new(node))
}

/// Whether an address means the machine that uses it. The unspecified address does too.
fn is_this_machine(host: IpAddr) -> bool {
    host.is_loopback() || host.is_unspecified()
}

fn address_of(node: &Node) -> SocketAddr {
    SocketAddr::new(node.host, node.port)
}

#[cfg(test)]
mod tests;
