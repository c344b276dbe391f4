//! The delta between two states that are published to all peers.

use protocol::{Revision, UpdateHeader};

use crate::entries::Difference;
use crate::updates::budget::{OutPacket, UpdateBudget};
use crate::updates::encode::{encode_change, encode_packed_change};
use crate::updates::packing::{MIN_PACKED_BYTES, PackedBlocks, Packing};

/// The packet that leads all peers from one published state to the next.
#[derive(Debug)]
pub(super) struct SharedDelta {
    pub(super) from: Revision,
    pub(super) to: Revision,
    packet: OutPacket,
    /// Whether peers that see all entries must be sent this packet.
    pub(super) has_changes: bool,
    packed: PackedForm,
}

/// The packet for peers that take packed entries.
#[derive(Debug)]
enum PackedForm {
    /// The packed form equals the plain one, because the entries are few.
    Same,
    /// The packed form is being made, if at least one peer needs it.
    UnderWay(Box<(Packing, Difference, UpdateHeader)>),
    Done(OutPacket),
}

impl SharedDelta {
    pub(super) fn new(from: Revision, header: UpdateHeader, difference: Difference, memory: &UpdateBudget) -> Self {
        let packet = OutPacket::reserved(encode_change(&difference, &header, from), memory);
        let has_changes = difference.has_changes;
        let entry_bytes: usize = difference.joined.iter().map(|record| record.entry.len()).sum();
        let packed = if entry_bytes < MIN_PACKED_BYTES {
            PackedForm::Same
        } else {
            let packing = Packing::new(difference.joined.clone());
            PackedForm::UnderWay(Box::new((packing, difference, header)))
        };
        Self { from, to: header.revision, packet, has_changes, packed }
    }

    /// The packet for a peer that takes packed entries or does not; `None` while it is being
    /// packed, a part at each call.
    pub(super) fn packet(
        &mut self,
        is_packed: bool,
        kept: &mut PackedBlocks,
        memory: &UpdateBudget,
    ) -> Option<OutPacket> {
        match &mut self.packed {
            PackedForm::Done(packet) if is_packed => Some(packet.clone()),
            PackedForm::UnderWay(work) if is_packed => {
                if !work.0.advance(kept) {
                    return None;
                }
                let (packing, difference, header) = &**work;
                let packet = encode_packed_change(difference, header, self.from, packing.blocks());
                let packet = OutPacket::reserved(packet, memory);
                self.packed = PackedForm::Done(packet.clone());
                Some(packet)
            }
            PackedForm::Same | PackedForm::UnderWay(_) | PackedForm::Done(_) => Some(self.packet.clone()),
        }
    }

    /// Bytes that it keeps.
    pub(super) fn len(&self) -> usize {
        let packed = match &self.packed {
            PackedForm::Same | PackedForm::UnderWay(_) => 0,
            PackedForm::Done(packet) => packet.len(),
        };
        self.packet.len() + packed
    }
}
