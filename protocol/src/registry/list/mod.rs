//! What the Distributor sends to nodes: whole lists, deltas and refusals.
//!
//! It must not know what a receiver has: a delta is written for the state that it is given.

mod packed;

use std::net::{IpAddr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

pub use self::packed::{MAX_BLOCKS, MAX_UNPACKED_BYTES, UnpackError, UnpackedBlocks, pack, write_block};
use crate::{
    Advert, Digest, Key, LEGACY_READ_BYTES, Packet, Registration, RegistrationLimits, Revision, Route, Version, seal,
};

/// The uri of most packets between a node and the Distributor.
pub const REGISTRY_URI: &str = "/distributes";

/// A node as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, for people and to tell gateways (`gate`) from services.
    pub name: String,
    /// Where it can be called.
    pub host: IpAddr,
    /// Where it can be called.
    pub port: u16,
    /// The routes that it offers. Registered urls that are not routes are left out.
    pub routes: Vec<Route>,
    /// Its advert, when it speaks version 2.
    pub advert: Option<Advert>,
    /// How many unread bytes it may have, if it is of version 1.
    pub read_window: usize,
    /// The Distributor has had no sign of life from it for some time.
    pub suspect: bool,
}

impl Node {
    /// Reads an entry of a list; `None` when no node can be made of it.
    pub fn from_entry(entry: &str) -> Option<Self> {
        let RegistryEntry { registration, host } = RegistryEntry::parse(entry)?;
        let Registration { name, port, urls, advert, read_window, .. } = registration;
        let routes = urls.iter().filter_map(|url| Route::parse(url).ok()).collect();
        let read_window = read_window.unwrap_or(LEGACY_READ_BYTES);
        Some(Self { name, host, port, routes, advert, read_window, suspect: false })
    }

    /// The version of the protocol that this node speaks.
    pub fn version(&self) -> Version {
        if self.advert.is_some() { Version::V2 } else { Version::V1 }
    }
}

/// An entry of a list: the registration of a node, and the host that the Distributor saw it come
/// from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    /// What the node registered.
    pub registration: Registration,
    /// In canonical form: an IPv4 address is not mapped to IPv6.
    pub host: IpAddr,
}

impl RegistryEntry {
    /// Reads the text of an entry; `None` when it has no host, or is not a sound registration.
    pub fn parse(entry: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawHost {
            host: IpAddr,
        }
        // A Distributor has accepted the entry within its limits, which may differ from those of
        // this process.
        let no_limits = RegistrationLimits { max_urls: usize::MAX, max_url_bytes: usize::MAX };
        let registration = Registration::parse(Some(serde_json::from_str(entry).ok()?), &no_limits).ok()?;
        let RawHost { host } = serde_json::from_str(entry).ok()?;
        Some(Self { registration, host: host.to_canonical() })
    }
}

/// Why a node is not listed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// The node has said that it leaves.
    Leave,
    /// Its connection was closed in order, as the system does for a process that ends.
    Closed,
    /// Its connection was reset.
    Reset,
    /// Its machine answers, but its process does not.
    Hung,
    /// Its machine does not answer, or the node has not come back.
    Unreachable,
    /// Its instance has registered on a newer connection.
    Superseded,
    /// It did not read what it was sent.
    Stalled,
    /// Its connection was closed because of what it sent.
    Refused,
    /// It is still registered, and no longer matches the interests of the receiver.
    Changed,
}

impl LeaveReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Hung => "hung",
            Self::Unreachable => "unreachable",
            Self::Superseded => "superseded",
            Self::Stalled => "stalled",
            Self::Refused => "refused",
            Self::Changed => "changed",
        }
    }
}

/// The `$` of lists and deltas for version 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateHeader {
    /// The state to which the update leads.
    pub revision: Revision,
    /// The digest of that state; `None` where the receiver is told only a part.
    pub digest: Option<Digest>,
    /// The Distributor may not know all nodes yet, so the receiver keeps those that are missing.
    pub warming: bool,
    /// The receiver should answer with a pong: see [`write_pong`](crate::write_pong).
    pub ack: bool,
    /// Of a list: the receiver is told of a part of the nodes.
    pub part: bool,
}

/// A whole list.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// `None` from a Distributor of version 1.
    pub header: Option<UpdateHeader>,
    /// The entries, in order of registration.
    pub entries: Vec<&'a RawValue>,
    /// The id of each entry, ascending; empty without a header.
    pub ids: Vec<u64>,
    /// Ids of nodes that have given no sign of life for some time.
    pub suspect: Vec<u64>,
}

/// The changes since a state that the receiver may know.
#[derive(Debug)]
pub struct Delta<'a> {
    /// The state that the delta leads to.
    pub header: UpdateHeader,
    /// The state that it starts from.
    pub base: Revision,
    /// Ids and entries that are new, or replace the entry of the same id.
    pub joined: Vec<(u64, &'a RawValue)>,
    /// Ids of nodes that have left, each with the word of a [`LeaveReason`].
    pub left: Vec<(u64, String)>,
    /// Ids of nodes that have given no sign of life for some time.
    pub suspect: Vec<u64>,
    /// Ids of nodes that are not suspect any more.
    pub trusted: Vec<u64>,
}

/// A list or a delta.
#[derive(Debug)]
pub enum ListUpdate<'a> {
    /// A whole list.
    Snapshot(Snapshot<'a>),
    /// The changes since an earlier state.
    Delta(Delta<'a>),
}

/// A packet that is not a list or delta. The receiver keeps what it knows.
#[derive(Debug, Error)]
pub enum ListUpdateError {
    /// `params` is of a wrong type.
    #[error("params is not a list of nodes")]
    Params(#[source] Option<serde_json::Error>),
    /// `$` does not fit `params`.
    #[error("$ does not fit the list")]
    Header,
    /// The packed entries cannot be read.
    #[error("its packed entries cannot be read")]
    Packed(#[source] UnpackError),
}

impl<'a> ListUpdate<'a> {
    /// Reads a packet of the Distributor. An entry that is not a node does not affect the others.
    /// Packed entries are unpacked into `unpacked`, which is empty before.
    ///
    /// # Errors
    /// [`ListUpdateError`] when the packet is neither a list nor a delta.
    pub fn parse(packet: &Packet<'a>, unpacked: &'a mut UnpackedBlocks) -> Result<Self, ListUpdateError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct RawListUpdate<'a> {
            epoch: Option<u64>,
            rev: u64,
            base: u64,
            was: Option<u64>,
            ids: Vec<u64>,
            digest: Option<Digest>,
            warming: bool,
            ack: bool,
            part: bool,
            suspect: Vec<u64>,
            trusted: Vec<u64>,
            #[serde(borrow)]
            packed: Option<&'a RawValue>,
        }
        let params = packet.params.map(RawValue::get).ok_or(ListUpdateError::Params(None))?;
        let read = |error| ListUpdateError::Params(Some(error));
        let raw: RawListUpdate<'a> =
            packet.meta.and_then(|meta| serde_json::from_str(meta.get()).ok()).unwrap_or_default();
        let RawListUpdate { epoch, rev, base, was, mut ids, digest, warming, ack, part, suspect, trusted, packed } =
            raw;
        let (packed_ids, packed_entries) = match packed {
            Some(packed) => unpacked.unpack(packed).map_err(ListUpdateError::Packed)?,
            None => (Vec::new(), Vec::new()),
        };
        ids.extend(packed_ids);
        let header = epoch.map(|epoch| UpdateHeader { revision: Revision { epoch, rev }, digest, warming, ack, part });
        if packet.method() == "PATCH" {
            #[derive(Deserialize)]
            struct RawDelta<'a> {
                #[serde(borrow)]
                joined: Vec<&'a RawValue>,
                left: Vec<RawLeft>,
            }
            #[derive(Deserialize)]
            struct RawLeft {
                id: u64,
                #[serde(default)]
                reason: String,
            }
            let RawDelta { mut joined, left } = serde_json::from_str(params).map_err(read)?;
            joined.extend(packed_entries);
            let header = header.filter(|_| ids.len() == joined.len()).ok_or(ListUpdateError::Header)?;
            return Ok(Self::Delta(Delta {
                base: Revision { epoch: was.unwrap_or(header.revision.epoch), rev: base },
                header,
                joined: ids.into_iter().zip(joined).collect(),
                left: left.into_iter().map(|RawLeft { id, reason }| (id, reason)).collect(),
                suspect,
                trusted,
            }));
        }
        let mut entries: Vec<&RawValue> = serde_json::from_str(params).map_err(read)?;
        entries.extend(packed_entries);
        if header.is_some() && (ids.len() != entries.len() || !ids.is_sorted_by(|a, b| a < b)) {
            return Err(ListUpdateError::Header);
        }
        Ok(Self::Snapshot(Snapshot { header, entries, ids, suspect }))
    }
}

/// Writes a list for version 1, ready to send. `key` is 0 unless the receiver has asked with
/// another.
pub fn write_list<'a>(out: &mut BytesMut, key: &Key, entries: impl Iterator<Item = &'a str>) {
    let start = out.len();
    write_entries(out, &format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":["#), entries);
    out.put_slice(b"]}");
    seal(out, start);
}

/// Writes a list for version 2, ready to send. The ids of the entries ascend.
pub fn write_snapshot<'a>(
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
pub fn write_packed_snapshot<'a>(
    out: &mut BytesMut,
    key: &Key,
    header: &UpdateHeader,
    blocks: impl Iterator<Item = &'a [u8]>,
    suspect: impl Iterator<Item = u64>,
) {
    write_list_of(out, key, header, std::iter::empty(), suspect, |out| write_blocks(out, blocks));
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

/// Writes a delta, ready to send. It starts from `base`, which may be of the epoch before.
pub fn write_delta<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    joined: impl Iterator<Item = (u64, &'a str)> + Clone,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    marks: (impl Iterator<Item = u64>, impl Iterator<Item = u64>),
) {
    write_delta_of(out, header, base, joined, left, marks, |_| {});
}

/// Writes a delta for a node that takes packed entries, ready to send. `blocks` are results of
/// [`pack`](crate::pack).
pub fn write_packed_delta<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    blocks: impl Iterator<Item = &'a [u8]>,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    marks: (impl Iterator<Item = u64>, impl Iterator<Item = u64>),
) {
    write_delta_of(out, header, base, std::iter::empty(), left, marks, |out| write_blocks(out, blocks));
}

fn write_delta_of<'a>(
    out: &mut BytesMut,
    header: &UpdateHeader,
    base: Revision,
    joined: impl Iterator<Item = (u64, &'a str)> + Clone,
    left: impl Iterator<Item = (u64, LeaveReason)>,
    (suspect, trusted): (impl Iterator<Item = u64>, impl Iterator<Item = u64>),
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
    write_ids(out, "suspect", suspect, false);
    write_ids(out, "trusted", trusted, false);
    write_packed(out);
    out.put_slice(b"}}");
    seal(out, start);
}

/// Writes why a packet is refused, for a peer that has sent `$` or whose connection is about to be
/// closed. `retry_after` says when the peer may try again.
///
/// `params` is an empty array, the only form that old readers survive.
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

/// The text of an address in lists. Old gateways compare the text, and their Distributor listened
/// on a dual-stack socket.
pub fn host_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("::ffff:{v4}"),
        // `Display` of a mapped address is the dotted form already.
        IpAddr::V6(v6) => Ipv6Addr::to_string(&v6),
    }
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
            write_list(&mut out, &key, entries.into_iter());
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn hosts_are_spelled_as_on_a_dual_stack_socket() {
        for (address, shown) in [
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::1", "::1"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            assert_eq!(host_text(address.parse().unwrap()), shown);
        }
    }

    #[track_caller]
    fn check(entry: &str, expected: Option<(&str, &str, u16, usize)>) {
        let node = Node::from_entry(entry);
        let seen = node.as_ref().map(|n| (n.name.as_str(), n.host.to_string(), n.port, n.routes.len()));
        assert_eq!(seen, expected.map(|(name, host, port, routes)| (name, host.to_owned(), port, routes)));
    }

    #[test]
    fn nodes_are_made_of_sound_entries_only() {
        check(
            r#"{"port":1,"name":"a","urls":["GET/a","*",""],"host":"::ffff:127.0.0.1","x":1}"#,
            Some(("a", "127.0.0.1", 1, 1)),
        );
        check(r#"{"port":"2","name":"b","host":"::1"}"#, Some(("b", "::1", 2, 0)));
        for strange in
            ["7", "[]", r#"{"port":3,"host":"nowhere"}"#, r#"{"host":"::1"}"#, r#"{"host":"::1","port":70000}"#]
        {
            check(strange, None);
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
        write_snapshot(&mut out, &Key::Number(0), &STAMP, entries.into_iter(), [7].into_iter());
        let expected = r#"{"uri":"/distributes","method":"GET","key":0,"params":[{"a":1},{"b":"\u00b6"}],"$":{"epoch":9,"rev":5,"digest":77,"ids":[3,7],"suspect":[7]}}¶"#;
        assert_eq!(out, expected.as_bytes());
        assert!(update(&out).contains("ids: [3, 7], suspect: [7]"));
    }

    #[test]
    fn a_change_says_what_it_starts_from() {
        let none = || std::iter::empty();
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
            write_delta(&mut out, &header, base, joined, left, (none(), none()));
            let head = r#"{"uri":"/distributes","method":"PATCH","key":0,"params":{"joined":[{}],"left":[{"id":2,"reason":"reset"}]},"$":{"#;
            assert_eq!(out, format!("{head}{expected}}}}}¶").as_bytes());
            assert!(update(&out).contains(&format!("{base:?}")));
        }
    }

    fn block(entries: &[(u64, &str)]) -> String {
        let mut text = String::new();
        write_block(&mut text, entries.iter().copied());
        pack(&text)
    }

    #[test]
    fn packed_entries_are_read_like_others() {
        let blocks = [block(&[(3, r#"{"a":1}"#)]), block(&[(7, r#"{"b":"\u00b6"}"#), (9, "{}")])];
        let entries = || [(3, r#"{"a":1}"#), (7, r#"{"b":"\u00b6"}"#), (9, "{}")].into_iter();
        let blocks = || blocks.iter().map(String::as_bytes);
        let (mut plain, mut packed) = (BytesMut::new(), BytesMut::new());
        write_snapshot(&mut plain, &Key::Number(0), &STAMP, entries(), [7].into_iter());
        write_packed_snapshot(&mut packed, &Key::Number(0), &STAMP, blocks(), [7].into_iter());
        assert_eq!(update(&packed), update(&plain));
        let head = r#"{"uri":"/distributes","method":"GET","key":0,"params":[],"$":{"epoch":9,"rev":5,"digest":77,"ids":[],"suspect":[7],"packed":["#;
        assert!(packed.starts_with(head.as_bytes()));
        let (mut plain, mut packed) = (BytesMut::new(), BytesMut::new());
        let (base, left, none) = (Revision { epoch: 9, rev: 4 }, (2, LeaveReason::Reset), || std::iter::empty());
        write_delta(&mut plain, &STAMP, base, entries(), [left].into_iter(), (none(), none()));
        write_packed_delta(&mut packed, &STAMP, base, blocks(), [left].into_iter(), (none(), none()));
        assert_eq!(update(&packed), update(&plain));
    }

    #[test]
    fn packets_that_do_not_fit_are_not_updates() {
        for (frame, good) in [
            (r#"{"uri":"/distributes","method":"GET","params":[]}"#, true),
            (r#"{"uri":"/distributes","method":"GET","params":[7],"$":{}}"#, true),
            (r#"{"uri":"/distributes","method":"GET","params":{}}"#, false),
            (r#"{"uri":"/distributes","method":"GET"}"#, false),
            (r#"{"uri":"/distributes","method":"GET","params":[{}],"$":{"epoch":1,"rev":1,"ids":[]}}"#, false),
            (r#"{"uri":"/distributes","method":"GET","params":[{},{}],"$":{"epoch":1,"rev":1,"ids":[2,2]}}"#, false),
            (r#"{"uri":"/distributes","method":"GET","params":[],"$":{"epoch":1,"rev":1,"ids":[],"packed":[]}}"#, true),
            (
                r#"{"uri":"/distributes","method":"GET","params":[],"$":{"epoch":1,"rev":1,"ids":[],"packed":["x"]}}"#,
                false,
            ),
            (r#"{"uri":"/distributes","method":"PATCH","params":{"joined":[],"left":[]}}"#, false),
            (
                r#"{"uri":"/distributes","method":"PATCH","params":{"joined":[],"left":[]},"$":{"epoch":1,"rev":1}}"#,
                true,
            ),
            (
                r#"{"uri":"/distributes","method":"PATCH","params":{"joined":[7],"left":[]},"$":{"epoch":1,"rev":1}}"#,
                false,
            ),
            (r#"{"uri":"/distributes","method":"PATCH","params":[],"$":{"epoch":1,"rev":1}}"#, false),
        ] {
            let packet = Packet::parse(frame.as_bytes()).unwrap();
            assert_eq!(ListUpdate::parse(&packet, &mut UnpackedBlocks::default()).is_ok(), good, "{frame}");
        }
    }
}
