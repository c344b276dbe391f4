//! The packets of the Distributor, and what each of them changes.

use std::time::Duration;

use net::{debug, info};
use protocol::{
    ListUpdate, NEEDED_URI, PING_URI, Packet, Ping, REGISTRY_URI, Response, UnpackedBlocks, UpdateOutcome, VISIBLE_URI,
    Version, Visibility, is_copy_request, write_copy, write_pong,
};
use tokio::time::Instant;

use super::{RegistryClient, RegistrySession, SILENCE};
use crate::discovery::foreign_server::by_first_packet;

impl RegistryClient {
    /// Handles one packet. A malformed packet is logged and changes nothing.
    pub(super) fn handle_packet(&mut self, session: &mut RegistrySession<'_>, frame: &[u8]) {
        let packet = match Packet::parse(frame) {
            Ok(packet) => packet,
            Err(error) => return session.complain(&error.to_string()),
        };
        if !session.has_heard_distributor {
            session.foreign_server = by_first_packet(&packet);
            if session.foreign_server.is_some() {
                return;
            }
            session.has_heard_distributor = true;
            if std::mem::take(&mut self.loss_logged) {
                // A rejection states its own reason.
                let is_rejected = packet.version() == Version::V2 && Response::from_packet(&packet).reason.is_some();
                let at = &self.address;
                if is_rejected {
                    info!(distributor = %at, name = %self.identity.name, "connected");
                } else {
                    info!(name = %self.identity.name, "connected: registered at {at}");
                }
            }
        }
        session.is_v2 |= packet.version() == Version::V2;
        let now = Instant::now();
        match (packet.uri(), packet.method()) {
            (REGISTRY_URI, "GET" | "PATCH") if is_copy_request(&packet) => {
                self.view.with_replica(|replica| {
                    if let Some(revision) = replica.revision() {
                        write_copy(&mut session.unsent, revision, replica.digest(), replica.entries());
                    }
                });
            }
            (REGISTRY_URI, "GET" | "PATCH") => {
                let answer = Response::from_packet(&packet);
                if packet.version() == Version::V2 && answer.reason.is_some() {
                    if !self.handle_refused_question(session, &packet, &answer) {
                        self.handle_rejection(session, &answer);
                    }
                    return;
                }
                let mut unpacked = UnpackedBlocks::default();
                let update = match ListUpdate::parse(&packet, &mut unpacked) {
                    Ok(update) => update,
                    Err(error) => return session.complain(&error.to_string()),
                };
                let header = match &update {
                    ListUpdate::Snapshot(snapshot) => snapshot.header,
                    ListUpdate::Delta(delta) => Some(delta.header),
                };
                let outcome = self.view.apply_update(&update);
                debug!(?outcome, ?header, "update");
                match outcome {
                    UpdateOutcome::Changed | UpdateOutcome::Same => {
                        session.list_requested_at = None;
                        self.log_translation(session);
                    }
                    UpdateOutcome::Stale => {}
                    UpdateOutcome::Gap => session.request_list(now),
                }
                // Only lists of a Distributor of version 1 have such entries.
                if matches!(update, ListUpdate::Snapshot(_)) {
                    self.warn_of_unreadable(session);
                }
                if header.is_some_and(|header| header.ack) {
                    write_pong(&mut session.unsent, self.pong());
                }
            }
            (PING_URI, _) => {
                let ping = Ping::from_packet(&packet);
                session.silence = SILENCE.max(Duration::from_millis(ping.every).saturating_mul(3));
                session.silent_at = Some(now + session.silence);
                write_pong(&mut session.unsent, self.pong());
                let drifted = self.view.with_replica(|replica| {
                    ping.revision == replica.revision() && ping.digest.is_some_and(|digest| digest != replica.digest())
                });
                if drifted && self.identity.interests.is_none() && !self.view.needs().is_part() {
                    session.request_list(now);
                }
            }
            (NEEDED_URI, _) => self.handle_answer(session, &packet),
            (VISIBLE_URI, _) => {
                let params = packet.params.map_or("null", |params| params.get());
                let visibility = match serde_json::from_str::<Visibility>(params) {
                    Ok(visibility) => visibility,
                    Err(error) => return session.complain(&error.to_string()),
                };
                for request in self.waiting.drain(..) {
                    // The requester may have gone.
                    let _ = request.answer.send(visibility.clone());
                }
            }
            _unknown => {}
        }
    }
}
