//! The packets of the Distributor, and what each of them changes.

use std::time::Duration;

use net::{debug, info};
use protocol::{
    ListUpdate, NEEDED_URI, PING_URI, Packet, Ping, REGISTRY_URI, Response, UnpackedBlocks, UpdateOutcome, VISIBLE_URI,
    Version, Visibility, is_copy_request, write_copy, write_pong,
};
use tokio::time::Instant;

use super::{RegistryClient, RegistrySession, SILENCE_TIMEOUT};
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
            self.log_connected(&packet);
        }
        session.is_v2 |= packet.version() == Version::V2;
        match (packet.uri(), packet.method()) {
            (REGISTRY_URI, "GET" | "PATCH") if is_copy_request(&packet) => self.write_copy(session),
            (REGISTRY_URI, "GET" | "PATCH") => {
                let answer = Response::from_packet(&packet);
                if packet.version() != Version::V2 || answer.reason.is_none() {
                    self.apply_update(session, &packet);
                } else if !self.handle_refused_question(session, &packet, &answer) {
                    self.handle_rejection(session, &answer);
                }
            }
            (PING_URI, _) => self.handle_ping(session, &Ping::from_packet(&packet)),
            (NEEDED_URI, _) => self.handle_answer(session, &packet),
            (VISIBLE_URI, _) => self.handle_visibility(session, &packet),
            _unknown => {}
        }
    }

    /// Logs that the Distributor is back, if the log has said that it is gone.
    fn log_connected(&mut self, first: &Packet<'_>) {
        if !std::mem::take(&mut self.has_logged_loss) {
            return;
        }
        // A rejection states its own reason.
        let is_rejected = first.version() == Version::V2 && Response::from_packet(first).reason.is_some();
        let at = &self.address;
        if is_rejected {
            info!(distributor = %at, name = %self.description.name, "connected");
        } else {
            info!(name = %self.description.name, "connected: registered at {at}");
        }
    }

    /// Sends all that this node knows to a Distributor that has restarted, and asks for it.
    fn write_copy(&self, session: &mut RegistrySession<'_>) {
        self.view.with_replica(|replica| {
            if let Some(revision) = replica.revision() {
                write_copy(&mut session.unsent, revision, replica.digest(), replica.entries());
            }
        });
    }

    /// Applies a list or a delta, and requests a list if one before it is missing.
    fn apply_update(&mut self, session: &mut RegistrySession<'_>, packet: &Packet<'_>) {
        let mut unpacked = UnpackedBlocks::default();
        let update = match ListUpdate::parse(packet, &mut unpacked) {
            Ok(update) => update,
            Err(error) => return session.complain(&error.to_string()),
        };
        let header = match &update {
            ListUpdate::Whole(list) => list.header,
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
            UpdateOutcome::Gap => session.request_list(Instant::now()),
        }
        // Only lists of a Distributor of version 1 have such entries.
        if matches!(update, ListUpdate::Whole(_)) {
            self.warn_of_unreadable(session);
            if header.is_none() {
                self.warn_of_internal_routes();
            }
        }
        if header.is_some_and(|header| header.ack) {
            write_pong(&mut session.unsent, self.pong());
        }
    }

    /// Answers a ping, and requests a list if the digest of the same revision is another one.
    fn handle_ping(&mut self, session: &mut RegistrySession<'_>, ping: &Ping) {
        let now = Instant::now();
        session.silence = SILENCE_TIMEOUT.max(Duration::from_millis(ping.every).saturating_mul(3));
        session.silent_at = Some(now + session.silence);
        write_pong(&mut session.unsent, self.pong());
        let drifted = self.view.with_replica(|replica| {
            ping.revision == replica.revision() && ping.digest.is_some_and(|digest| digest != replica.digest())
        });
        if drifted && self.description.interests.is_none() && !self.view.needs().is_partial() {
            session.request_list(now);
        }
    }

    /// Tells all that have asked how many nodes know of this one's registration.
    fn handle_visibility(&mut self, session: &mut RegistrySession<'_>, packet: &Packet<'_>) {
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
}
