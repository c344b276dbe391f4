//! Who is there, and what is done about it: every decision of the Distributor that needs no socket.

mod damping;
pub(crate) mod history;
pub(crate) mod liveness;
mod mass_loss;
mod visibility;
pub(crate) mod warmup;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::{
    CopyPart, Digest, HistoryEvent, Key, LeaveReason, RegisterOptions, Registration, RegistryEntry, ResumePoint,
    Revision, Secret, UpdateHeader, Version, host_text, write_ping,
};

use crate::config::Config;
use crate::entries::view::View;
use crate::entries::{EntryTable, NodeIdentity, Record, RegisterOutcome, Registered, SessionId};
use crate::registry::damping::Damping;
use crate::registry::history::History;
use crate::registry::liveness::{Liveness, Verdict};
use crate::registry::mass_loss::MassLoss;
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
/// Nodes of one report that are looked into.
const MAX_REPORTED: usize = 64;
/// A reporter's word on a node counts once in this time.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Reporters and nodes that are remembered for that; beyond it reports count for nothing until old ones are forgotten.
const MAX_PROBES: usize = 4096;
/// Version 1 nodes cannot be asked. When two peers within this time say that one does not answer, it is suspect for as long.
const SUSPICION: Duration = Duration::from_secs(5);
/// Nodes of version 1 about which something was reported.
const MAX_SUSPICIONS: usize = 1024;
/// What is told to whoever registers while we stop.
const RETRY_AFTER_STOP: Duration = Duration::from_secs(3);

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
    tenures: HashMap<SessionId, Tenure>,
    /// Registrations that wait.
    deferred: BTreeMap<SessionId, Deferred>,
    /// Bytes of the entries that those would have.
    deferred_bytes: usize,
    /// Which of them is of which instance.
    deferred_instances: HashMap<Box<str>, SessionId>,
    /// Sessions that are out, because their instance has registered on a newer one; the shell has not been told of these yet.
    superseded: Vec<SessionId>,
    suspicions: HashMap<u64, Suspicion>,
    /// Who has reported which node, and until when that is remembered.
    probes: HashMap<(SessionId, u64), Instant>,
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

#[derive(Debug)]
struct Deferred {
    registration: Registration,
    host: String,
    /// Of the entry that it would have.
    bytes: usize,
    since: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Suspicion {
    by: SessionId,
    until: Instant,
}

/// What became of a registration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is listed; the session it superseded is out.
    Listed(Registered),
    /// It will be, in so long: its node comes and goes, or changes, too often.
    Deferred(Duration),
}

/// Why a registration is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterError {
    /// Too many register at once; there is room in so long.
    Busy(Duration),
    /// We stop; another will be there in so long.
    Draining(Duration),
    /// The list would be larger than nodes take.
    Full,
    /// The instance id is made of a secret that the peer has not shown.
    NotYours,
    /// The session is out already.
    Superseded,
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
            tenures: HashMap::new(),
            deferred: BTreeMap::new(),
            deferred_bytes: 0,
            deferred_instances: HashMap::new(),
            superseded: Vec::new(),
            suspicions: HashMap::new(),
            probes: HashMap::new(),
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
        (self.entries.list_bytes() + self.deferred_bytes, self.entries.change_bytes())
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

    /// A peer registers, for the first time or again.
    ///
    /// # Errors
    /// [`RegisterError`] when it is not taken; an earlier registration stands.
    pub(crate) fn register(
        &mut self,
        now: Instant,
        session: SessionId,
        registration: Registration,
        host: &str,
        terms: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        let known = self.entries.record_of(session).map(Arc::clone);
        if self.draining {
            return Err(RegisterError::Draining(RETRY_AFTER_STOP));
        }
        if !proves_itself(&registration, terms) {
            return Err(RegisterError::NotYours);
        }
        let record = Record::new(0, &registration, host);
        if self.exceeds_list_limit(session, &record) {
            return Err(RegisterError::Full);
        }
        // Old nodes cannot be told to come later.
        let is_v2 = registration.advert.is_some();
        if known.is_none()
            && is_v2
            && let Err(wait) = self.admission_rate.try_spend(now)
        {
            return Err(RegisterError::Busy(wait));
        }
        // An epoch is the time of a start: one that is still to come was made up, or is of no use after the next start.
        if let Some(have) = terms.resume
            && have.revision.epoch < self.entries.revision().epoch
            && known.is_none()
        {
            self.warmup.record_offer(now, session, have);
        }
        self.warmup.record_join(now);
        if is_v2 {
            self.visibility.add_session(session);
            self.liveness.watch(session);
        }
        let wait = match &known {
            // Whoever wants no more calls is believed at once.
            Some(known) if known.entry != record.entry && !is_draining(&registration) => {
                self.update_delay(now, session)
            }
            Some(_) => None,
            None if self.entries.is_awaited(&record) => None,
            None => self.damping.delay(now, &record.identity()),
        };
        if let Some(wait) = wait {
            let why = format!("it comes and goes too often; {:.1} s", wait.as_secs_f32());
            self.history.record(now, self.revision().rev, &record, "held back", why);
            let since = self.deferred.get(&session).map_or(now, |deferred| deferred.since);
            let (host, bytes) = (host.to_owned(), record.entry.len());
            self.defer(session, Deferred { registration, host, bytes, since, until: now + wait });
            return Ok(Admission::Deferred(wait));
        }
        self.remove_deferred(session);
        let registered = self.list_entry(now, session, &registration, host);
        if let Some(visible) = terms.visibility.filter(|_| is_v2) {
            self.visibility.open(now, session, self.revision(), visible);
        }
        Ok(Admission::Listed(registered))
    }

    /// Whether the list would have more bytes than it may, with this entry and all that wait to be listed. What is replaced does
    /// not count.
    fn exceeds_list_limit(&self, session: SessionId, record: &Record) -> bool {
        let instance = record.instance.as_deref();
        let replaced = self.entries.record_of(session);
        let replaced = replaced.or_else(|| instance.and_then(|instance| self.entries.record_of_instance(instance)));
        let replaced = replaced.map_or(0, |record| record.entry.len());
        let deferred = self.deferred.get(&session).map_or(0, |deferred| deferred.bytes);
        let others = (self.entries.list_bytes() + self.deferred_bytes).saturating_sub(replaced + deferred);
        record.entry.len() > replaced && others + record.entry.len() > self.config.max_list_bytes
    }

    /// A registration waits, in place of any that its session, or its instance on another session, has had waiting.
    fn defer(&mut self, session: SessionId, deferred: Deferred) {
        self.remove_deferred(session);
        if let Some(instance) = instance_of(&deferred.registration) {
            self.supersede_deferred(session, instance);
            self.deferred_instances.insert(instance.into(), session);
        }
        self.deferred_bytes += deferred.bytes;
        self.deferred.insert(session, deferred);
    }

    /// What a session has had waiting waits no more.
    fn remove_deferred(&mut self, session: SessionId) -> Option<Deferred> {
        let deferred = self.deferred.remove(&session)?;
        self.deferred_bytes -= deferred.bytes;
        if let Some(instance) = instance_of(&deferred.registration)
            && self.deferred_instances.get(instance) == Some(&session)
        {
            self.deferred_instances.remove(instance);
        }
        Some(deferred)
    }

    /// An instance registers: what it has had waiting on another session is older, and must not take over from it later.
    fn supersede_deferred(&mut self, session: SessionId, instance: &str) {
        if let Some(&other) = self.deferred_instances.get(instance)
            && other != session
        {
            self.remove_deferred(other);
            // If that session has an entry as well, it is another instance's, and stays.
            if self.entries.record_of(other).is_none() {
                self.forget(other);
                self.superseded.push(other);
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.tenures.remove(&session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
    }

    fn update_delay(&mut self, now: Instant, session: SessionId) -> Option<Duration> {
        let (rate, burst) = (self.config.updates_per_second, self.config.update_burst);
        let tenure = self.tenures.get_mut(&session)?;
        tenure.updates.get_or_insert_with(|| Box::new(TokenBucket::new(rate, burst))).try_spend(now).err()
    }

    fn list_entry(&mut self, now: Instant, session: SessionId, registration: &Registration, host: &str) -> Registered {
        if let Some(instance) = instance_of(registration) {
            self.supersede_deferred(session, instance);
        }
        let registered = self.entries.register(session, registration, host);
        self.tenures.entry(session).or_insert(Tenure { since: now, updates: None });
        if let Some(superseded) = registered.superseded {
            self.remove_deferred(superseded);
            self.forget(superseded);
            self.superseded.push(superseded);
        }
        let event = match (registered.entrance, registered.superseded) {
            (RegisterOutcome::Joined, _) => "joined",
            (RegisterOutcome::Updated, _) => "updated",
            (RegisterOutcome::Unchanged, Some(_)) => "came back",
            (RegisterOutcome::Unchanged, None) => return registered,
        };
        if let Some(record) = self.entries.record_of(session) {
            let why = if registered.superseded.is_some() { "on a new connection" } else { "" };
            self.history.record(now, self.entries.revision().rev, record, event, why);
        }
        registered
    }

    /// A session has ended, or has taken its registration back.
    pub(crate) fn remove_session(&mut self, now: Instant, session: SessionId, reason: LeaveReason) -> Option<Removal> {
        self.warmup.record_leave(now, session);
        self.visibility.remove_session(session);
        self.liveness.remove_session(session);
        let tenure = self.tenures.remove(&session);
        if let Some(deferred) = self.remove_deferred(session)
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

    /// A peer says that calls to these nodes failed. That counts if it is a node itself, once in a while for each node. Returns
    /// whether anything has to be told at once.
    pub(crate) fn report_failed(&mut self, now: Instant, by: SessionId, failed: &[u64]) -> bool {
        let rev = self.revision().rev;
        if self.entries.record_of(by).is_none() {
            return false;
        }
        for &id in failed.iter().take(MAX_REPORTED) {
            if !self.may_probe(now, by, id) {
                continue;
            }
            let (Some(record), Some(session)) = (self.entries.record(id), self.entries.holder(id)) else { continue };
            let record = Arc::clone(record);
            if record.version == Version::V2 {
                self.liveness.probe(session);
                continue;
            }
            let known = self.suspicions.get(&id).filter(|known| now < known.until);
            let is_second = known.is_some_and(|known| known.by != by);
            if self.suspicions.len() < MAX_SUSPICIONS || known.is_some() {
                let by = known.map_or(by, |known| known.by);
                self.suspicions.insert(id, Suspicion { by, until: now + SUSPICION });
            }
            if is_second && let Some(record) = self.entries.mark_suspect(id, true) {
                self.history.record(now, self.revision().rev, &record, "suspect", "calls to it failed, say two peers");
            }
        }
        self.revision().rev != rev
    }

    fn may_probe(&mut self, now: Instant, by: SessionId, id: u64) -> bool {
        if self.probes.len() >= MAX_PROBES {
            self.probes.retain(|_, until| now < *until);
        }
        let is_full = self.probes.len() >= MAX_PROBES;
        match self.probes.get_mut(&(by, id)) {
            Some(until) if now < *until => false,
            Some(until) => {
                *until = now + PROBE_INTERVAL;
                true
            }
            None if is_full => false,
            None => {
                self.probes.insert((by, id), now + PROBE_INTERVAL);
                true
            }
        }
    }

    /// A peer knows this state, with this digest. Returns whether it should have another one.
    pub(crate) fn acknowledge(&mut self, session: SessionId, known: Revision, digest: Option<Digest>) -> bool {
        self.visibility.acknowledge(session, known);
        known == self.entries.revision() && digest.is_some_and(|digest| digest != self.entries.digest())
    }

    /// A part of what a node knows has come. Returns whether that was the last, and is in use now.
    pub(crate) fn restore_part(&mut self, now: Instant, session: SessionId, part: &CopyPart<'_>) -> bool {
        let Some(offered) = self.warmup.expected_copy(session) else { return false };
        let records: Option<Vec<_>> =
            part.entries.iter().map(|(id, entry)| Record::from_entry(*id, entry.get())).collect();
        self.copy.extend(records.unwrap_or_default());
        let bytes: usize = self.copy.iter().map(|record| record.entry.len()).sum();
        if self.copy.len() > self.config.max_connections || bytes > self.config.max_list_bytes {
            self.copy.clear();
            self.warmup.record_bad_copy(now);
            return false;
        }
        if part.more {
            return false;
        }
        let copy = std::mem::take(&mut self.copy);
        let mut digest = Digest::default();
        copy.iter().for_each(|record| digest.add(record.id, &record.entry));
        let is_offered = part.revision == offered.revision && offered.digest.is_none_or(|offered| offered == digest);
        if digest != part.digest || !is_offered || !is_sound(&copy) || self.exceeds_copy_limit(&copy) {
            self.warmup.record_bad_copy(now);
            return false;
        }
        self.entries.restore(ResumePoint { revision: part.revision, digest: Some(digest) }, copy, now + RETURN_WITHIN);
        self.warmup.record_restored();
        true
    }

    /// Whether a copy, and those who have registered and are not in it, would make a longer list than nodes take.
    fn exceeds_copy_limit(&self, copy: &[Record]) -> bool {
        let instances: HashSet<_> = copy.iter().filter_map(|record| record.instance.as_deref()).collect();
        let is_new = |record: &&Arc<Record>| record.instance.as_deref().is_none_or(|id| !instances.contains(id));
        let new: usize = self.entries.records().filter(is_new).map(|record| record.entry.len() + 1).sum();
        let copied: usize = copy.iter().map(|record| record.entry.len() + 1).sum();
        copied + new + self.deferred_bytes > self.config.max_list_bytes
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
        let due: Vec<_> =
            self.deferred.iter().filter(|(_, deferred)| deferred.until <= now).map(|(session, _)| *session).collect();
        for session in due {
            if let Some(Deferred { registration, host, .. }) = self.remove_deferred(session) {
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
        let over: Vec<_> = self.suspicions.iter().filter(|(_, known)| known.until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.suspicions.remove(&id);
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
        let deferred = self.deferred.values().map(|deferred| deferred.until).min();
        let suspicion = self.suspicions.values().map(|known| known.until).min();
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

impl Record {
    /// A record of an entry that another Distributor has told; `None` when no node can be made of it.
    fn from_entry(id: u64, entry: &str) -> Option<Self> {
        let RegistryEntry { registration, host } = RegistryEntry::parse(entry)?;
        Some(Self::new(id, &registration, &host_text(host)))
    }
}

/// Whether a peer may register this instance: an id that is made of a secret belongs to who shows the secret, any other to
/// whoever says it.
fn proves_itself(registration: &Registration, terms: &RegisterOptions) -> bool {
    let fits = |id: &str| terms.secret.as_ref().is_some_and(|secret| secret.instance() == id);
    instance_of(registration).is_none_or(|id| !Secret::guards(id) || fits(id))
}

/// Whether each id, and each instance, is there once.
fn is_sound(copy: &[Record]) -> bool {
    let (mut ids, mut instances) = (HashSet::new(), HashSet::new());
    copy.iter().all(|record| ids.insert(record.id) && record.instance.as_ref().is_none_or(|id| instances.insert(id)))
}

fn instance_of(registration: &Registration) -> Option<&str> {
    registration.advert.as_ref()?.id.as_deref()
}

fn is_draining(registration: &Registration) -> bool {
    registration.advert.as_ref().is_some_and(|advert| advert.draining)
}

#[cfg(test)]
mod tests;
