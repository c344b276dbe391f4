//! Log lines about nodes and registrations. Each kind has a limit.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use net::{Escaped, MAX_ESCAPED_BYTES, escaped};
use protocol::{IgnoredParts, LeaveReason, Version, write_refusal};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::OversizedList;
use crate::entries::{Record, RegisterOutcome, RegistrationChange, SessionId};
use crate::peer::notices::{NoticeKind, Warning};
use crate::registry::{Admission, Rejection, SharedUrl, UnreachableNotice};
use crate::shell::shared::Shared;

/// Log lines of one kind about nodes that come and go, in each `LOG_PERIOD`. The next line says how
/// many were suppressed, and `distributor why` shows all.
pub(super) const MAX_JOIN_LINES: u32 = 100;

/// A registration, for its log line.
pub(super) struct RegistrationLog<'a> {
    pub(super) nodes: usize,
    pub(super) name: &'a str,
    /// The address at which lists show the node.
    pub(super) address: &'a str,
    /// The address from which the node has registered.
    pub(super) seen: IpAddr,
    pub(super) urls: usize,
    pub(super) version: Version,
}

impl Shared {
    /// Logs the outcome of a registration.
    pub(super) fn log_registration(
        &self,
        now: std::time::Instant,
        logged: &RegistrationLog<'_>,
        admission: &Admission,
        warns_of_loopback: bool,
    ) {
        let RegistrationLog { nodes, name, address, seen, urls, version } = *logged;
        let name = shown_name(name);
        let event = match admission {
            Admission::Listed(RegistrationChange { outcome: RegisterOutcome::Joined, .. }) => Some("joined"),
            Admission::Listed(RegistrationChange { outcome: RegisterOutcome::Updated, .. }) => Some("updated"),
            Admission::Listed(registered @ RegistrationChange { outcome: RegisterOutcome::Unchanged, .. }) => {
                registered.retained.map(|_| "came back")
            }
            Admission::Deferred(_) => Some("deferred"),
        };
        match (event.and_then(|event| self.join_log.allow(event, now)), admission) {
            (Some(suppressed), Admission::Listed(_)) => {
                let event = event.unwrap_or_default();
                info!(nodes, %name, address, urls, version = ?version, suppressed, "{event}");
            }
            (Some(suppressed), Admission::Deferred(wait)) => {
                let wait_s = wait.as_secs_f32();
                info!(%name, address, wait_s, suppressed, "deferred: the node comes and goes, or changes, too often");
            }
            (None, _) => debug!(nodes, %name, address, "registered"),
        }
        if warns_of_loopback && let Some(suppressed) = self.warnings.allow_for("loopback", address, now) {
            warn!(%name, address, suppressed, "nodes on other machines cannot call this node: it listens \
                  only on the loopback of its own machine; let it listen on {seen} or 0.0.0.0");
        }
    }

    /// Logs that services of two names offer one url.
    pub(super) fn warn_of_shared_url(
        &self,
        now: std::time::Instant,
        logged: &RegistrationLog<'_>,
        shared_url: &SharedUrl,
    ) {
        let RegistrationLog { name, address, .. } = *logged;
        let SharedUrl { url, other, count } = shared_url;
        if let Some(suppressed) = self.warnings.allow_for("shared_url", url, now) {
            let (name, other, url) = (shown_name(name), shown_name(other), escaped(&**url, MAX_ESCAPED_BYTES));
            warn!(%name, address, %other, %url, urls = count, suppressed, "services \
                  {other} and {name} both offer {url}: its calls go to either; rename one of the urls");
        }
    }

    /// Logs that a peer cannot connect to a node, and tells the node if its version allows that.
    pub(super) fn report_unreachable(&self, now: std::time::Instant, notice: &UnreachableNotice) {
        let UnreachableNotice { session, record, peer: (peer, peer_at), why } = notice;
        let (address, reason, what) = (record.address(), why.as_str(), why.describe());
        if let Some(suppressed) = self.warnings.allow_for("unreachable", record.id, now) {
            let (name, peer) = (shown_name(&record.name), shown_name(peer));
            warn!(%name, address, %peer, peer_at, reason, suppressed, "a peer cannot call a node: {what}");
        }
        let message = format!(
            "{peer} at {peer_at} cannot call this node at {address}: {what}. Listen where others can reach it, or advertise the \
             address at which it can be called"
        );
        self.notify(*session, Warning::Unreachable, &message);
    }

    /// Logs that all peers ignore a part of a registration, or that there is no room for a part of
    /// it, and tells the node by this warning.
    pub(super) fn report_ignored(
        &self,
        now: std::time::Instant,
        session: SessionId,
        logged: &RegistrationLog<'_>,
        warning: Warning,
        ignored: &IgnoredParts,
    ) {
        let RegistrationLog { name, address, .. } = *logged;
        let IgnoredParts { first, count } = ignored;
        if let Some(suppressed) = self.warnings.allow_for("ignored", (address, first), now) {
            let (name, first) = (shown_name(name), escaped(&**first, 2 * MAX_ESCAPED_BYTES));
            warn!(%name, address, parts = count, suppressed, "a part of a registration is ignored: {first}");
        }
        self.notify(session, warning, &described(ignored));
    }

    /// Tells a node something that it should know. A node of version 1 is told nothing.
    fn notify(&self, session: SessionId, warning: Warning, message: &str) {
        let Some(node) = self.follower(session) else { return };
        let mut out = BytesMut::new();
        write_refusal(&mut out, None, 200, warning.reason(), message, None);
        node.outbox().notify(NoticeKind::Warning(warning), out.freeze());
        node.wake.notify_one();
    }

    /// Logs that a packet of a version 1 peer is skipped. The peer is told nothing.
    pub(super) fn warn_of_skip(&self, peer: SocketAddr, rejection: &Rejection) {
        let Rejection { status, reason, message, .. } = rejection;
        self.counters.record_rejection(*status, reason);
        if let Some(suppressed) = self.rejection_log.allow_for(reason, peer.ip(), Instant::now().into_std()) {
            let message = escaped(message, MAX_ESCAPED_BYTES);
            warn!(%peer, reason, suppressed, "a packet is skipped: {message}");
        }
    }

    /// Logs that a version 1 peer on this machine is assumed to read within a time.
    pub(super) fn warn_of_hidden(&self, peer: SocketAddr) {
        if let Some(suppressed) = self.warnings.allow_for("hidden", peer.ip(), Instant::now().into_std()) {
            let read_time = self.config.legacy_read_time;
            warn!(%peer, suppressed, "the system does not show what this version 1 peer has read; \
                  it is given {read_time:?} for each list (--legacy-read-time)");
        }
    }

    /// Logs that a node is suspect, or not any more.
    pub(super) fn log_liveness(&self, record: &Record) {
        let event = if record.is_suspect { "suspect" } else { "trusted" };
        if let Some(suppressed) = self.join_log.allow(event, Instant::now().into_std()) {
            let (name, address) = (shown_name(&record.name), record.address());
            match record.is_suspect {
                true => {
                    info!(%name, address, suppressed, "suspect: the node does not answer pings or read, or calls to it fail; other providers are preferred")
                }
                false => info!(%name, address, suppressed, "trusted: the node is not suspect any more"),
            }
        }
    }

    /// Logs that a node has left, or is retained for a while.
    pub(super) fn log_removal(
        &self,
        nodes: usize,
        peer: SocketAddr,
        record: &Record,
        reason: LeaveReason,
        is_retained: bool,
    ) {
        let (name, reason) = (shown_name(&record.name), reason.as_str());
        let (event, message) = match is_retained {
            true => ("kept", "lost, as were many others at once: the node stays listed for a while"),
            false => ("left", "left"),
        };
        if let Some(suppressed) = self.join_log.allow(event, Instant::now().into_std()) {
            info!(nodes, %name, %peer, reason, suppressed, "{message}");
        }
    }

    /// Logs that a peer is not listed. A version 1 peer is not told why, so its operators find the
    /// reason here.
    pub(crate) fn warn_of_rejection(&self, peer: SocketAddr, rejection: &Rejection) {
        let Rejection { reason, message, .. } = rejection;
        if let Some(suppressed) = self.rejection_log.allow_for(reason, peer.ip(), Instant::now().into_std()) {
            let message = escaped(message, MAX_ESCAPED_BYTES);
            warn!(%peer, reason, suppressed, "a registration is refused: {message}");
        }
    }

    /// Logs once, with the node's name, that version 1 peers can no longer read the whole list.
    pub(super) fn warn_of_size(&self, name: Escaped<&str>) {
        let mut state = self.lock();
        let outgrows = state.registry.legacy_bytes() > self.config.legacy_list_bytes;
        if outgrows == state.warned_of_size {
            return;
        }
        state.warned_of_size = outgrows;
        let nodes = state.registry.nodes();
        drop(state);
        if outgrows {
            let limit = self.config.legacy_list_bytes;
            let get = match self.config.oversized_list {
                OversizedList::Truncate => "get as many nodes as fit, at least one of each name first",
                OversizedList::Send => "still get the whole list, which may crash them",
            };
            warn!(nodes, %name, limit, "with this node the list outgrows what version 1 peers can read: they {get} (--oversized-list)");
        }
    }
}

/// The ignored parts of a registration, for its node and its history.
pub(super) fn described(ignored: &IgnoredParts) -> String {
    let IgnoredParts { first, count } = ignored;
    let more = if *count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    format!("a part of the registration is ignored: {first}{more}")
}

/// A node's name, escaped for the log: names of version 1 nodes may be any text.
pub(super) fn shown_name(name: &str) -> Escaped<&str> {
    escaped(name, MAX_ESCAPED_BYTES)
}
