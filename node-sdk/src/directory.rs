//! Which nodes there are, as far as this process knows, without I/O.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::{Node, NodeList};

/// How long a node that a new Distributor does not list yet is kept: two periods in which nodes reconnect, and 5 s.
pub(crate) const HOLD: Duration = Duration::from_secs(11);

/// The nodes known, by where they listen. Connections that registered the same place are one node.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    nodes: BTreeMap<SocketAddr, Known>,
    /// The connection to the Distributor is new, and has brought no list yet.
    awaiting_list: bool,
}

#[derive(Debug)]
struct Known {
    node: Node,
    /// `Some`: no list of this connection to the Distributor has shown it yet; if none does, it goes at this time.
    goes_at: Option<Instant>,
}

impl Directory {
    /// The connection to the Distributor is new. Its first lists may be almost empty, because it may have just started.
    /// Until there is one nobody goes: whoever accepts connections need not be a Distributor that works.
    pub(crate) fn reconnected(&mut self) {
        self.awaiting_list = true;
    }

    /// The connection to the Distributor is lost: nobody can tell who left, so nobody goes.
    pub(crate) fn disconnected(&mut self) {
        self.awaiting_list = false;
        for known in self.nodes.values_mut() {
            known.goes_at = None;
        }
    }

    /// Takes in a list. Returns whether anything changed.
    pub(crate) fn apply(&mut self, now: Instant, list: NodeList) -> bool {
        let mut listed: BTreeMap<SocketAddr, Node> = BTreeMap::new();
        for node in list.nodes {
            match listed.entry(SocketAddr::new(node.host, node.port)) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(node)),
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    // Forked workers register one place several times: it offers what any of them says.
                    let first = entry.get_mut();
                    let more: Vec<_> = node.routes.into_iter().filter(|route| !first.routes.contains(route)).collect();
                    first.routes.extend(more);
                }
            }
        }
        if std::mem::take(&mut self.awaiting_list) {
            for known in self.nodes.values_mut() {
                known.goes_at = Some(now + HOLD);
            }
        }
        let before = self.nodes.len();
        self.nodes.retain(|address, known| listed.contains_key(address) || known.goes_at.is_some_and(|at| now < at));
        let mut changed = self.nodes.len() != before;
        for (address, node) in listed {
            let known = Known { node, goes_at: None };
            match self.nodes.insert(address, known) {
                Some(before) => changed |= before.node != self.nodes[&address].node,
                None => changed = true,
            }
        }
        changed
    }

    /// A connection to this node failed. If no list shows it either, it is gone. Returns whether anything changed.
    pub(crate) fn unreachable(&mut self, address: SocketAddr) -> bool {
        let held = self.nodes.get(&address).is_some_and(|known| known.goes_at.is_some());
        held && self.nodes.remove(&address).is_some()
    }

    /// Removes nodes whose time has come. Returns whether there were any.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|_, known| known.goes_at.is_none_or(|at| now < at));
        self.nodes.len() != before
    }

    /// When the next node goes unless a list shows it.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|known| known.goes_at).min()
    }

    /// All nodes, by address.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (SocketAddr, &Node)> {
        self.nodes.iter().map(|(address, known)| (*address, &known.node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Observer {
        directory: Directory,
        start: Instant,
    }

    impl Observer {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
        fn new() -> Self {
            Self { directory: Directory::default(), start: Instant::now() }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// Ports and urls known after a list of ports.
        #[track_caller]
        fn check(&mut self, second: u64, ports: &[u16], changed: bool, expected: &[u16]) {
            let entries: Vec<_> = ports
                .iter()
                .map(|port| format!(r#"{{"port":{port},"name":"n","urls":[],"host":"::ffff:127.0.0.1"}}"#))
                .collect();
            let list = format!("[{}]", entries.join(","));
            let list = NodeList::parse(serde_json::from_str(&list).unwrap()).unwrap();
            let now = self.at(second);
            assert_eq!((self.directory.apply(now, list), self.ports()), (changed, expected.to_vec()));
        }

        fn ports(&self) -> Vec<u16> {
            self.directory.nodes().map(|(address, _)| address.port()).collect()
        }
    }

    #[test]
    fn a_list_is_the_truth() {
        let mut observer = Observer::new();
        observer.check(0, &[1, 2], true, &[1, 2]);
        observer.check(0, &[2, 1], false, &[1, 2]);
        observer.check(0, &[2, 3], true, &[2, 3]);
        observer.check(0, &[], true, &[]);
    }

    #[test]
    fn rs4_a_restarted_distributor_does_not_empty_the_directory() {
        let mut observer = Observer::new();
        observer.check(0, &[1, 2, 3], true, &[1, 2, 3]);
        observer.directory.reconnected();
        assert!(!observer.directory.expire(observer.at(99)), "nobody goes before the first list");
        observer.check(100, &[], false, &[1, 2, 3]);
        observer.check(101, &[4], true, &[1, 2, 3, 4]);
        observer.check(102, &[1, 4], false, &[1, 2, 3, 4]);
        observer.check(103, &[4], true, &[2, 3, 4]);
        assert!(observer.directory.unreachable("127.0.0.1:3".parse().unwrap()), "not listed and not reachable");
        assert!(!observer.directory.unreachable("127.0.0.1:4".parse().unwrap()), "a list shows it");
        assert_eq!(observer.directory.next_expiry(), Some(observer.at(111)));
        assert!(!observer.directory.expire(observer.at(110)));
        assert!(observer.directory.expire(observer.at(111)));
        assert_eq!(observer.ports(), [4]);
        observer.check(112, &[], true, &[]);
    }

    #[test]
    fn rs4_nobody_goes_while_there_is_no_distributor() {
        let mut observer = Observer::new();
        observer.check(0, &[1, 2], true, &[1, 2]);
        observer.directory.reconnected();
        observer.check(100, &[], false, &[1, 2]);
        observer.directory.disconnected();
        assert!(!observer.directory.expire(observer.at(4000)));
        observer.directory.reconnected();
        observer.check(4001, &[2], false, &[1, 2]);
        observer.check(4012, &[2], true, &[2]);
    }

    #[test]
    fn one_place_registered_twice_is_one_node() {
        let mut observer = Observer::new();
        let list = r#"[{"port":1,"name":"a","urls":["GET/a","GET/b"],"host":"127.0.0.1"},
                       {"port":1,"name":"a","urls":["GET/b","GET/c"],"host":"::ffff:127.0.0.1"}]"#;
        observer.directory.apply(observer.start, NodeList::parse(serde_json::from_str(list).unwrap()).unwrap());
        let urls: Vec<_> = observer.directory.nodes().flat_map(|(_, node)| &node.routes).map(|r| r.as_str()).collect();
        assert_eq!(urls, ["GET/a", "GET/b", "GET/c"]);
    }
}
