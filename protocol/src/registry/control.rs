//! The small packets between a version 2 node and the Distributor: pings, reports, copies,
//! visibility and history.

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::to_json;
use crate::{Digest, Key, Packet, REGISTRY_URI, Revision, Unreachable, seal};

/// The uri of [`write_ping`].
pub const PING_URI: &str = "$ping";
/// The uri of [`write_pong`]: see [`Pong`].
pub const PONG_URI: &str = "$pong";
/// The uri of [`write_visibility`].
pub const VISIBLE_URI: &str = "$visible";
/// The uri of [`write_history_request`].
pub const HISTORY_URI: &str = "/distributes/history";

/// Maximum bytes of entries in one part of a copy, so that the part is within the Distributor's
/// limit for packets.
const COPY_PART_BYTES: usize = 32 * 1024;

/// Asks for a sign of life, and says which state is the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ping {
    /// Milliseconds until the next ping.
    pub every: u64,
    /// The newest state. The receiver may be told of it only later.
    #[serde(flatten)]
    pub revision: Option<Revision>,
    /// The digest of that state.
    pub digest: Option<Digest>,
}

impl Ping {
    /// Reads it from its packet. A member that is missing or of a wrong type counts as absent.
    pub fn from_packet(packet: &Packet<'_>) -> Self {
        packet.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default()
    }
}

/// Writes a ping, ready to send.
pub fn write_ping(out: &mut BytesMut, every: std::time::Duration, revision: Revision, digest: Digest) {
    let (every, Revision { epoch, rev }, Digest(digest)) = (every.as_millis(), revision, digest);
    write(
        out,
        &format!(r#"{{"uri":"{PING_URI}","$":{{"every":{every},"epoch":{epoch},"rev":{rev},"digest":{digest}}}}}"#),
    );
}

/// Answers a ping, or a list or delta that asked for it, and says what its sender knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pong {
    /// The state that the sender knows; `None` before it has been told any.
    #[serde(flatten)]
    pub revision: Option<Revision>,
    /// The digest of all that the sender knows; `None` when it was told only a part.
    pub digest: Option<Digest>,
}

impl Pong {
    /// Reads it from its packet. A member that is missing or of a wrong type counts as absent.
    pub fn from_packet(packet: &Packet<'_>) -> Self {
        packet.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default()
    }
}

/// Writes a pong, ready to send.
pub fn write_pong(out: &mut BytesMut, pong: Pong) {
    let Pong { revision, digest } = pong;
    let known = revision.map_or_else(String::new, |Revision { epoch, rev }| format!(r#""epoch":{epoch},"rev":{rev}"#));
    let digest =
        digest.filter(|_| revision.is_some()).map_or_else(String::new, |Digest(d)| format!(r#","digest":{d}"#));
    write(out, &format!(r#"{{"uri":"{PONG_URI}","$":{{{known}{digest}}}}}"#));
}

/// Writes a request for the list, from a node that has found a gap.
pub fn write_list_request(out: &mut BytesMut, key: u64) {
    write(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"$":{{}}}}"#));
}

/// Writes that a node leaves the registry.
pub fn write_leave(out: &mut BytesMut) {
    write(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"DELETE","key":0,"params":{{}},"$":{{}}}}"#));
}

/// What a node reports of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes to which calls have failed.
    pub failed: Vec<u64>,
    /// Nodes that have been unreachable for a while, and why.
    pub unreachable: Vec<(u64, Unreachable)>,
}

/// Writes a report.
pub fn write_report(out: &mut BytesMut, report: &Report) {
    let Report { failed, unreachable } = report;
    let mut params = format!(r#""failed":{}"#, to_json(failed));
    if !unreachable.is_empty() {
        let pairs: Vec<_> = unreachable.iter().map(|(id, why)| format!(r#"[{id},"{}"]"#, why.as_str())).collect();
        params.push_str(&format!(r#","unreachable":[{}]"#, pairs.join(",")));
    }
    write(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"PATCH","key":0,"params":{{{params}}},"$":{{}}}}"#));
}

/// Reads a report.
pub fn read_report(params: Option<&RawValue>) -> Option<Report> {
    #[derive(Deserialize)]
    struct RawReport {
        failed: Vec<u64>,
        #[serde(default)]
        unreachable: Vec<(u64, String)>,
    }
    let RawReport { failed, unreachable } = serde_json::from_str(params?.get()).ok()?;
    let unreachable = unreachable.iter().map(|(id, word)| (*id, Unreachable::from_word(word))).collect();
    Some(Report { failed, unreachable })
}

/// Writes a request for all that a node knows, from a Distributor that has just started.
pub fn write_copy_request(out: &mut BytesMut) {
    write(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":0,"$":{{"copy":true}}}}"#));
}

/// Whether a packet asks for a copy.
pub fn is_copy_request(packet: &Packet<'_>) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct RawCopyRequest {
        copy: bool,
    }
    let raw: Option<RawCopyRequest> = packet.meta.and_then(|meta| serde_json::from_str(meta.get()).ok());
    (packet.uri(), packet.method()) == (REGISTRY_URI, "GET") && raw.unwrap_or_default().copy
}

/// A part of all that a node knows.
#[derive(Debug)]
pub struct CopyPart<'a> {
    /// The state of the whole.
    pub revision: Revision,
    /// The digest of the whole.
    pub digest: Digest,
    /// Whether more parts follow.
    pub more: bool,
    /// Entries with their ids, ascending over all parts.
    pub entries: Vec<(u64, &'a RawValue)>,
}

/// Writes a copy in as many packets as it takes.
pub fn write_copy<'a>(
    out: &mut BytesMut,
    revision: Revision,
    digest: Digest,
    entries: impl Iterator<Item = (u64, &'a str)>,
) {
    let mut entries = entries.peekable();
    let Revision { epoch, rev } = revision;
    loop {
        let (mut ids, mut texts, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((id, entry)) = entries.next_if(|(_, e)| bytes == 0 || bytes + e.len() <= COPY_PART_BYTES) {
            bytes += entry.len();
            ids.push(id.to_string());
            texts.push(entry);
        }
        let more = entries.peek().is_some();
        let (texts, ids, digest) = (texts.join(","), ids.join(","), digest.0);
        write(
            out,
            &format!(
                r#"{{"uri":"{REGISTRY_URI}","method":"PUT","key":0,"params":[{texts}],"$":{{"epoch":{epoch},"rev":{rev},"digest":{digest},"more":{more},"ids":[{ids}]}}}}"#
            ),
        );
        if !more {
            return;
        }
    }
}

/// Reads a part of a copy.
pub fn read_copy<'a>(packet: &Packet<'a>) -> Option<CopyPart<'a>> {
    #[derive(Deserialize)]
    struct RawCopyPart {
        epoch: u64,
        rev: u64,
        digest: Digest,
        #[serde(default)]
        more: bool,
        ids: Vec<u64>,
    }
    let RawCopyPart { epoch, rev, digest, more, ids } = serde_json::from_str(packet.meta?.get()).ok()?;
    let entries: Vec<&RawValue> = serde_json::from_str(packet.params?.get()).ok()?;
    let revision = Revision { epoch, rev };
    let sound = revision.is_sound() && entries.len() == ids.len() && ids.iter().all(|id| *id <= Revision::MAX);
    sound.then(|| CopyPart { revision, digest, more, entries: ids.into_iter().zip(entries).collect() })
}

/// How many nodes know of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Visibility {
    /// Version 2 nodes that have acknowledged it.
    pub seen: usize,
    /// All version 2 nodes.
    pub of: usize,
    /// Whether `seen` is at least the share that the node asked for.
    pub enough: bool,
    /// Names and addresses of some that have not acknowledged it.
    pub missing: Vec<String>,
}

/// Writes the answer to a registration that asked for its visibility.
pub fn write_visibility(out: &mut BytesMut, visibility: &Visibility) {
    let Visibility { seen, of, enough, missing } = visibility;
    let missing = to_json(missing);
    write(
        out,
        &format!(
            r#"{{"uri":"{VISIBLE_URI}","params":{{"seen":{seen},"of":{of},"enough":{enough},"missing":{missing}}},"$":{{}}}}"#
        ),
    );
}

/// An event in the history of a node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Milliseconds since the event.
    pub ago: u64,
    /// The revision that it led to.
    pub rev: u64,
    /// The node's name.
    pub name: String,
    /// Where it can be called.
    pub address: String,
    /// The kind of event: `joined`, `updated`, `left`, `suspect`, `trusted`, `deferred`, ….
    pub event: String,
    /// Why it happened, for people.
    pub why: String,
}

/// Writes a request for the history of nodes whose name, address or instance is `node`.
pub fn write_history_request(out: &mut BytesMut, key: u64, node: &str) {
    let node = to_json(node);
    write(out, &format!(r#"{{"uri":"{HISTORY_URI}","method":"GET","key":{key},"params":{{"node":{node}}},"$":{{}}}}"#));
}

/// Reads which node's history is asked for.
pub fn read_history_request(params: Option<&RawValue>) -> Option<String> {
    #[derive(Deserialize)]
    struct RawHistoryRequest {
        node: String,
    }
    let RawHistoryRequest { node } = serde_json::from_str(params?.get()).ok()?;
    Some(node)
}

/// Writes the answer: events, the oldest first.
pub fn write_history(out: &mut BytesMut, key: &Key, events: &[HistoryEvent]) {
    let events = to_json(events);
    write(out, &format!(r#"{{"uri":"{HISTORY_URI}","method":"GET","key":{key},"params":{events},"$":{{}}}}"#));
}

fn write(out: &mut BytesMut, packet: &str) {
    let start = out.len();
    out.put_slice(packet.as_bytes());
    seal(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(out: &BytesMut) -> Vec<String> {
        let text = std::str::from_utf8(out).unwrap();
        text.split_terminator('¶').map(str::to_owned).collect()
    }

    const REVISION: Revision = Revision { epoch: 9, rev: 5 };

    #[test]
    fn signs_of_life_are_read_back() {
        let mut out = BytesMut::new();
        write_ping(&mut out, std::time::Duration::from_secs(1), REVISION, Digest(7));
        let pongs = [
            Pong { revision: Some(REVISION), digest: Some(Digest(7)) },
            Pong { revision: Some(REVISION), digest: None },
            Pong::default(),
        ];
        pongs.into_iter().for_each(|pong| write_pong(&mut out, pong));
        let packets = packets(&out);
        let ping = Ping::from_packet(&Packet::parse(packets[0].as_bytes()).unwrap());
        assert_eq!(ping, Ping { every: 1000, revision: Some(REVISION), digest: Some(Digest(7)) });
        for (pong, packet) in pongs.iter().zip(&packets[1..]) {
            assert_eq!(Pong::from_packet(&Packet::parse(packet.as_bytes()).unwrap()), *pong);
        }
        let bare = Packet::parse(br#"{"uri":"$ping","$":{}}"#).unwrap();
        assert_eq!(Ping::from_packet(&bare), Ping::default());
    }

    #[test]
    fn a_copy_is_cut_into_packets_that_pass() {
        let entry = format!(r#"{{"x":"{}"}}"#, "y".repeat(1000));
        for (count, parts) in [(0, 1), (1, 1), (32, 1), (33, 2), (100, 4)] {
            let mut out = BytesMut::new();
            write_copy(&mut out, REVISION, Digest(1), (0..count).map(|id| (id, entry.as_str())));
            let packets = packets(&out);
            assert_eq!(packets.len(), parts, "{count}");
            let mut ids = Vec::new();
            for (number, text) in packets.iter().enumerate() {
                assert!(text.len() < 60_000);
                let packet = Packet::parse(text.as_bytes()).unwrap();
                let part = read_copy(&packet).unwrap();
                assert_eq!((part.revision, part.more), (REVISION, number + 1 < parts));
                ids.extend(part.entries.iter().map(|(id, _)| *id));
            }
            assert_eq!(ids, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn questions_are_read_back() {
        let mut out = BytesMut::new();
        write_copy_request(&mut out);
        write_list_request(&mut out, 7);
        write_report(&mut out, &Report { failed: vec![1, 2], unreachable: Vec::new() });
        write_history_request(&mut out, 3, "상품");
        let unreachable = vec![(3, Unreachable::Refused), (4, Unreachable::WrongInstance)];
        let report = Report { failed: Vec::new(), unreachable };
        write_report(&mut out, &report);
        let packets = packets(&out);
        let packet = |at: usize| Packet::parse(packets[at].as_bytes()).unwrap();
        assert!(is_copy_request(&packet(0)) && !is_copy_request(&packet(1)) && !is_copy_request(&packet(2)));
        assert_eq!(read_report(packet(2).params).map(|report| report.failed), Some(vec![1, 2]));
        assert_eq!(read_report(packet(4).params), Some(report));
        assert_eq!(read_report(packet(1).params), None);
        assert_eq!(read_history_request(packet(3).params).as_deref(), Some("상품"));
    }

    #[test]
    fn answers_are_read_back() {
        let visibility = Visibility { seen: 2, of: 3, enough: false, missing: vec!["goods 127.0.0.1:1".into()] };
        let event = HistoryEvent {
            ago: 12,
            rev: 3,
            name: "goods".into(),
            address: "127.0.0.1:1".into(),
            event: "left".into(),
            why: "reset".into(),
        };
        let mut out = BytesMut::new();
        write_visibility(&mut out, &visibility);
        write_history(&mut out, &Key::Number(1), std::slice::from_ref(&event));
        let packets = packets(&out);
        let params = |at: usize| Packet::parse(packets[at].as_bytes()).unwrap().params.unwrap().get();
        assert_eq!(serde_json::from_str::<Visibility>(params(0)).unwrap(), visibility);
        assert_eq!(serde_json::from_str::<Vec<HistoryEvent>>(params(1)).unwrap(), [event]);
    }
}
