//! A node's stream as the body of a response: a line or an event for each part. Pure.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::body::Framing;
use crate::message::fields::{Fields, tokens};
use crate::message::response_head::ResponseHead;

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

    /// Writes one part, which is JSON: a line break can only stand between its tokens.
    pub(crate) fn write(self, part: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(part.len() + 8);
        if self == Self::Events {
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
        let check = |form: StreamFormat, part: &str, expected: &str| assert_eq!(form.write(part), expected);
        check(StreamFormat::Lines, r#"{"a":"\n"}"#, "{\"a\":\"\\n\"}\n");
        check(StreamFormat::Lines, "{\r\n \"a\": 1\n}", "{ \"a\": 1}\n");
        check(StreamFormat::Events, "[1,\n2]", "data: [1,2]\n\n");
    }
}
