//! The invariants: those of every moment, and that of the end.

use super::*;

impl World {
    /// Whether each node that runs is connected, and knows exactly the nodes that run, or those of
    /// them that it uses.
    pub(super) fn all_know_the_truth(&self) -> bool {
        self.nodes.iter().all(|node| self.mistake_of(node).is_none())
    }

    /// What is wrong with what a node knows.
    fn mistake_of(&self, node: &SimNode) -> Option<&'static str> {
        let Some(distributor) = &self.distributor else { return Some("there is no Distributor") };
        // A lying node is not sent the list that it claims to have, so it may know less.
        if !node.is_up || node.lies && node.connection.is_some() {
            return None;
        }
        let up = self.nodes.iter().filter(|node| node.is_up);
        let uses = node.asking.as_ref().filter(|asking| asking.is_partial);
        let expected = up.filter(|other| uses.is_none_or(|uses| uses.includes(&other.urls)));
        let expected: BTreeSet<u16> = expected.map(|other| other.port).collect();
        let listed: BTreeMap<_, _> = distributor.registry.entries().map(|record| (record.id, record)).collect();
        let is_right = |(id, text): (u64, &str)| listed.get(&id).is_some_and(|record| &*record.entry == text);
        let is_suspect = |id: &u64| listed.get(id).is_some_and(|record| record.is_suspect);
        let nodes = node.replica.nodes();
        // The entries of a list of version 1 have no ids. A node of version 2 has such a list if it
        // was greeted before its registration came, until the next change.
        let has_ids = node.replica.revision().is_some();
        [
            (node.connection.is_none(), "it is not connected"),
            (node.replica.is_warming(), "it waits for the rest of a list"),
            (node.asking.as_ref().is_some_and(|asking| !asking.is_answered()), "it waits for an answer"),
            (node.ports() != expected, "it knows other nodes than it should"),
            (has_ids && !node.replica.entries().all(is_right), "an entry is not what is listed"),
            (
                has_ids && nodes.iter().any(|known| known.node.suspect != known.ids.iter().any(is_suspect)),
                "it takes a node for suspect that is not, or does not that is",
            ),
        ]
        .into_iter()
        .find_map(|(is_wrong, what)| is_wrong.then_some(what))
    }

    /// The state of all nodes, for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let (name, up, connected) = (&node.name, node.is_up, node.connection.is_some());
                let uses = node.asking.as_ref().filter(|asking| asking.is_partial).map(|asking| &asking.uses);
                let (version, urls, ports) = (node.version, &node.urls, node.ports());
                let mistake = self.mistake_of(node).unwrap_or("right");
                format!(
                    "{name} {version:?} up {up} connected {connected} offers {urls:?} uses {uses:?} knows {ports:?}: \
                     {mistake}"
                )
            })
            .collect();
        nodes.join("; ")
    }

    /// Checks the invariants of every moment.
    pub(super) fn check(&mut self) {
        let Some(distributor) = &mut self.distributor else { return };
        let revision = Some(distributor.registry.revision());
        if std::mem::replace(&mut distributor.checked, revision) != revision {
            let entries: Vec<_> = distributor.registry.entries().collect();
            let instances: BTreeSet<_> = entries.iter().filter_map(|record| record.instance.as_deref()).collect();
            let named = entries.iter().filter(|record| record.instance.is_some()).count();
            assert_eq!(instances.len(), named, "S1: an instance is listed once");
            let known = |name: &str| self.nodes.iter().any(|node| node.name == name);
            let mut confirmed = entries.iter().filter(|record| record.is_confirmed);
            assert!(confirmed.all(|record| known(&record.name)), "S5: a node that has not registered is not listed");
        }
        for connection in self.connections.values() {
            assert!(connection.down.bytes.len() <= PIPE_BYTES, "S4: nothing is queued beyond the buffer of the socket");
        }
    }
}
