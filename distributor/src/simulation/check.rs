//! The invariants: those of every moment, and that of the end.

use super::*;

impl World {
    /// Whether each node that runs is connected, and knows exactly the nodes that run.
    pub(super) fn all_know_the_truth(&self) -> bool {
        let up: BTreeSet<u16> = self.nodes.iter().filter(|node| node.is_up).map(|node| node.port).collect();
        self.nodes
            .iter()
            .filter(|node| node.is_up)
            // A lying node is not sent the list that it claims to have, so it may know less.
            .all(|node| node.connection.is_some() && (node.lies || node.ports() == up && !node.replica.is_warming()))
    }

    /// The state of all nodes, for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let (name, up, connected) = (&node.name, node.is_up, node.connection.is_some());
                format!("{name} {:?} up {up} connected {connected} knows {:?}", node.version, node.ports())
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
