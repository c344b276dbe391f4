//! The set of registered nodes and every decision about it. Without I/O: no socket, task, clock or
//! log.
//!
//! It must not know connections or frames: a session is a number. It must not import `peer` or
//! `shell`.

mod admission;
mod greetings;
pub(crate) mod history;
pub(crate) mod interests;
pub(crate) mod liveness;
mod publishing;
mod restore;
mod visibility;
pub(crate) mod warmup;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{Digest, LeaveReason, ResumePoint, Revision, Version, write_ping};

use crate::config::Config;
use crate::entries::{EntryTable, NodeIdentity, Record, SessionId};
use crate::rate_limit::spread::Spread;
use crate::rate_limit::token_bucket::TokenBucket;
use crate::registry::admission::address_limit::share_of;
use crate::registry::admission::admission_rate::AdmissionRate;
use crate::registry::admission::damping::Damping;
use crate::registry::admission::deferred::{Deferred, DeferredRegistrations};
pub(crate) use crate::registry::admission::rejection::Rejection;
pub(crate) use crate::registry::admission::{Admission, RegisterEffects, RegisterError, SharedUrl};
use crate::registry::greetings::Greetings;
use crate::registry::history::History;
use crate::registry::interests::budget::InterestBudget;
use crate::registry::interests::needs::{MAX_QUESTION_WAIT, QUESTION_INTERVAL};
use crate::registry::liveness::mass_loss::MassLoss;
pub(crate) use crate::registry::liveness::suspicions::ReportOutcome;
use crate::registry::liveness::suspicions::Suspicions;
use crate::registry::liveness::unreachable::UnreachableNodes;
pub(crate) use crate::registry::liveness::unreachable::UnreachableNotice;
use crate::registry::liveness::{Liveness, Verdict};
use crate::registry::publishing::PublishedStates;
use crate::registry::visibility::{VisibilityOutcome, VisibilityWaits};
use crate::registry::warmup::{RETURN_WITHIN, Warmup};
use crate::updates::budget::UpdateBudget;
use crate::updates::encode::{left_out, legacy_bytes};
use crate::updates::lists::ListCache;
use crate::updates::transfers::Transfers;

/// The time between two rounds that remove nodes which did not come back, and the least number that
/// one round removes.
const REMOVAL_PERIOD: Duration = Duration::from_millis(250);
const MIN_REMOVALS: usize = 16;
/// A round removes at most a twentieth (1 / this) of all nodes, so that a mistake is noticed before
/// all are gone.
const REMOVAL_DIVISOR: usize = 20;

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
    admission_rate: AdmissionRate,
    /// When silent peers are greeted.
    greetings: Greetings,
    /// The large packets that are under way, and the nodes that wait for theirs.
    transfers: Transfers,
    /// The bytes of the interests of all nodes.
    interest_budget: InterestBudget,
    /// When nodes ask again whose questions are turned away.
    question_waits: Spread,
    tenures: HashMap<SessionId, Tenure>,
    deferred: DeferredRegistrations,
    /// Sessions whose instance has registered on a newer session, and which the shell has not
    /// polled yet.
    superseded: Vec<SessionId>,
    suspicions: Suspicions,
    unreachable: UnreachableNodes,
    /// The parts of a copy that a node has sent so far.
    copy: Vec<Record>,
    /// Why the last copy was not used, until the shell has polled it.
    bad_copy: Option<&'static str>,
    /// The states that peers of either version are being told.
    published: PublishedStates,
    next_removal: Instant,
    is_draining: bool,
}

#[derive(Debug)]
struct Tenure {
    /// `None` when it began before this Distributor, or before the node was lost among many.
    since: Option<Instant>,
    /// The first state that contained its present registration. Nodes with interests are not told
    /// of later ones that do not concern them.
    listed: Revision,
    /// The bucket of updates, which is made with the first one.
    updates: Option<Box<TokenBucket>>,
}

/// A node whose session has ended.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) record: Arc<Record>,
    /// Whether the node stays listed for a while, because too many have vanished at once.
    pub(crate) is_retained: bool,
}

/// The actions that are due.
#[derive(Debug, Default)]
pub(crate) struct DueActions {
    /// The node to ask for its copy.
    pub(crate) copy_from: Option<SessionId>,
    /// Visibility waits that have ended.
    pub(crate) resolved: Vec<(VisibilityOutcome, Vec<String>)>,
    /// Nodes whose registrations were deferred, and are listed now.
    pub(crate) listed: Vec<Arc<Record>>,
    /// Nodes that did not come back.
    pub(crate) gone: Vec<Arc<Record>>,
    /// Version 1 nodes that no peer reports any more.
    pub(crate) trusted: Vec<Arc<Record>>,
    /// Whether no copy of the earlier list could be used.
    pub(crate) begins_anew: bool,
    /// Whether lists are complete from now on.
    pub(crate) is_warm: bool,
}

impl Registry {
    /// An empty registry. `epoch` must be higher than that of any Distributor before.
    pub(crate) fn new(config: Config, memory: UpdateBudget, now: Instant, epoch: u64) -> Self {
        Self {
            entries: EntryTable::new(epoch),
            lists: ListCache::new(memory),
            damping: Damping::default(),
            mass_loss: MassLoss::default(),
            warmup: Warmup::new(now),
            history: History::default(),
            visibility: VisibilityWaits::default(),
            liveness: Liveness::new(config.pings_per_second),
            admission_rate: AdmissionRate::new(config.registrations_per_second, config.registration_burst),
            greetings: Greetings::default(),
            transfers: Transfers::default(),
            interest_budget: InterestBudget::new(config.max_list_bytes),
            question_waits: Spread::new(QUESTION_INTERVAL, MAX_QUESTION_WAIT),
            tenures: HashMap::new(),
            deferred: DeferredRegistrations::default(),
            superseded: Vec::new(),
            suspicions: Suspicions::default(),
            unreachable: UnreachableNodes::default(),
            copy: Vec::new(),
            bad_copy: None,
            published: PublishedStates::default(),
            next_removal: now,
            is_draining: false,
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

    /// How many listed nodes are suspect.
    pub(crate) fn suspects(&self) -> usize {
        self.entries.records().filter(|record| record.is_suspect).count()
    }

    /// How many registrations are deferred.
    pub(crate) fn deferred_registrations(&self) -> usize {
        self.deferred.len()
    }

    /// How many events are kept, and their bytes.
    pub(crate) fn history_size(&self) -> (usize, usize) {
        (self.history.len(), self.history.bytes())
    }

    /// Bytes of the list and of deferred registrations; and of the changes that are kept.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.entries.list_bytes() + self.deferred.bytes(), self.entries.change_bytes())
    }

    /// Bytes of the list that the address with the most of it has, and that one address may have
    /// now. This machine is excepted.
    pub(crate) fn largest_share(&self) -> (usize, usize) {
        let free = self.config.max_list_bytes.saturating_sub(self.bytes().0);
        (self.entries.shares().largest_with(self.deferred.shares()), share_of(free))
    }

    /// The bytes of the interests of all nodes, and their limit.
    pub(crate) fn interest_budget(&self) -> &InterestBudget {
        &self.interest_budget
    }

    /// All listed nodes.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.entries.records()
    }

    /// Whether an earlier list is about to be restored, so that nothing should be sent before.
    pub(crate) fn is_restoring(&self) -> bool {
        self.warmup.is_restoring()
    }

    /// Whether peers of this version are sent no list for now: an earlier list is about to be
    /// restored. A version 1 peer forgets the nodes that a list lacks, so it waits for a whole one.
    pub(crate) fn defers_updates(&self, version: Version) -> bool {
        self.is_restoring() || version == Version::V1 && !self.entries.is_whole()
    }

    /// When a silent peer whose greeting is due now is greeted: later if there are many.
    pub(crate) fn assign_greeting_time(&mut self, now: Instant) -> Instant {
        self.greetings.assign_greeting_time(now)
    }

    /// The state that followers should know. When it changes, they are told.
    pub(crate) fn published(&self) -> (Revision, [bool; 2]) {
        (self.revision(), [self.defers_updates(Version::V1), self.defers_updates(Version::V2)])
    }

    /// Whether a peer that holds this state can be told the changes since.
    pub(crate) fn can_resume_from(&self, have: ResumePoint) -> bool {
        have.revision.epoch != self.entries.revision().epoch
            || self.entries.whole_since().is_some_and(|since| have.revision.rev >= since)
    }

    /// The next session whose instance has registered on a newer session. It must be told so, and
    /// cut.
    pub(crate) fn poll_superseded(&mut self) -> Option<SessionId> {
        self.superseded.pop()
    }

    /// Why the copy of a node was not used, once.
    pub(crate) fn poll_bad_copy(&mut self) -> Option<&'static str> {
        self.bad_copy.take()
    }

    /// Bytes of the list for version 1.
    pub(crate) fn legacy_bytes(&self) -> usize {
        legacy_bytes(&self.entries, &self.config)
    }

    /// How many listed nodes version 1 peers are not told of, because their list has no room.
    pub(crate) fn left_out(&self) -> usize {
        left_out(&self.entries, &self.config).len()
    }

    /// Accepts no registration from now on.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    fn forget(&mut self, session: SessionId) {
        self.tenures.remove(&session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
    }

    /// Records that a session has ended, or has withdrawn its registration.
    pub(crate) fn remove_session(&mut self, now: Instant, session: SessionId, reason: LeaveReason) -> Option<Removal> {
        self.warmup.record_leave(now, session);
        self.interest_budget.remove(session);
        self.record_sent(session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
        let tenure = self.tenures.remove(&session);
        if let Some(deferred) = self.deferred.remove(session)
            && tenure.is_none()
        {
            self.penalise_short_stay(now, &deferred.identity(), now.saturating_duration_since(deferred.since));
            return None;
        }
        let record = Arc::clone(self.entries.record_of(session)?);
        let vanished =
            matches!(reason, LeaveReason::Reset | LeaveReason::Hung | LeaveReason::Unreachable | LeaveReason::Stalled);
        let is_retained = vanished && self.mass_loss.record_loss(now, self.entries.len());
        if is_retained {
            self.entries.retain_entry(session, now + RETURN_WITHIN);
            let why = format!("{}, as did many others at once", reason.as_str());
            self.history.record(now, self.revision().rev, &record, "kept", why);
        } else {
            let since = tenure.and_then(|tenure| tenure.since);
            let stay = since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
            self.entries.remove_session(session, reason);
            self.deferred.record_offer_change(now);
            self.penalise_short_stay(now, &record.identity(), stay);
            self.history.record(now, self.revision().rev, &record, "left", reason.as_str());
        }
        Some(Removal { record, is_retained })
    }

    /// Penalises an instance that has left, if its stay was short. While another instance of this
    /// identity is listed or deferred, a leave is not a short stay: the one that left may be an
    /// impostor, a predecessor, or one of several workers. The last one to leave counts.
    fn penalise_short_stay(&mut self, now: Instant, identity: &NodeIdentity, stay: Duration) {
        if !self.entries.has_identity(identity) && !self.deferred.has_identity(identity) {
            self.damping.penalise(now, identity, stay);
        }
    }

    /// Records that a peer does not answer, or answers again. Returns its record if followers have
    /// to be told.
    pub(crate) fn apply_verdict(&mut self, now: Instant, session: SessionId, verdict: Verdict) -> Option<Arc<Record>> {
        let (is_suspect, event) = match verdict {
            Verdict::Suspect => (true, "suspect"),
            Verdict::Trust => (false, "trusted"),
            Verdict::Ping | Verdict::Hung => return None,
        };
        let id = self.entries.record_of(session)?.id;
        let record = self.entries.mark_suspect(id, is_suspect)?;
        let why = match (record.version, is_suspect) {
            (Version::V1, true) => "it does not read its list",
            (Version::V1, false) => "it reads its list",
            (Version::V2, true) => "no answer to a ping",
            (Version::V2, false) => "it answers",
        };
        self.history.record(now, self.revision().rev, &record, event, why);
        Some(record)
    }

    /// Records that a peer knows this state, with this digest. Returns whether the digest is wrong.
    pub(crate) fn acknowledge(&mut self, session: SessionId, known: Revision, digest: Option<Digest>) -> bool {
        self.visibility.acknowledge(session, known);
        known == self.entries.revision() && digest.is_some_and(|digest| digest != self.entries.digest())
    }

    /// Carries out everything that is due at `now`.
    pub(crate) fn run_due(&mut self, now: Instant) -> DueActions {
        let was_restoring = self.warmup.is_restoring();
        let mut due = DueActions { copy_from: self.warmup.next_copy_source(now), ..DueActions::default() };
        due.begins_anew = was_restoring && !self.warmup.is_restoring();
        if due.copy_from.is_some() {
            self.copy.clear();
        }
        if self.warmup.try_end(now) {
            self.entries.touch();
            due.is_warm = true;
        }
        self.review_deferred(now);
        for session in self.deferred.due(now) {
            if let Some(Deferred { registration, host, .. }) = self.deferred.remove(session) {
                self.list_entry(now, session, &registration, &host);
                due.listed.extend(self.entries.record_of(session).cloned());
            }
        }
        if self.entries.retained_len() > 0 && self.next_removal <= now {
            let max_removals = MIN_REMOVALS.max(self.entries.len() / REMOVAL_DIVISOR);
            due.gone = self.entries.expire(now, max_removals);
            if !due.gone.is_empty() {
                self.next_removal = now + REMOVAL_PERIOD;
                self.deferred.record_offer_change(now);
            }
            for record in &due.gone {
                self.history.record(now, self.revision().rev, record, "left", "it did not come back");
            }
        }
        for id in self.suspicions.expire(now) {
            if let Some(record) = self.entries.mark_suspect(id, false) {
                self.history.record(now, self.revision().rev, &record, "trusted", "no peer reports it any more");
                due.trusted.push(record);
            }
        }
        let record_of = |session| self.entries.record_of(session).map(|record| &**record);
        let resolved = self.visibility.poll_resolved(now, record_of);
        let name = |session: &SessionId| {
            let record = self.entries.record_of(*session)?;
            Some(format!("{} {}", record.name, record.address()))
        };
        due.resolved = resolved
            .into_iter()
            .map(|resolved| {
                let missing = resolved.missing.iter().filter_map(name).collect();
                (resolved, missing)
            })
            .collect();
        due
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let removal = if self.entries.retained_len() > 0 { self.entries.next_expiry() } else { None };
        let removal = removal.map(|at| at.max(self.next_removal));
        let deferred = self.deferred.next_due();
        let suspicion = self.suspicions.next_due();
        [self.warmup.next_due(), self.visibility.next_due(), removal, deferred, suspicion].into_iter().flatten().min()
    }

    /// A ping with the newest state.
    pub(crate) fn ping(&self) -> Bytes {
        let mut out = BytesMut::new();
        write_ping(&mut out, self.liveness.interval(), self.entries.revision(), self.entries.digest());
        out.freeze()
    }
}

#[cfg(test)]
mod tests;
