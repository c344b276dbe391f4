//! The history of nodes, for operators who ask why.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use protocol::HistoryEvent;

use crate::entries::{Record, SessionId};
use crate::registry::Registry;
use crate::registry::admission::deferred::Deferred;
use crate::registry::admission::instance_of;
use crate::updates::encode::left_out;

/// Events that are remembered, of a few hundred bytes each.
pub(crate) const MAX_EVENTS: usize = 4096;
/// Maximum number of events of one response: the last ones.
pub(crate) const MAX_EVENTS_SENT: usize = 200;
/// Maximum bytes of a node's name, and of an instance, that are kept. Names of version 2 nodes are
/// not longer; names of version 1 nodes may be as long as a packet.
const MAX_TEXT_BYTES: usize = 128;
/// Maximum bytes of all events. Only nodes with the longest names and instances reach it before the
/// limit of events.
pub(crate) const MAX_BYTES: usize = MAX_EVENTS * 512;
/// The reason of an entry that an earlier Distributor listed.
pub(super) const BEFORE_RESTART: &str = "it was here before the restart";

/// The last events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<StoredEvent>,
    /// Bytes that the events take.
    bytes: usize,
}

#[derive(Debug)]
struct StoredEvent {
    at: Instant,
    rev: u64,
    name: Box<str>,
    instance: Option<Box<str>>,
    address: Box<str>,
    event: &'static str,
    why: String,
}

impl History {
    /// Records an event of a node.
    pub(crate) fn record(
        &mut self,
        at: Instant,
        rev: u64,
        record: &Record,
        event: &'static str,
        why: impl Into<String>,
    ) {
        let name = shortened(&record.name).into();
        let instance = record.instance.as_deref().map(|instance| shortened(instance).into());
        let (address, why) = (record.address().into(), why.into());
        let entry = StoredEvent { at, rev, name, instance, address, event, why };
        self.bytes += entry.bytes();
        self.events.push_back(entry);
        while (self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES)
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// Adds an event for each listed node that has no remembered event, and for each that peers of
    /// version 1 are not told of.
    pub(crate) fn add_listed<'r>(
        events: &mut Vec<HistoryEvent>,
        rev: u64,
        node: &str,
        listed: impl Iterator<Item = &'r Record>,
        left_out: &BTreeSet<u64>,
    ) {
        for record in listed {
            let is_named = is_called(node, &record.name, record.instance.as_deref(), "");
            // The text of the address is built only if the port fits.
            if !is_named && !node.ends_with(&format!(":{}", record.port)) {
                continue;
            }
            let (name, address) = (shortened(&record.name), record.address());
            if !is_named && node != address {
                continue;
            }
            if left_out.contains(&record.id) && events.len() < MAX_EVENTS_SENT {
                let (name, address, event) = (name.to_owned(), address.clone(), "left out".to_owned());
                let why = "peers of version 1 are not told of it: their list has no room (--oversized-list)".to_owned();
                events.push(HistoryEvent { ago: 0, rev, name, address, event, why });
                continue;
            }
            if events.len() >= MAX_EVENTS_SENT
                || events.iter().any(|event| event.name == name && event.address == address)
            {
                continue;
            }
            let why = match record.is_confirmed {
                true => "it joined too long ago for this history".to_owned(),
                false => format!("{BEFORE_RESTART}, and is not back yet"),
            };
            events.push(HistoryEvent { ago: 0, rev, name: name.to_owned(), address, event: "listed".to_owned(), why });
        }
    }

    /// Adds an event for each node that waits to be listed, with the time that is left.
    pub(super) fn add_deferred<'d>(
        events: &mut Vec<HistoryEvent>,
        now: Instant,
        rev: u64,
        node: &str,
        deferred: impl Iterator<Item = &'d Deferred>,
    ) {
        for one in deferred {
            let Deferred { registration, host, .. } = one;
            let (name, instance) = (registration.name.as_str(), instance_of(registration));
            // The text of the address is built only if the port fits, because many nodes may wait.
            let may_be_there = || node.ends_with(&format!(":{}", registration.port));
            if !(node.is_empty() || is_called(node, name, instance, "") || may_be_there()) {
                continue;
            }
            let (name, address) = (shortened(name), Record::new(0, registration, host).address());
            if events.len() >= MAX_EVENTS_SENT || !(node.is_empty() || is_called(node, name, instance, &address)) {
                continue;
            }
            let why = format!("listed in {:.1} s, if it stays", one.until.saturating_duration_since(now).as_secs_f32());
            events.push(HistoryEvent { ago: 0, rev, name: name.to_owned(), address, event: "waits".to_owned(), why });
        }
    }

    /// How many events are kept.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last events of nodes with this name, address (`host:port`) or instance; of all nodes
    /// when it is empty.
    pub(crate) fn events_of(&self, now: Instant, node: &str) -> Vec<HistoryEvent> {
        let found = self.events.iter().rev().filter(|entry| entry.concerns(node)).take(MAX_EVENTS_SENT);
        let mut events: Vec<_> = found
            .map(|StoredEvent { at, rev, name, address, event, why, .. }| HistoryEvent {
                ago: u64::try_from(now.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX),
                rev: *rev,
                name: name.to_string(),
                address: address.to_string(),
                event: (*event).to_owned(),
                why: why.clone(),
            })
            .collect();
        events.reverse();
        events
    }
}

impl Registry {
    /// Records that a node listens on loopback only, for operators who ask why it is not called.
    pub(crate) fn record_loopback(&mut self, now: Instant, session: SessionId) {
        if let Some(record) = self.entries.record_of(session) {
            let why = "it listens only on the loopback of its own machine: nodes on other machines cannot call it";
            self.history.record(now, self.entries.revision().rev, record, "unreachable", why);
        }
    }

    /// Records that all peers ignore a part of a node's registration.
    pub(crate) fn record_ignored(&mut self, now: Instant, session: SessionId, why: String) {
        if let Some(record) = self.entries.record_of(session) {
            self.history.record(now, self.entries.revision().rev, record, "ignored", why);
        }
    }

    /// The events of a node, or of all nodes if `node` is empty. Each listed node has at least one,
    /// whatever is remembered of it.
    pub(crate) fn history(&self, now: Instant, node: &str) -> Vec<HistoryEvent> {
        let mut events = self.history.events_of(now, node);
        let listed = self.entries.records().map(|record| &**record);
        History::add_listed(&mut events, self.revision().rev, node, listed, &left_out(&self.entries, &self.config));
        let deferred = self.deferred.iter().map(|(_, deferred)| deferred);
        History::add_deferred(&mut events, now, self.revision().rev, node, deferred);
        events
    }
}

impl StoredEvent {
    fn concerns(&self, node: &str) -> bool {
        node.is_empty() || is_called(node, &self.name, self.instance.as_deref(), &self.address)
    }

    fn bytes(&self) -> usize {
        let instance = self.instance.as_ref().map_or(0, |instance| instance.len());
        size_of::<Self>() + self.name.len() + instance + self.address.len() + self.why.len()
    }
}

/// Whether `node` is the name, the instance or the address of a node.
fn is_called(node: &str, name: &str, instance: Option<&str>, address: &str) -> bool {
    let text = shortened(node);
    shortened(name) == text || instance.map(shortened) == Some(text) || address == node
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use protocol::{Registration, RegistrationLimits};

    use super::*;

    fn record(name: &str, port: u16) -> Arc<Record> {
        let params = format!(r#"{{"port":{port},"name":"{name}","$":{{"id":"i{port}"}}}}"#);
        let params = serde_json::from_str(&params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        Arc::new(Record::new(1, &registration, "::ffff:10.0.0.1"))
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn events_are_found_by_name_address_and_instance() {
        let (mut history, start) = (History::default(), Instant::now());
        let now = start + Duration::from_millis(500);
        history.record(start, 1, &record("goods", 1), "joined", "");
        history.record(start, 2, &record("goods", 2), "joined", "");
        history.record(now, 3, &record("goods", 1), "left", "reset");
        for (node, revs) in [
            ("goods", vec![1, 2, 3]),
            ("", vec![1, 2, 3]),
            ("10.0.0.1:1", vec![1, 3]),
            ("i2", vec![2]),
            ("other", vec![]),
        ] {
            assert_eq!(history.events_of(now, node).iter().map(|event| event.rev).collect::<Vec<_>>(), revs, "{node}");
        }
        assert_eq!(history.events_of(now, "i2")[0].ago, 500);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn long_names_are_kept_in_part() {
        let (mut history, now) = (History::default(), Instant::now());
        let name = "상".repeat(20_000);
        let params = format!(r#"{{"port":1,"name":"{name}"}}"#);
        let old = serde_json::from_str(&params).unwrap();
        let old = Registration::parse(Some(old), &RegistrationLimits::default()).unwrap();
        history.record(now, 1, &Record::new(1, &old, "::1"), "joined", "");
        assert_eq!(history.events[0].name.len(), 126);
        assert_eq!(history.events_of(now, &name).len(), 1, "it is found by its full name");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn the_oldest_events_are_forgotten() {
        let (mut history, now) = (History::default(), Instant::now());
        for rev in 0..=MAX_EVENTS {
            history.record(now, rev as u64, &record("goods", 1), "joined", "");
        }
        assert_eq!((history.events.len(), history.events[0].rev), (MAX_EVENTS, 1));
        let sent = history.events_of(now, "goods");
        assert_eq!((sent.len(), sent[MAX_EVENTS_SENT - 1].rev), (MAX_EVENTS_SENT, MAX_EVENTS as u64));
    }
}
