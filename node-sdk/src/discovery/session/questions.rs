//! The questions to the Distributor of a node with a partial view.

use std::time::Duration;

use net::warn;
use protocol::{Key, Packet, Response, read_needed, write_need};
use tokio::time::Instant;

use super::{RegistryClient, RegistrySession};

/// The reason of a rejection when this node uses more urls than the Distributor takes of one node.
const TOO_MANY_NEEDS: &str = "too_many_needs";
/// The reasons when the Distributor has no room for what this node, or its address, offers or uses.
const FULL: [&str; 2] = ["registry_full", "address_full"];
/// The reason of a notice when the Distributor has listed this node, and has no room for what it
/// uses.
const USES_FULL: &str = "uses_full";

/// Whether the Distributor may take less of what this node uses.
pub(super) fn uses_too_much(reason: &str) -> bool {
    [TOO_MANY_NEEDS, USES_FULL].contains(&reason) || FULL.contains(&reason)
}

/// How long to wait before asking again when the Distributor is busy and does not say how long.
const BUSY_WAIT: Duration = Duration::from_millis(100);

impl RegistryClient {
    /// The used urls that this node registers, and whether it has a partial view.
    pub(super) fn uses_to_register(&self) -> (Option<Vec<String>>, bool) {
        let needs = self.view.needs();
        if !needs.can_ask() {
            return (None, false);
        }
        let uses = self.view.used_urls();
        needs.take_urls_to_register();
        (Some(uses), needs.is_partial())
    }

    /// Writes the next question, if it is time. Returns when to look for one again.
    pub(super) fn send_question(&mut self, session: &mut RegistrySession<'_>) -> Option<Instant> {
        let now = Instant::now();
        if self.view.needs().make_room(now) {
            self.register(session);
        }
        if let Some((key, routes)) = self.view.needs().next_question(now) {
            write_need(&mut session.unsent, key, routes.iter().map(|route| &**route));
        }
        self.view.needs().next_question_at()
    }

    pub(super) fn handle_answer(&mut self, session: &mut RegistrySession<'_>, packet: &Packet<'_>) {
        let (key, answer) = (question_key(packet), read_needed(packet.params));
        let (Some(key), Some(answer)) = (key, answer) else {
            return session.complain("an answer that cannot be read");
        };
        self.view.mark_unsaved();
        if self.view.needs().answer(key, &answer, Instant::now()) {
            self.register(session);
        }
    }

    /// Returns whether it was a question that is refused.
    pub(super) fn handle_refused_question(
        &mut self,
        session: &mut RegistrySession<'_>,
        packet: &Packet<'_>,
        answer: &Response<'_>,
    ) -> bool {
        let needs = self.view.needs();
        let Some(key) = question_key(packet).filter(|key| needs.is_question(*key)) else { return false };
        match answer.reason.as_deref().unwrap_or_default() {
            "busy" => needs.postpone(key, Instant::now() + answer.retry_after.unwrap_or(BUSY_WAIT)),
            TOO_MANY_NEEDS if needs.shrink_question(key, Instant::now()) => {}
            reason if uses_too_much(reason) && needs.halve_used_urls() => {
                needs.postpone(key, Instant::now());
                self.warn_of_many(session, reason);
                self.register(session);
            }
            TOO_MANY_NEEDS => needs.refuse(key, "the Distributor takes no more urls that nodes use (--max-urls)"),
            reason if FULL.contains(&reason) => needs.refuse(key, "the Distributor has no room for what nodes use"),
            _other => {
                needs.refuse(key, "the Distributor refuses the question");
                return false;
            }
        }
        true
    }

    /// Warns that this node uses more urls than the Distributor takes, for this reason.
    pub(super) fn warn_of_many(&self, session: &mut RegistrySession<'_>, reason: &str) {
        if let Some(suppressed) = session.bad.allow(reason, Instant::now().into_std()) {
            let name = &self.description.name;
            let limit = if reason == TOO_MANY_NEEDS { "--max-urls" } else { "its room for all nodes" };
            warn!(%name, reason, suppressed, "this node uses more urls than the Distributor takes \
                  ({limit}); those that it has not used for longest are asked for when they are used again");
        }
    }
}

fn question_key(packet: &Packet<'_>) -> Option<u64> {
    packet.key.as_ref().and_then(Key::number)
}
