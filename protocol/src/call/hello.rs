//! The first packet on a connection between nodes: who calls, and whom. And its answer: who
//! listens.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::Text;
use crate::json::{put_text, read_member};
use crate::{Packet, seal};

/// The uri of [`write_hello`].
pub const HELLO_URI: &str = "$hello";
/// The word by which a node refuses a call that is meant for another instance, and its status
/// (RFC 9110, 15.5.20). Nothing was done.
pub const WRONG_INSTANCE: &str = "wrong_instance";
/// See [`WRONG_INSTANCE`].
pub const WRONG_INSTANCE_STATUS: u16 = 421;

/// The value in place of the instance that a caller looks for, if any may answer. It says which it
/// is.
pub const ANY_INSTANCE: &str = "*";

/// The hellos by which the two ends of a connection identify themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// `f`: the instance that says it.
    pub from: Option<Cow<'a, str>>,
    /// `n`: the name of the node that calls.
    pub name: Option<Cow<'a, str>>,
    /// `to`: the instance that the caller looks for. A node that is another one begins no call of
    /// the connection. It answers with its own hello in either case.
    pub to: Option<Cow<'a, str>>,
}

impl<'a> Hello<'a> {
    /// Reads it from its packet. A member that is missing or of a wrong type counts as absent.
    pub fn from_packet(packet: &Packet<'a>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RawHello<'a> {
            #[serde(borrow)]
            f: Option<&'a RawValue>,
            #[serde(borrow)]
            n: Option<&'a RawValue>,
            #[serde(borrow)]
            to: Option<&'a RawValue>,
        }
        let raw: RawHello<'a> = packet.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let text = |member: Option<&'a RawValue>| read_member(member).map(|Text(text)| text);
        Self { from: text(raw.f), name: text(raw.n), to: text(raw.to) }
    }
}

/// Writes a hello, ready to send before all calls, or as the answer to one that has `to`.
pub fn write_hello(out: &mut BytesMut, hello: &Hello<'_>) {
    let Hello { from, name, to } = hello;
    let start = out.len();
    out.put_slice(br#"{"uri":"$hello","$":{"#);
    let members = [("\"f\":", from), ("\"n\":", name), ("\"to\":", to)];
    let said = members.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    for (at, (name, text)) in said.enumerate() {
        out.put_slice(if at > 0 { b"," } else { b"" });
        out.put_slice(name.as_bytes());
        put_text(out, text);
    }
    out.put_slice(b"}}");
    seal(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(packet: &str, [from, name, to]: [Option<&str>; 3]) {
        let hello = Packet::parse(packet.as_bytes()).unwrap();
        let hello = Hello::from_packet(&hello);
        assert_eq!(
            [hello.from, hello.name, hello.to].map(|text| text.map(Cow::into_owned)),
            [from, name, to].map(|text| text.map(str::to_owned)),
            "{packet}"
        );
    }

    #[test]
    fn both_ends_say_who_they_are() {
        for all in
            [[Some("a"), None, None], [Some("a"), Some("n"), Some("b")], [Some("\"¶\""), None, Some("굶")], [None; 3]]
        {
            let [from, name, to] = all.map(|text| text.map(Cow::Borrowed));
            let mut out = BytesMut::new();
            write_hello(&mut out, &Hello { from, name, to });
            let packet = std::str::from_utf8(&out).unwrap().strip_suffix('¶').unwrap();
            check(packet, all);
        }
        check(r#"{"uri":"$hello"}"#, [None; 3]);
        check(r#"{"uri":"$hello","$":{"to":"b","later":[1]}}"#, [None, None, Some("b")]);
        check(r#"{"uri":"$hello","$":{"f":7,"n":"n"}}"#, [None, Some("n"), None]);
    }
}
