//! What happened to nodes, for whoever asks why.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocol::Event;

use crate::registry::Record;

/// Events that are remembered; each keeps a record of some hundred bytes.
pub(crate) const MAX_EVENTS: usize = 4096;
/// Most events of one answer: the last ones.
pub(crate) const MAX_ANSWER: usize = 200;

/// The last events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    rev: u64,
    record: Arc<Record>,
    event: &'static str,
    why: String,
}

impl History {
    /// Something happened to a node.
    pub(crate) fn note(
        &mut self,
        at: Instant,
        rev: u64,
        record: &Arc<Record>,
        event: &'static str,
        why: impl Into<String>,
    ) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Entry { at, rev, record: Arc::clone(record), event, why: why.into() });
    }

    /// The last events of nodes of this name, address (`host:port`) or instance; of all when it is empty.
    pub(crate) fn of(&self, now: Instant, node: &str) -> Vec<Event> {
        let matches = |record: &Record| {
            node.is_empty()
                || &*record.name == node
                || record.instance.as_deref() == Some(node)
                || record.address() == node
        };
        let found = self.events.iter().rev().filter(|entry| matches(&entry.record)).take(MAX_ANSWER);
        let mut events: Vec<_> = found
            .map(|Entry { at, rev, record, event, why }| Event {
                ago: u64::try_from(now.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX),
                rev: *rev,
                name: record.name.to_string(),
                address: record.address(),
                event: (*event).to_owned(),
                why: why.clone(),
            })
            .collect();
        events.reverse();
        events
    }
}

#[cfg(test)]
mod tests {
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
        history.note(start, 1, &record("goods", 1), "joined", "");
        history.note(start, 2, &record("goods", 2), "joined", "");
        history.note(now, 3, &record("goods", 1), "left", "reset");
        for (node, revs) in [
            ("goods", vec![1, 2, 3]),
            ("", vec![1, 2, 3]),
            ("10.0.0.1:1", vec![1, 3]),
            ("i2", vec![2]),
            ("other", vec![]),
        ] {
            assert_eq!(history.of(now, node).iter().map(|event| event.rev).collect::<Vec<_>>(), revs, "{node}");
        }
        assert_eq!(history.of(now, "i2")[0].ago, 500);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn the_oldest_events_are_forgotten() {
        let (mut history, now) = (History::default(), Instant::now());
        for rev in 0..=MAX_EVENTS {
            history.note(now, rev as u64, &record("goods", 1), "joined", "");
        }
        assert_eq!((history.events.len(), history.events[0].rev), (MAX_EVENTS, 1));
        let answer = history.of(now, "goods");
        assert_eq!((answer.len(), answer[MAX_ANSWER - 1].rev), (MAX_ANSWER, MAX_EVENTS as u64));
    }
}
