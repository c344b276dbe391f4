//! A list or a delta, as a node reads it.

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{Digest, Packet, Revision, UnpackError, UnpackedBlocks};

/// Why a node is not listed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// The node has said that it leaves.
    Leave,
    /// The node's connection was closed in order, as the system does for a process that ends.
    Closed,
    /// The node's connection was reset.
    Reset,
    /// The node's machine answers, but its process does not.
    Hung,
    /// The node's machine does not answer, or the node has not come back.
    Unreachable,
    /// The node's instance has registered on a newer connection.
    Superseded,
    /// The node did not read what it was sent.
    Stalled,
    /// The node's connection was closed because of what it sent.
    Refused,
    /// The node is still registered, and no longer matches the interests of the receiver.
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
    /// Whether the Distributor may not know all nodes yet, so that the receiver keeps those that
    /// are missing.
    pub warming: bool,
    /// Whether the receiver should answer with a pong: see [`write_pong`](crate::write_pong).
    pub ack: bool,
    /// Whether the receiver has a partial view, if this is the header of a list.
    pub part: bool,
}

/// A whole list.
#[derive(Debug)]
pub struct WholeList<'a> {
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
    Whole(WholeList<'a>),
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
        Ok(Self::Whole(WholeList { header, entries, ids, suspect }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
