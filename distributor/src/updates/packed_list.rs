//! The whole list for peers that take packed entries.

use protocol::{Revision, UpdateHeader};

use crate::entries::EntryTable;
use crate::updates::budget::{OutPacket, UpdateBudget};
use crate::updates::encode::encode_packed_list;
use crate::updates::lists::{has_delta, is_recent};
use crate::updates::packing::{PackedBlocks, Packing};

/// The newest list that was packed, and the one that is being packed.
#[derive(Debug, Default)]
pub(super) struct PackedList {
    newest: Option<(UpdateHeader, OutPacket)>,
    under_way: Option<(UpdateHeader, Packing)>,
}

impl PackedList {
    /// A list that is recent enough, and its state; `None` while one is being packed, a part at
    /// each call.
    pub(super) fn packet(
        &mut self,
        entries: &EntryTable,
        header: UpdateHeader,
        kept: &mut PackedBlocks,
        memory: &UpdateBudget,
    ) -> Option<(OutPacket, Revision)> {
        if let Some((of, packet)) = &self.newest
            && is_recent(entries, of, &header)
        {
            return Some((packet.clone(), of.revision));
        }
        let (_, packing) = self.under_way.get_or_insert_with(|| {
            let records = entries.records_at(header.revision.rev).into_iter().cloned().collect();
            (header, Packing::new(records))
        });
        if !packing.advance(kept) {
            return None;
        }
        let (of, packing) = self.under_way.take()?;
        // Much may have changed meanwhile. A peer that knows this list can still be told of it.
        if !has_delta(entries, &of, &header) {
            return None;
        }
        let packet = OutPacket::reserved(encode_packed_list(&packing, &of), memory);
        self.newest = Some((of, packet.clone()));
        Some((packet, of.revision))
    }
}
