//! Who is there: the heart of the Distributor, without I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::Registration;

/// A connection for as long as it lives. Never used twice, unlike an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// The registered nodes in order of registration, one per session.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    records: BTreeMap<Place, Record>,
    places: HashMap<SessionId, Place>,
    /// Which session an instance of version 2 is registered by.
    instances: HashMap<String, SessionId>,
    next_place: u64,
    rev: u64,
    /// Bytes of all entries together.
    entry_bytes: usize,
}

/// Position in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

/// A registered node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    instance: Option<String>,
    /// Its entry in lists: JSON text in which `¶` is escaped, so its length is what goes over the wire.
    entry: String,
}

/// What a registration changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// The session had not registered before.
    pub(crate) is_new: bool,
    /// The session that had registered the same instance, and is out now.
    pub(crate) superseded: Option<SessionId>,
}

impl Registry {
    /// Counts changes: higher means newer, equal means the same list.
    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }

    /// How many nodes are registered.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Registers a session at the end, or replaces its registration in place. `host` is the remote end of its connection.
    /// Another session that has registered the same instance loses its registration: it is a connection that the instance
    /// has given up and that has not ended yet.
    pub(crate) fn register(&mut self, session: SessionId, registration: &Registration, host: &str) -> Registered {
        self.forget_instance(session);
        let instance = registration.advert.as_ref().and_then(|advert| advert.id.clone());
        let superseded = instance.as_ref().and_then(|id| self.instances.insert(id.clone(), session));
        if let Some(superseded) = superseded {
            self.remove(superseded);
        }
        self.rev += 1;
        let entry = registration.entry(host).replace('¶', "\\u00b6");
        let record = Record { name: registration.name.clone(), instance, entry };
        let next_place = Place(self.next_place);
        let place = *self.places.entry(session).or_insert(next_place);
        if place == next_place {
            self.next_place += 1;
        }
        self.entry_bytes += record.entry.len();
        let before = self.records.insert(place, record);
        self.entry_bytes -= before.as_ref().map_or(0, |record| record.entry.len());
        Registered { is_new: before.is_none(), superseded }
    }

    /// Removes what a session registered. A session that never registered, or has left already, changes nothing.
    pub(crate) fn leave(&mut self, session: SessionId) -> Option<Record> {
        self.forget_instance(session);
        let record = self.remove(session)?;
        self.rev += 1;
        Some(record)
    }

    fn remove(&mut self, session: SessionId) -> Option<Record> {
        let record = self.records.remove(&self.places.remove(&session)?)?;
        self.entry_bytes -= record.entry.len();
        Some(record)
    }

    fn forget_instance(&mut self, session: SessionId) {
        let record = self.places.get(&session).and_then(|place| self.records.get(place));
        if let Some(instance) = record.and_then(|record| record.instance.as_ref()) {
            self.instances.remove(instance);
        }
    }

    /// Bytes of all entries with a comma between them.
    pub(crate) fn list_bytes(&self) -> usize {
        self.entry_bytes + self.records.len().saturating_sub(1)
    }

    /// All entries in order of registration.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &str> {
        self.records.values().map(|record| record.entry.as_str())
    }

    /// The entries that fit into `max_bytes` with a comma between them, in order of registration: the first node of each
    /// name before the second of any, so that every service is known for as long as possible.
    pub(crate) fn entries_within(&self, max_bytes: usize) -> Vec<&str> {
        let mut left = max_bytes;
        let mut take = |record: &Record| {
            let fits = record.entry.len() < left;
            if fits {
                left -= record.entry.len() + 1;
            }
            fits
        };
        let mut names = HashSet::new();
        let first_of_name: Vec<_> = self.records.values().map(|record| names.insert(&record.name)).collect();
        let mut taken: Vec<_> =
            self.records.values().zip(&first_of_name).map(|(record, &first)| first && take(record)).collect();
        for (record, taken) in self.records.values().zip(&mut taken) {
            *taken = *taken || take(record);
        }
        self.entries().zip(taken).filter_map(|(entry, taken)| taken.then_some(entry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use protocol::RegistrationLimits;

    use super::*;

    fn registration(name: &str) -> Registration {
        let params = format!(r#"{{"port":1,"name":"{name}","urls":[]}}"#);
        Registration::parse(Some(serde_json::from_str(&params).unwrap()), &RegistrationLimits::default()).unwrap()
    }

    fn names(registry: &Registry) -> String {
        registry.records.values().map(|record| record.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn order_is_the_order_of_registration() {
        let mut registry = Registry::default();
        for (session, name, new, expected) in [
            (7, Some("a"), true, "a"),
            (3, Some("b"), true, "a b"),
            (7, Some("c"), false, "c b"),
            (9, None, false, "c b"),
            (7, None, true, "b"),
            (7, Some("a"), true, "b a"),
        ] {
            let id = SessionId(session);
            let changed = match name {
                Some(name) => registry.register(id, &registration(name), "::1").is_new,
                None => registry.leave(id).is_some(),
            };
            assert_eq!((changed, names(&registry).as_str()), (new, expected));
        }
    }

    fn instance(id: u64) -> Registration {
        let params = format!(r#"{{"port":1,"name":"n{id}","urls":[],"$":{{"id":"{id}"}}}}"#);
        Registration::parse(Some(serde_json::from_str(&params).unwrap()), &RegistrationLimits::default()).unwrap()
    }

    #[test]
    fn rg4_the_newest_session_of_an_instance_has_it() {
        let mut registry = Registry::default();
        let mut register = |session, id| registry.register(SessionId(session), &instance(id), "::1");
        assert_eq!(register(1, 7), Registered { is_new: true, superseded: None });
        assert_eq!(register(1, 7), Registered { is_new: false, superseded: None });
        assert_eq!(register(2, 7), Registered { is_new: true, superseded: Some(SessionId(1)) });
        assert_eq!(register(2, 8), Registered { is_new: false, superseded: None });
        assert_eq!(register(3, 7), Registered { is_new: true, superseded: None });
        assert_eq!(registry.leave(SessionId(1)), None, "a late end removes nothing");
        assert_eq!(names(&registry), "n8 n7");
        registry.leave(SessionId(3));
        let registered = registry.register(SessionId(4), &instance(7), "::1");
        assert_eq!(registered, Registered { is_new: true, superseded: None });
    }

    #[test]
    fn what_fits_covers_every_name_first() {
        let mut registry = Registry::default();
        for (session, name) in ["a", "a", "b", "a", "c", "b"].into_iter().enumerate() {
            registry.register(SessionId(session as u64), &registration(name), "::1");
        }
        let one = registry.entries().next().unwrap().len() + 1;
        for (bytes, expected) in [
            (0, ""),
            (one - 1, ""),
            (one, "a"),
            (one * 2, "ab"),
            (one * 3, "abc"),
            (one * 4, "aabc"),
            (one * 6, "aabacb"),
        ] {
            let fitting: String =
                registry.entries_within(bytes).iter().map(|entry| entry.split('"').nth(5).unwrap()).collect();
            assert_eq!(fitting, expected, "{bytes}");
        }
    }

    proptest! {
        /// Whatever connects, freezes, comes back and dies late: an instance is listed once, by its newest session.
        #[test]
        fn one_session_per_instance(steps in vec((0_u64..8, proptest::option::of(0_u64..4)), 0..60)) {
            let mut registry = Registry::default();
            // Sessions with the instance they registered last, in order of place; those superseded are out.
            let mut model: Vec<(u64, u64)> = Vec::new();
            for (session, id) in steps {
                let Some(id) = id else {
                    registry.leave(SessionId(session));
                    model.retain(|(other, _)| *other != session);
                    continue;
                };
                registry.register(SessionId(session), &instance(id), "::1");
                model.retain(|(other, of)| *other == session || *of != id);
                match model.iter_mut().find(|(other, _)| *other == session) {
                    Some(known) => known.1 = id,
                    None => model.push((session, id)),
                }
                let expected: Vec<_> = model.iter().map(|(_, id)| format!("n{id}")).collect();
                prop_assert_eq!(names(&registry), expected.join(" "));
                prop_assert_eq!(registry.instances.len(), registry.len());
            }
        }

        /// The registry is a list of sessions with their last registration, in the order they first registered.
        #[test]
        fn behaves_like_a_plain_list(steps in vec((0_u64..8, proptest::option::of("[a-d]")), 0..60)) {
            let mut registry = Registry::default();
            let mut model: Vec<(u64, String)> = Vec::new();
            for (session, name) in steps {
                let rev = registry.rev();
                let known = model.iter().position(|(id, _)| *id == session);
                match (&name, known) {
                    (Some(name), Some(at)) => model[at].1.clone_from(name),
                    (Some(name), None) => model.push((session, name.clone())),
                    (None, Some(at)) => drop(model.remove(at)),
                    (None, None) => {}
                }
                match &name {
                    Some(name) => { registry.register(SessionId(session), &registration(name), "::1"); },
                    None => drop(registry.leave(SessionId(session))),
                }
                let expected: Vec<_> = model.iter().map(|(_, name)| name.as_str()).collect();
                prop_assert_eq!(names(&registry), expected.join(" "));
                prop_assert_eq!(registry.len(), model.len());
                let bytes = registry.entries().collect::<Vec<_>>().join(",").len();
                prop_assert_eq!(registry.list_bytes(), bytes);
                prop_assert_eq!(registry.rev() > rev, name.is_some() || known.is_some());
            }
        }
    }
}
