//! What a part of a stream has as a server-sent event, beside its data.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Packet;
use crate::json::{Text, put_number, put_text, read_member};

/// The fields of a server-sent event beside its data (HTML, 9.2): `e` in the `$` of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFields<'a> {
    /// `id`: what a client that connects again says in `Last-Event-ID`.
    pub id: Option<Cow<'a, str>>,
    /// `event`: the name of the event, by which a browser tells listeners apart.
    pub event: Option<Cow<'a, str>>,
    /// `retry`, in milliseconds: how long a client waits before it connects again.
    pub retry: Option<Duration>,
}

impl<'a> EventFields<'a> {
    /// Reads them from the packet of a part; `None` if it has none. A member of a wrong type counts
    /// as absent.
    pub fn from_packet(packet: &Packet<'a>) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawMeta<'a> {
            #[serde(borrow, default)]
            e: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct RawFields<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            event: Option<&'a RawValue>,
            #[serde(borrow, default)]
            retry: Option<&'a RawValue>,
        }
        let meta: RawMeta<'a> = serde_json::from_str(packet.meta?.get()).ok()?;
        let RawFields { id, event, retry } = serde_json::from_str(meta.e?.get()).ok()?;
        let text = |member| read_member(member).map(|Text(text)| text);
        Some(Self { id: text(id), event: text(event), retry: read_member(retry).map(Duration::from_millis) })
    }

    /// A copy that borrows nothing.
    pub fn into_static(self) -> EventFields<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        EventFields { id: self.id.map(owned), event: self.event.map(owned), retry: self.retry }
    }

    /// Appends them as the member `e`, with the comma before it; nothing if there are none.
    pub(super) fn put_member(&self, out: &mut BytesMut) {
        let mut before = &br#","e":{"#[..];
        for (name, text) in [(&br#""id":"#[..], &self.id), (br#""event":"#, &self.event)] {
            if let Some(text) = text {
                out.put_slice(before);
                out.put_slice(name);
                put_text(out, text);
                before = b",";
            }
        }
        if let Some(retry) = self.retry {
            out.put_slice(before);
            out.put_slice(br#""retry":"#);
            put_number(out, u64::try_from(retry.as_millis()).unwrap_or(u64::MAX));
            before = b",";
        }
        if before == b"," {
            out.put_u8(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PartWriter, Side};

    #[test]
    fn fields_of_events_read_back() {
        let check = |fields: EventFields<'_>, expected: &str| {
            let mut out = BytesMut::new();
            let writer = PartWriter::begin_event(&mut out, Side::Callee, 7, 1, &fields);
            out.put_u8(b'1');
            let bytes = writer.end(&mut out);
            assert_eq!(std::str::from_utf8(&out[..bytes]), Ok(expected));
            let read = EventFields::from_packet(&Packet::parse(&out[..bytes]).unwrap());
            assert_eq!(read, (fields != EventFields::default()).then_some(fields));
        };
        let text = |text: &'static str| Some(Cow::Borrowed(text));
        check(EventFields::default(), r#"{"key":7,"$":{"n":1},"params":1}"#);
        check(
            EventFields { id: text("a\n¶"), ..Default::default() },
            r#"{"key":7,"$":{"n":1,"e":{"id":"a\n\u00b6"}},"params":1}"#,
        );
        check(
            EventFields { id: text("1"), event: text("added"), retry: Some(Duration::from_secs(3)) },
            r#"{"key":7,"$":{"n":1,"e":{"id":"1","event":"added","retry":3000}},"params":1}"#,
        );
    }

    #[test]
    fn members_of_wrong_types_count_as_absent() {
        let read = |e: &str| {
            let packet = format!(r#"{{"key":7,"$":{{"n":1,"e":{e}}},"params":1}}"#);
            EventFields::from_packet(&Packet::parse(packet.as_bytes()).unwrap()).map(EventFields::into_static)
        };
        assert_eq!(read(r#"{"id":7,"event":[],"retry":"3"}"#), Some(EventFields::default()));
        assert_eq!((read("7"), read("null")), (None, None));
    }
}
