//! Lists, deltas and refusals, as the Distributor writes them.

use std::iter::{Empty, empty};

use bytes::{BufMut, BytesMut};

use crate::registry::list::{LeaveReason, REGISTRY_URI, UpdateHeader};
use crate::{Digest, Key, Revision, seal};

/// Writes a list for version 1, ready to send. `key` is 0 unless the receiver has asked with
/// another.
pub fn write_legacy_list<'a>(out: &mut BytesMut, key: &Key, entries: impl Iterator<Item = &'a str>) {
    let start = out.len();
    write_entries(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":["#), entries);
    out.put_slice(b"]}");
    seal(out, start);
}

/// Writes a list for version 2, ready to send. The ids of the entries ascend.
pub fn write_list<'a>(
    out: &mut BytesMut,
    key: &Key,
    header: &UpdateHeader,
    entries: impl Iterator<Item = (u64, &'a str)> + Clone,
    suspect: impl Iterator<Item = u64>,
) {
    write_list_of(out, key, header, entries, suspect, |_| {});
}

/// Writes a list for a node that takes packed entries, ready to send. `blocks` are results of
/// [`pack`](crate::pack); the ids in them ascend.
pub fn write_packed_list<'a>(
    out: &mut BytesMut,
    key: &Key,
    header: &UpdateHeader,
    blocks: impl Iterator<Item = &'a [u8]>,
    suspect: impl Iterator<Item = u64>,
) {
    write_list_of(out, key, header, empty(), suspect, |out| write_blocks(out, blocks));
}

fn write_list_of<'a>(
    out: &mut BytesMut,
    key: &Key,
    header: &UpdateHeader,
    entries: impl Iterator<Item = (u64, &'a str)> + Clone,
    suspect: impl Iterator<Item = u64>,
    write_packed: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    let head = format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":["#);
    write_entries(out, &head, entries.clone().map(|(_, entry)| entry));
    out.put_slice(b"],\"$\":{");
    write_header(out, header);
    write_ids(out, "ids", entries.map(|(id, _)| id), true);
    write_ids(out, "suspect", suspect, false);
    write_packed(out);
    out.put_slice(b"}}");
    seal(out, start);
}

/// Which listed nodes have become suspect with a change, and which are trusted again, by their ids.
#[derive(Clone, Debug)]
pub struct SuspicionChange<S, T> {
    /// Nodes that have become suspect.
    pub suspect: S,
    /// Nodes that are trusted again.
    pub trusted: T,
}

impl SuspicionChange<Empty<u64>, Empty<u64>> {
    /// Says that no node has become suspect, or is trusted again.
    pub const fn none() -> Self {
        Self { suspect: empty(), trusted: empty() }
    }
}

/// Writes a delta, ready to send. It starts from `base`, which may be of the epoch before.
pub fn write_delta<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    joined: impl Iterator<Item = (u64, &'a str)> + Clone,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    suspicion: SuspicionChange<impl Iterator<Item = u64>, impl Iterator<Item = u64>>,
) {
    write_delta_of(out, header, base, joined, left, suspicion, |_| {});
}

/// Writes a delta for a node that takes packed entries, ready to send. `blocks` are results of
/// [`pack`](crate::pack).
pub fn write_packed_delta<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    blocks: impl Iterator<Item = &'a [u8]>,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    suspicion: SuspicionChange<impl Iterator<Item = u64>, impl Iterator<Item = u64>>,
) {
    write_delta_of(out, header, base, empty(), left, suspicion, |out| write_blocks(out, blocks));
}

fn write_delta_of<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    joined: impl Iterator<Item = (u64, &'a str)> + Clone,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    suspicion: SuspicionChange<impl Iterator<Item = u64>, impl Iterator<Item = u64>>,
    write_packed: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    let head = format!(r#"{{"uri":"{REGISTRY_URI}","method":"PATCH","key":0,"params":{{"joined":["#);
    write_entries(out, &head, joined.clone().map(|(_, entry)| entry));
    out.put_slice(b"],\"left\":[");
    for (position, (id, reason)) in left.enumerate() {
        let comma = if position > 0 { "," } else { "" };
        out.put_slice(format!(r#"{comma}{{"id":{id},"reason":"{}"}}"#, reason.as_str()).as_bytes());
    }
    out.put_slice(b"]},\"$\":{");
    write_header(out, header);
    out.put_slice(format!(r#","base":{}"#, base.rev).as_bytes());
    if base.epoch != header.revision.epoch {
        out.put_slice(format!(r#","was":{}"#, base.epoch).as_bytes());
    }
    write_ids(out, "ids", joined.map(|(id, _)| id), true);
    write_ids(out, "suspect", suspicion.suspect, false);
    write_ids(out, "trusted", suspicion.trusted, false);
    write_packed(out);
    out.put_slice(b"}}");
    seal(out, start);
}

/// Writes why a packet is refused, for a peer that has sent `$` or whose connection is about to be
/// closed. `retry_after` says when the peer may try again.
///
/// `params` is an empty array, the only form that version 1 readers survive.
pub fn write_refusal(
    out: &mut BytesMut,
    key: Option<&Key>,
    status: u16,
    reason: &str,
    message: &str,
    retry_after: Option<std::time::Duration>,
) {
    let start = out.len();
    let key = key.map_or_else(|| "0".to_owned(), Key::to_string);
    let message = serde_json::Value::from(message);
    // Rounded up: a peer that comes earlier comes too early.
    let milliseconds = |after: std::time::Duration| after.as_nanos().div_ceil(1_000_000);
    let retry_after = retry_after.map_or_else(String::new, |after| format!(r#","ra":{}"#, milliseconds(after)));
    let text = format!(
        r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":[],"$":{{"s":{status},"r":"{reason}","m":{message}{retry_after}}}}}"#
    );
    out.put_slice(text.as_bytes());
    seal(out, start);
}

fn write_entries<'a>(out: &mut BytesMut, head: &str, entries: impl Iterator<Item = &'a str>) {
    out.put_slice(head.as_bytes());
    for (position, entry) in entries.enumerate() {
        if position > 0 {
            out.put_u8(b',');
        }
        out.put_slice(entry.as_bytes());
    }
}

fn write_header(out: &mut BytesMut, header: &UpdateHeader) {
    let UpdateHeader { revision: Revision { epoch, rev }, digest, warming, ack, part } = header;
    out.put_slice(format!(r#""epoch":{epoch},"rev":{rev}"#).as_bytes());
    if let Some(Digest(digest)) = digest {
        out.put_slice(format!(r#","digest":{digest}"#).as_bytes());
    }
    for (member, set) in [("warming", *warming), ("ack", *ack), ("part", *part)] {
        if set {
            out.put_slice(format!(r#","{member}":true"#).as_bytes());
        }
    }
}

fn write_blocks<'a>(out: &mut BytesMut, blocks: impl Iterator<Item = &'a [u8]>) {
    out.put_slice(b",\"packed\":[");
    for (position, block) in blocks.enumerate() {
        out.put_slice(if position > 0 { b",\"" } else { b"\"" });
        out.put_slice(block);
        out.put_u8(b'"');
    }
    out.put_u8(b']');
}

/// Writes an array of ids. An empty one is written only if `required`.
fn write_ids(out: &mut BytesMut, member: &str, ids: impl Iterator<Item = u64>, required: bool) {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if required || !ids.is_empty() {
        out.put_slice(format!(r#","{member}":[{}]"#, ids.join(",")).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ListUpdate, Packet, UnpackedBlocks};

    #[test]
    fn lists_have_the_bytes_of_the_old_distributor() {
        let entry = r#"{"port":8000,"name":"gate","urls":[],"host":"::ffff:127.0.0.1"}"#;
        for (key, entries, expected) in [
            (Key::Number(0), vec![], r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#),
            (
                Key::Number(0),
                vec![entry],
                r#"{"uri":"/distributes","method":"GET","key":0,"params":[{"port":8000,"name":"gate","urls":[],"host":"::ffff:127.0.0.1"}]}¶"#,
            ),
            (Key::Number(7), vec!["{}", "{}"], r#"{"uri":"/distributes","method":"GET","key":7,"params":[{},{}]}¶"#),
        ] {
            let mut out = BytesMut::new();
            write_legacy_list(&mut out, &key, entries.into_iter());
            assert_eq!(out, expected.as_bytes());
        }
    }

    const STAMP: UpdateHeader = UpdateHeader {
        revision: Revision { epoch: 9, rev: 5 },
        digest: Some(Digest(77)),
        warming: false,
        ack: false,
        part: false,
    };

    fn update(out: &BytesMut) -> String {
        let packet = Packet::parse(&out[..out.len() - 2]).unwrap();
        format!("{:?}", ListUpdate::parse(&packet, &mut UnpackedBlocks::default()).unwrap())
    }

    #[test]
    fn a_list_of_version_2_carries_ids_and_what_state_it_is() {
        let mut out = BytesMut::new();
        let entries = [(3, r#"{"a":1}"#), (7, r#"{"b":"\u00b6"}"#)];
        write_list(&mut out, &Key::Number(0), &STAMP, entries.into_iter(), [7].into_iter());
        let expected = r#"{"uri":"/distributes","method":"GET","key":0,"params":[{"a":1},{"b":"\u00b6"}],"$":{"epoch":9,"rev":5,"digest":77,"ids":[3,7],"suspect":[7]}}¶"#;
        assert_eq!(out, expected.as_bytes());
        assert!(update(&out).contains("ids: [3, 7], suspect: [7]"));
    }

    #[test]
    fn a_change_says_what_it_starts_from() {
        for (base, header, expected) in [
            (Revision { epoch: 9, rev: 4 }, STAMP, r#""epoch":9,"rev":5,"digest":77,"base":4,"ids":[8]"#),
            (
                Revision { epoch: 8, rev: 44 },
                UpdateHeader { warming: true, ack: true, part: true, digest: None, ..STAMP },
                r#""epoch":9,"rev":5,"warming":true,"ack":true,"part":true,"base":44,"was":8,"ids":[8]"#,
            ),
        ] {
            let mut out = BytesMut::new();
            let (joined, left) = ([(8, "{}")].into_iter(), [(2, LeaveReason::Reset)].into_iter());
            write_delta(&mut out, &header, base, joined, left, SuspicionChange::none());
            let head = r#"{"uri":"/distributes","method":"PATCH","key":0,"params":{"joined":[{}],"left":[{"id":2,"reason":"reset"}]},"$":{"#;
            assert_eq!(out, format!("{head}{expected}}}}}¶").as_bytes());
            assert!(update(&out).contains(&format!("{base:?}")));
        }
    }

    fn block(entries: &[(u64, &str)]) -> String {
        let mut text = String::new();
        crate::write_block(&mut text, entries.iter().copied());
        crate::pack(&text)
    }

    #[test]
    fn packed_entries_are_read_like_others() {
        let blocks = [block(&[(3, r#"{"a":1}"#)]), block(&[(7, r#"{"b":"\u00b6"}"#), (9, "{}")])];
        let entries = || [(3, r#"{"a":1}"#), (7, r#"{"b":"\u00b6"}"#), (9, "{}")].into_iter();
        let blocks = || blocks.iter().map(String::as_bytes);
        let (mut plain, mut packed) = (BytesMut::new(), BytesMut::new());
        write_list(&mut plain, &Key::Number(0), &STAMP, entries(), [7].into_iter());
        write_packed_list(&mut packed, &Key::Number(0), &STAMP, blocks(), [7].into_iter());
        assert_eq!(update(&packed), update(&plain));
        let head = r#"{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{"epoch":9,"rev":5,"digest":77,"ids":[],"suspect":[7],"packed":["#;
        assert!(packed.starts_with(head.as_bytes()));
        let (mut plain, mut packed) = (BytesMut::new(), BytesMut::new());
        let (base, left) = (Revision { epoch: 9, rev: 4 }, (2, LeaveReason::Reset));
        write_delta(&mut plain, &STAMP, base, entries(), [left].into_iter(), SuspicionChange::none());
        write_packed_delta(&mut packed, &STAMP, base, blocks(), [left].into_iter(), SuspicionChange::none());
        assert_eq!(update(&packed), update(&plain));
    }
}
