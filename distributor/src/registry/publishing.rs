//! The states that peers are being told, and the update that each peer should be sent.

use std::time::Instant;

use bytes::Bytes;
use protocol::{Key, Revision, UpdateHeader, Version};

use crate::entries::SessionId;
use crate::entries::interests::view::View;
use crate::registry::Registry;
use crate::updates::budget::OutPacket;
use crate::updates::lists::{ListRequest, NextUpdate, PeerState, PublishedState};

/// The states that are being published.
#[derive(Debug, Default)]
pub(super) struct PublishedStates {
    /// The list that version 1 peers are being sent.
    legacy: Option<(OutPacket, Revision)>,
    /// The state that version 2 peers are being told.
    latest: PublishedState,
}

impl Registry {
    /// Publishes the present state to peers of this version, and returns it.
    pub(crate) fn publish(&mut self, version: Version) -> Revision {
        match version {
            Version::V1 => self.published.legacy = Some(self.lists.legacy(&self.entries, &self.config)),
            Version::V2 => {
                self.entries.confirm_returned();
                let published = PublishedState { header: self.header(), is_whole: self.entries.is_whole() };
                let before = std::mem::replace(&mut self.published.latest, published);
                self.lists.shared_delta(&self.entries, before.header.revision, published.header);
            }
        }
        self.revision()
    }

    /// Publishes the present state to peers of version 2 if what is published is earlier than this
    /// state, which one of them has been told.
    pub(crate) fn publish_since(&mut self, told: Option<Revision>) {
        let published = self.published.latest.header.revision;
        if told.is_some_and(|told| told.epoch == published.epoch && told > published) {
            self.publish(Version::V2);
        }
    }

    /// The list that version 1 peers are being sent.
    pub(crate) fn legacy(&mut self) -> Option<(OutPacket, Revision)> {
        self.published.legacy.clone()
    }

    /// The packet that a version 2 peer has to be sent.
    pub(crate) fn update_for(&mut self, now: Instant, known: &PeerState) -> NextUpdate {
        let header = self.published.latest.header;
        let is_known = header.revision.epoch == self.entries.revision().epoch
            && self.entries.base(header.revision.into()).is_some();
        if !is_known {
            // In the middle of a round, more has changed than the changelog keeps.
            self.publish(Version::V2);
        }
        self.count_unconfirmed(|registry| {
            registry.lists.update_for(now, &registry.entries, registry.published.latest, known)
        })
    }

    /// The list under the key of a peer's request.
    pub(crate) fn list_for(&mut self, now: Instant, version: Version, key: &Key, view: &View) -> NextUpdate {
        let header = self.header();
        self.count_unconfirmed(|registry| {
            registry.lists.list_for(
                now,
                &registry.entries,
                &registry.config,
                header,
                ListRequest { version, key, view },
            )
        })
    }

    /// Begins to send a large packet to a peer, or returns when to ask again. Once it is written,
    /// call [`record_sent`](Self::record_sent).
    pub(crate) fn try_begin(&mut self, now: Instant, session: SessionId) -> Result<(), Instant> {
        self.transfers.try_begin(now, session)
    }

    /// A packet for one peer, whose bytes count until it has read them.
    pub(crate) fn reserved(&self, packet: Bytes) -> OutPacket {
        self.lists.reserved(packet)
    }

    /// Records that a list or change has been written to a peer, or is so short that its socket
    /// takes it.
    pub(crate) fn record_sent(&mut self, session: SessionId) {
        self.transfers.end(session);
    }

    /// Records whether this update is a list without the unconfirmed entries: its peer has to be
    /// told when those nodes register.
    fn count_unconfirmed(&mut self, next_update: impl FnOnce(&mut Self) -> NextUpdate) -> NextUpdate {
        let update = next_update(self);
        if matches!(&update, NextUpdate::Packet(_, told) if told.confirmed_only) {
            self.entries.publish_partly();
        }
        update
    }

    pub(super) fn header(&self) -> UpdateHeader {
        UpdateHeader {
            revision: self.entries.revision(),
            digest: Some(self.entries.digest()),
            warming: self.warmup.is_warming(),
            ack: self.visibility.is_open(),
            part: false,
        }
    }
}
