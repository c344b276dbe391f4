//! Who is there, and what is done about it: every decision of the Distributor that needs no socket.

mod admission;
mod damping;
mod deferred;
pub(crate) mod history;
pub(crate) mod liveness;
mod mass_loss;
mod restore;
mod suspicions;
mod visibility;
pub(crate) mod warmup;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{Digest, HistoryEvent, Key, LeaveReason, ResumePoint, Revision, UpdateHeader, Version, write_ping};

use crate::config::Config;
use crate::entries::view::View;
use crate::entries::{EntryTable, NodeIdentity, Record, SessionId};
pub(crate) use crate::registry::admission::{Accepted, Admission, Refusal, RegisterError};
use crate::registry::damping::Damping;
use crate::registry::deferred::{Deferred, DeferredRegistrations};
use crate::registry::history::History;
use crate::registry::liveness::{Liveness, Verdict};
use crate::registry::mass_loss::MassLoss;
use crate::registry::suspicions::Suspicions;
use crate::registry::visibility::{Resolved, VisibilityWaits};
use crate::registry::warmup::{RETURN_WITHIN, Warmup};
use crate::token_bucket::TokenBucket;
use crate::updates::budget::{Budget, OutPacket};
use crate::updates::lists::{ListCache, NextUpdate, PeerState, TargetState, legacy_bytes};

/// Between two rounds in which those who did not come back are removed, and the least that one round removes.
const REMOVAL_PERIOD: Duration = Duration::from_millis(250);
const LEAST_REMOVALS: usize = 16;
/// A round removes this part of all at most, so that callers find out about a mistake before everybody is gone.
const REMOVAL_SHARE: usize = 20;

/// The state of the Distributor.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Config,
    entries: EntryTable,
    lists: ListCache,
    damping: Damping,
    mass_loss: MassLoss,
    warmup: Warmup,
    history: History,
    visibility: VisibilityWaits,
    pub(crate) liveness: Liveness,
    admission_rate: TokenBucket,
    /// What the interests of all nodes take.
    interest_budget: Budget,
    tenures: HashMap<SessionId, Tenure>,
    deferred: DeferredRegistrations,
    /// Sessions that are out, because their instance has registered on a newer one; the shell has not been told of these yet.
    superseded: Vec<SessionId>,
    suspicions: Suspicions,
    /// What a node has handed over so far of what it knows.
    copy: Vec<Record>,
    /// What peers of either version are being told now.
    targets: Targets,
    next_removal: Instant,
    draining: bool,
}

/// The states to which everybody is being led.
#[derive(Debug, Default)]
struct Targets {
    legacy: Option<(OutPacket, Revision)>,
    news: TargetState,
}

#[derive(Debug)]
struct Tenure {
    since: Instant,
    /// Made with the first update.
    updates: Option<Box<TokenBucket>>,
}

/// A node that has gone.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) record: Arc<Record>,
    /// It stays listed for a while: too many have vanished at once.
    pub(crate) is_retained: bool,
}

/// What time brings.
#[derive(Debug, Default)]
pub(crate) struct DueActions {
    /// The node to ask for what it knows.
    pub(crate) copy_from: Option<SessionId>,
    /// Barriers to tell of.
    pub(crate) resolved: Vec<(Resolved, Vec<String>)>,
    /// Nodes that did not come back.
    pub(crate) gone: Vec<Arc<Record>>,
    /// Lists are complete from now on.
    pub(crate) warm: bool,
}

impl Registry {
    /// A roster that knows nobody. `epoch` should be higher than any before.
    pub(crate) fn new(config: Config, memory: Budget, now: Instant, epoch: u64) -> Self {
        Self {
            entries: EntryTable::new(epoch),
            lists: ListCache::new(memory),
            damping: Damping::default(),
            mass_loss: MassLoss::default(),
            warmup: Warmup::new(now),
            history: History::default(),
            visibility: VisibilityWaits::default(),
            liveness: Liveness::new(config.pings_per_second),
            admission_rate: TokenBucket::new(config.registrations_per_second, config.registration_burst),
            interest_budget: Budget::new(config.max_list_bytes),
            tenures: HashMap::new(),
            deferred: DeferredRegistrations::default(),
            superseded: Vec::new(),
            suspicions: Suspicions::default(),
            copy: Vec::new(),
            targets: Targets::default(),
            next_removal: now,
            draining: false,
            config,
        }
    }

    /// The newest state.
    pub(crate) fn revision(&self) -> Revision {
        self.entries.revision()
    }

    /// How many nodes are listed.
    pub(crate) fn nodes(&self) -> usize {
        self.entries.len()
    }

    /// How many of them give no sign of life.
    pub(crate) fn suspects(&self) -> usize {
        self.entries.records().filter(|record| record.suspect).count()
    }

    /// How many registrations wait.
    pub(crate) fn held_back(&self) -> usize {
        self.deferred.len()
    }

    /// How many events are remembered, and the bytes that they take.
    pub(crate) fn history_size(&self) -> (usize, usize) {
        (self.history.len(), self.history.bytes())
    }

    /// Bytes of the list, with those of registrations that wait; and of changes that are remembered.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.entries.list_bytes() + self.deferred.bytes(), self.entries.change_bytes())
    }

    /// What the interests of all nodes take, and may take.
    pub(crate) fn interest_budget(&self) -> &Budget {
        &self.interest_budget
    }

    /// All that is listed.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.entries.records()
    }

    /// An earlier list is about to come: nobody should be told anything before.
    pub(crate) fn is_restoring(&self) -> bool {
        self.warmup.is_restoring()
    }

    /// Peers of this version are told no list for now: an earlier one is about to come, or an old peer, which forgets what a list
    /// does not show, would be shown less than it knows.
    pub(crate) fn defers_updates(&self, version: Version) -> bool {
        self.is_restoring() || version == Version::V1 && !self.entries.is_whole()
    }

    /// What makes followers have to be told when it is another one than before.
    pub(crate) fn published(&self) -> (Revision, [bool; 2]) {
        (self.revision(), [self.defers_updates(Version::V1), self.defers_updates(Version::V2)])
    }

    /// Whether a peer that says what it holds can be told what has changed since.
    pub(crate) fn can_resume_from(&self, have: ResumePoint) -> bool {
        have.revision.epoch != self.entries.revision().epoch
            || self.entries.whole_since().is_some_and(|since| have.revision.rev >= since)
    }

    /// The next session that is out, because its instance has registered on a newer one. It is to be told, and cut.
    pub(crate) fn poll_superseded(&mut self) -> Option<SessionId> {
        self.superseded.pop()
    }

    /// Bytes of the list for version 1.
    pub(crate) fn legacy_bytes(&self) -> usize {
        legacy_bytes(&self.entries)
    }

    /// From now on nobody is taken in.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    fn forget(&mut self, session: SessionId) {
        self.tenures.remove(&session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
    }

    /// A session has ended, or has taken its registration back.
    pub(crate) fn remove_session(&mut self, now: Instant, session: SessionId, reason: LeaveReason) -> Option<Removal> {
        self.warmup.record_leave(now, session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
        let tenure = self.tenures.remove(&session);
        if let Some(deferred) = self.deferred.remove(session)
            && tenure.is_none()
        {
            let identity = Record::new(0, &deferred.registration, &deferred.host).identity();
            self.penalise_short_stay(now, &identity, now.saturating_duration_since(deferred.since));
            return None;
        }
        let record = Arc::clone(self.entries.record_of(session)?);
        let vanished =
            matches!(reason, LeaveReason::Reset | LeaveReason::Hung | LeaveReason::Unreachable | LeaveReason::Stalled);
        let is_retained = vanished && self.mass_loss.is_mass(now, self.entries.len());
        if is_retained {
            self.entries.retain_entry(session, now + RETURN_WITHIN);
            let why = format!("{}, as many others at once", reason.as_str());
            self.history.record(now, self.revision().rev, &record, "kept", why);
        } else {
            let stay = tenure.map_or(Duration::MAX, |tenure| now.saturating_duration_since(tenure.since));
            self.entries.remove_session(session, reason);
            self.penalise_short_stay(now, &record.identity(), stay);
            self.history.record(now, self.revision().rev, &record, "left", reason.as_str());
        }
        Some(Removal { record, is_retained })
    }

    /// An instance has left its place. As long as another one has the place, whoever says to be there comes and goes, and not who
    /// is: its next join must not wait for that.
    fn penalise_short_stay(&mut self, now: Instant, identity: &NodeIdentity, stay: Duration) {
        if !self.entries.has_identity(identity) {
            self.damping.penalise(now, identity, stay);
        }
    }

    /// A peer was found not to answer, or to answer again. Returns whether that has to be told.
    pub(crate) fn apply_verdict(&mut self, now: Instant, session: SessionId, verdict: Verdict) -> bool {
        let (suspect, event) = match verdict {
            Verdict::Suspect => (true, "suspect"),
            Verdict::Trust => (false, "trusted"),
            Verdict::Ping | Verdict::Hung => return false,
        };
        let id = self.entries.record_of(session).map(|record| record.id);
        let Some(record) = id.and_then(|id| self.entries.mark_suspect(id, suspect)) else { return false };
        let why = if suspect { "no answer to a ping" } else { "it answers" };
        self.history.record(now, self.revision().rev, &record, event, why);
        true
    }

    /// A peer knows this state, with this digest. Returns whether it should have another one.
    pub(crate) fn acknowledge(&mut self, session: SessionId, known: Revision, digest: Option<Digest>) -> bool {
        self.visibility.acknowledge(session, known);
        known == self.entries.revision() && digest.is_some_and(|digest| digest != self.entries.digest())
    }

    /// Does what is due.
    pub(crate) fn run_due(&mut self, now: Instant) -> DueActions {
        let mut turn = DueActions { copy_from: self.warmup.next_copy_source(now), ..DueActions::default() };
        if turn.copy_from.is_some() {
            self.copy.clear();
        }
        if self.warmup.try_end(now) {
            self.entries.touch();
            turn.warm = true;
        }
        for session in self.deferred.due(now) {
            if let Some(Deferred { registration, host, .. }) = self.deferred.remove(session) {
                self.list_entry(now, session, &registration, &host);
            }
        }
        if self.entries.retained_len() > 0 && self.next_removal <= now {
            let most = LEAST_REMOVALS.max(self.entries.len() / REMOVAL_SHARE);
            turn.gone = self.entries.expire(now, most);
            if !turn.gone.is_empty() {
                self.next_removal = now + REMOVAL_PERIOD;
            }
            for record in &turn.gone {
                self.history.record(now, self.revision().rev, record, "left", "it did not come back");
            }
        }
        for id in self.suspicions.expire(now) {
            if let Some(record) = self.entries.mark_suspect(id, false) {
                self.history.record(now, self.revision().rev, &record, "trusted", "nobody complains any more");
            }
        }
        let resolved = self.visibility.poll_resolved(now);
        let name = |session: &SessionId| {
            let record = self.entries.record_of(*session)?;
            Some(format!("{} {}", record.name, record.address()))
        };
        turn.resolved = resolved
            .into_iter()
            .map(|resolved| {
                let missing = resolved.missing.iter().filter_map(name).collect();
                (resolved, missing)
            })
            .collect();
        turn
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let removal = if self.entries.retained_len() > 0 { self.entries.next_expiry() } else { None };
        let removal = removal.map(|at| at.max(self.next_removal));
        let deferred = self.deferred.next_due();
        let suspicion = self.suspicions.next_due();
        [self.warmup.next_due(), self.visibility.next_due(), removal, deferred, suspicion].into_iter().flatten().min()
    }

    /// From now on peers of this version are told of the state as it is now. Returns that state.
    pub(crate) fn publish(&mut self, version: Version) -> Revision {
        match version {
            Version::V1 => self.targets.legacy = Some(self.lists.legacy(&self.entries, &self.config)),
            Version::V2 => {
                self.entries.confirm_returned();
                let target = TargetState { stamp: self.stamp(), is_whole: self.entries.is_whole() };
                let before = std::mem::replace(&mut self.targets.news, target);
                self.lists.shared_delta(&self.entries, before.stamp.revision, target.stamp);
            }
        }
        self.revision()
    }

    /// The list that version 1 peers are being told.
    pub(crate) fn legacy(&mut self) -> Option<(OutPacket, Revision)> {
        self.targets.legacy.clone()
    }

    /// What a version 2 peer has to be told.
    pub(crate) fn update_for(&mut self, now: Instant, known: &PeerState) -> NextUpdate {
        let stamp = self.targets.news.stamp;
        let is_known =
            stamp.revision.epoch == self.entries.revision().epoch && self.entries.base(stamp.revision.into()).is_some();
        if !is_known {
            // More has changed since than is remembered, in the middle of a round.
            self.publish(Version::V2);
        }
        self.count_unconfirmed(|registry| {
            registry.lists.update_for(now, &registry.entries, registry.targets.news, known)
        })
    }

    /// The list under a peer's own key.
    pub(crate) fn list_for(&mut self, now: Instant, version: Version, key: &Key, view: &View) -> NextUpdate {
        let stamp = self.stamp();
        self.count_unconfirmed(|registry| {
            registry.lists.list_for(now, &registry.entries, &registry.config, stamp, (version, key), view)
        })
    }

    /// Whoever is told a list without those that are only copied has to be told of them when they come.
    fn count_unconfirmed(&mut self, dispatch: impl FnOnce(&mut Self) -> NextUpdate) -> NextUpdate {
        let dispatch = dispatch(self);
        if matches!(&dispatch, NextUpdate::Packet(_, told) if told.confirmed_only) {
            self.entries.publish_partly();
        }
        dispatch
    }

    /// Says what a registration shows to be wrong with its node, for whoever asks why it is not called.
    pub(crate) fn record_loopback(&mut self, now: Instant, session: SessionId) {
        if let Some(record) = self.entries.record_of(session) {
            let why = "it listens on its own machine's loopback only: nodes on other machines cannot call it";
            self.history.record(now, self.entries.revision().rev, record, "unreachable", why);
        }
    }

    /// A question for a sign of life.
    pub(crate) fn ping(&self) -> Bytes {
        let mut out = BytesMut::new();
        write_ping(&mut out, self.liveness.interval(), self.entries.revision(), self.entries.digest());
        out.freeze()
    }

    /// What happened to a node.
    pub(crate) fn history(&self, now: Instant, node: &str) -> Vec<HistoryEvent> {
        self.history.events_of(now, node)
    }

    fn stamp(&self) -> UpdateHeader {
        UpdateHeader {
            revision: self.entries.revision(),
            digest: Some(self.entries.digest()),
            warming: self.warmup.is_warming(),
            ack: self.visibility.is_open(),
        }
    }
}

#[cfg(test)]
mod tests;
