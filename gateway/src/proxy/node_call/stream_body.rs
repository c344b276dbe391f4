//! A node's stream as the body of a response: a line or an event for each part. Pure.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use node_sdk::gateway::EventFields;

use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::response_head::ResponseHead;
use crate::proxy::forward::Silence;

/// How long a client that reads events is sent nothing before it is sent a comment. Proxies on the
/// way drop connections that are silent for half a minute or more, and a client that is gone is
/// noticed only when it is sent something (HTML, 9.2.7 names 15 s).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// A comment, which clients ignore.
const HEARTBEAT: &[u8] = b":\n\n";

/// How parts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFormat {
    /// A line of JSON for each.
    Lines,
    /// Server-sent events (HTML, 9.2), as browsers read them with `EventSource`.
    Events,
}

impl StreamFormat {
    /// The form in which a client accepts a stream by `Accept`, if any; the first one that it names
    /// counts.
    pub(crate) fn accepted(fields: &Fields) -> Option<Self> {
        let accepts = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
        accepts.flat_map(|(_, value)| tokens(value)).find_map(|range| {
            let mut words = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let media_type = words.next().unwrap_or_default();
            let is_refused = words.any(|word| matches!(word, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"));
            [Self::Lines, Self::Events]
                .into_iter()
                .find(|form| media_type.eq_ignore_ascii_case(form.media_type().as_bytes()) && !is_refused)
        })
    }

    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    /// The head of a response whose parts follow.
    pub(crate) fn head(self) -> ResponseHead {
        ResponseHead {
            status: http::StatusCode::OK,
            fields: Fields::from_pairs(&[("content-type", self.media_type()), ("cache-control", "no-cache")]),
            framing: Framing::Chunked,
            keep_alive: true,
            keep_for: None,
        }
    }

    /// What follows when the node sends nothing for a while. Lines of JSON have no comments.
    pub(crate) fn silence(self) -> Silence {
        match self {
            Self::Lines => Silence::Allowed,
            Self::Events => Silence::Heartbeat(HEARTBEAT_INTERVAL, HEARTBEAT),
        }
    }

    /// Writes one part, which is JSON: a line break can only stand between its tokens. Lines have
    /// no room for the fields of an event.
    pub(crate) fn write(self, part: &str, fields: Option<&EventFields<'_>>) -> Bytes {
        let mut out = BytesMut::with_capacity(part.len() + 8);
        if self == Self::Events {
            fields.into_iter().for_each(|fields| put_fields(&mut out, fields));
            out.put_slice(b"data: ");
        }
        part.split(['\r', '\n']).for_each(|line| out.put_slice(line.as_bytes()));
        out.put_slice(match self {
            Self::Lines => b"\n",
            Self::Events => b"\n\n",
        });
        out.freeze()
    }
}

/// Whether a field would break its event, so that it is left out.
pub(super) fn has_broken_field(EventFields { id, event, .. }: &EventFields<'_>) -> bool {
    [id, event].into_iter().flatten().any(|value| is_broken(value))
}

fn is_broken(value: &str) -> bool {
    value.contains(['\r', '\n', '\0'])
}

/// Writes the fields of an event. One that would break the event is left out.
fn put_fields(out: &mut BytesMut, EventFields { id, event, retry }: &EventFields<'_>) {
    let retry = retry.map(|retry| Cow::Owned(retry.as_millis().to_string()));
    for (name, value) in [("id", id), ("event", event), ("retry", &retry)] {
        if let Some(value) = value.as_ref().filter(|value| !is_broken(value)) {
            [name, ": ", value, "\n"].iter().for_each(|part| out.put_slice(part.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_sent_to_clients_that_accept_them() {
        let check = |accept: &str, expected: Option<StreamFormat>| {
            assert_eq!(StreamFormat::accepted(&Fields::from_pairs(&[("Accept", accept)])), expected, "{accept}");
        };
        check("text/event-stream", Some(StreamFormat::Events));
        check("application/x-ndjson", Some(StreamFormat::Lines));
        check("application/json, Text/Event-Stream;q=0.5, */*", Some(StreamFormat::Events));
        check("application/x-ndjson; q=0, text/event-stream", Some(StreamFormat::Events));
        check("application/json", None);
        check("*/*", None);
        assert_eq!(StreamFormat::accepted(&Fields::from_pairs(&[])), None);
    }

    #[test]
    fn a_part_is_one_line() {
        let check = |form: StreamFormat, part: &str, expected: &str| assert_eq!(form.write(part, None), expected);
        check(StreamFormat::Lines, r#"{"a":"\n"}"#, "{\"a\":\"\\n\"}\n");
        check(StreamFormat::Lines, "{\r\n \"a\": 1\n}", "{ \"a\": 1}\n");
        check(StreamFormat::Events, "[1,\n2]", "data: [1,2]\n\n");
    }

    #[test]
    fn an_event_has_fields_that_cannot_break_it() {
        let check = |id: &'static str, event: &'static str, retry: Option<u64>, expected: &str| {
            let text = |text: &'static str| (!text.is_empty()).then_some(Cow::Borrowed(text));
            let fields = EventFields { id: text(id), event: text(event), retry: retry.map(Duration::from_millis) };
            assert_eq!(StreamFormat::Events.write("1", Some(&fields)), expected);
            assert_eq!(has_broken_field(&fields), id.contains(['\n', '\0']));
            assert_eq!(StreamFormat::Lines.write("1", Some(&fields)), "1\n");
        };
        check("", "", None, "data: 1\n\n");
        check("7", "added", Some(1500), "id: 7\nevent: added\nretry: 1500\ndata: 1\n\n");
        check("7\ndata: 2", "a\rb", None, "data: 1\n\n");
        check("7\0", " 상", None, "event:  상\ndata: 1\n\n");
    }
}
