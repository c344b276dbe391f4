//! Log lines about this node in the registry: the address that others are told, and what the
//! Distributor refuses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net::{MAX_ESCAPED_BYTES, error, escaped, info, warn};
use protocol::Response;
use tokio::time::Instant;

use super::questions::uses_too_much;
use super::{RegistryClient, RegistrySession};
use crate::discovery::own_address::{is_translated, unreachable};
use crate::discovery::registration::NodeDescription;
use crate::routing::subscriptions::is_event;

/// The reason of a rejection when the instance id does not belong to the secret; and the pause
/// before the next attempt.
const NOT_YOURS: &str = "not_yours";
const NOT_YOURS_PAUSE: Duration = Duration::from_secs(10);

/// The reason of a rejection when too many nodes register at once. The Distributor gives each of
/// them a moment of its own; earlier ones told all of them to come back at once.
const BUSY: &str = "busy";
const BUSY_SPREAD_TIME: Duration = Duration::from_millis(50);

/// How long to wait before registering again after a rejection that says `retry_after`. `random` is
/// at most 1.
fn return_pause(reason: &str, retry_after: Duration, random: f64) -> Duration {
    match reason {
        BUSY => retry_after.max(BUSY_SPREAD_TIME) + BUSY_SPREAD_TIME.mul_f64(random),
        // All nodes are told the same, and must not return together.
        _ => retry_after.max(BUSY_SPREAD_TIME).mul_f64(1.0 + random),
    }
}

impl RegistryClient {
    /// Warns when others cannot call the address that the Distributor lists.
    pub(super) fn warn_of_reach(&mut self, here: IpAddr, there: IpAddr) {
        let NodeDescription { name, port, listen, advert, .. } = &self.description;
        let Some(listen) = listen.filter(|_| advert.advertise.is_none()) else { return };
        if let Some(why) = unreachable(listen, here, *port)
            && self.warned.replace(there) != Some(there)
        {
            warn!(%name, distributor = %self.address, "{why}");
        }
    }

    /// Warns once that a Distributor of version 1 shows internal routes of this node to old
    /// gateways.
    pub(super) fn warn_of_internal_routes(&mut self) {
        let NodeDescription { name, routes, advert, .. } = &self.description;
        let Some(stated) = &advert.routes else { return };
        let mut adverts = routes.iter().zip(stated.by_position(routes.len()));
        let has_internal = adverts.any(|(route, advert)| !is_event(route) && !advert.public);
        if has_internal && !std::mem::replace(&mut self.has_logged_old_distributor, true) {
            warn!(
                %name, distributor = %self.address,
                "the Distributor is of version 1, and shows internal routes of this node to gateways of version 1, which \
                 answer clients with them: upgrade it"
            );
        }
    }

    /// Says so once when the Distributor lists another address than this machine has.
    pub(super) fn log_translation(&mut self, session: &mut RegistrySession<'_>) {
        let Some(here) = session.here.filter(|_| self.description.advert.advertise.is_none()) else { return };
        let Some(listed) = self.view.with_replica(|replica| replica.host_of(&self.id)) else { return };
        session.here = None;
        if is_translated(here, listed) && self.translated.replace(listed) != Some(listed) {
            let (name, told) = (&self.description.name, SocketAddr::new(listed, self.description.port));
            info!(
                %name, distributor = %self.address,
                "others are told {told}: the Distributor sees this node there, not at {here}. If that port does not lead \
                 here, advertise another (.advertise(…), NODE_ADVERTISE)"
            );
        }
    }

    /// Warns of entries that make no node. A version 1 Distributor may list such.
    pub(super) fn warn_of_unreadable(&self, session: &mut RegistrySession<'_>) {
        let unreadable = self.view.with_replica(|replica| replica.unreadable());
        if unreadable > 0 {
            session.complain(&format!(
                "{unreadable} entries of the list make no node: a host or a usable port is missing"
            ));
        }
    }

    pub(super) fn handle_rejection(&self, session: &mut RegistrySession<'_>, answer: &Response<'_>) {
        let (reason, message) = (answer.reason.as_deref().unwrap_or_default(), answer.message.as_deref());
        if answer.status >= 400 {
            let after = answer.retry_after.map(|after| return_pause(reason, after, fastrand::f64()));
            session.register_at = after.map(|after| Instant::now() + after);
        }
        if reason == NOT_YOURS {
            session.register_at = Some(Instant::now() + NOT_YOURS_PAUSE);
            if let Some(suppressed) = session.bad.allow(reason, Instant::now().into_std()) {
                error!(
                    name = %self.description.name, id = %self.id, suppressed,
                    "not listed: the instance id belongs to another process. Start this node anew; if that does not help, \
                     something on the way to {} changes packets", self.address
                );
            }
            return;
        }
        if uses_too_much(reason) && self.view.needs().halve_used_urls() {
            // Many nodes may be told so at once, when a Distributor starts.
            let pause = return_pause(reason, answer.retry_after.unwrap_or_default(), fastrand::f64());
            session.register_at = Some(Instant::now() + pause);
            return self.warn_of_many(session, reason);
        }
        if let Some(suppressed) = session.bad.allow(reason, Instant::now().into_std()) {
            let (name, message) = (&self.description.name, message.unwrap_or_default());
            let retry_after_s = answer.retry_after.map(|after| after.as_secs_f32());
            let (reason, message) = (escaped(reason, MAX_ESCAPED_BYTES), escaped(message, 2 * MAX_ESCAPED_BYTES));
            warn!(%name, ?reason, retry_after_s, suppressed, "the Distributor says: {message}");
        }
    }
}

impl RegistrySession<'_> {
    /// Logs that something which the Distributor sent is ignored.
    pub(super) fn complain(&mut self, error: &str) {
        if let Some(suppressed) = self.bad.allow(error, Instant::now().into_std()) {
            let error = escaped(error, MAX_ESCAPED_BYTES);
            warn!(?error, suppressed, "a packet of the Distributor is ignored; what was known before stays in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_comes_back_at_its_own_moment() {
        for (reason, ms, random, expected) in [
            ("busy", 1600, 0.0, 1600),
            ("busy", 1600, 1.0, 1650),
            ("busy", 0, 0.5, 75),
            ("draining", 3000, 0.5, 4500),
            ("unknown_name", 0, 0.0, 50),
        ] {
            let pause = return_pause(reason, Duration::from_millis(ms), random);
            assert_eq!(pause, Duration::from_millis(expected), "{reason} {ms}");
        }
    }
}
