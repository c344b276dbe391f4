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
use crate::registry::warmup::{BACK_WITHIN, Warmup};
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
const DOUBT_AGAIN: Duration = Duration::from_secs(10);
/// Reporters and nodes that are remembered for that; beyond it reports count for nothing until old ones are forgotten.
const MAX_DOUBTS: usize = 4096;
/// Version 1 nodes cannot be asked. When two peers within this time say that one does not answer, it is suspect for as long.
const SUSPICION: Duration = Duration::from_secs(5);
/// Nodes of version 1 about which something was reported.
const MAX_SUSPICIONS: usize = 1024;
/// What is told to whoever registers while we stop.
const BACK_AFTER_STOP: Duration = Duration::from_secs(3);

/// The state of the Distributor.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Config,
    registry: EntryTable,
    lists: ListCache,
    damping: Damping,
    losses: MassLoss,
    warmup: Warmup,
    history: History,
    barriers: VisibilityWaits,
    pub(crate) liveness: Liveness,
    admissions: TokenBucket,
    visits: HashMap<SessionId, Tenure>,
    /// Registrations that wait.
    held: BTreeMap<SessionId, Deferred>,
    /// Bytes of the entries that those would have.
    held_bytes: usize,
    /// Which of them is of which instance.
    held_instances: HashMap<Box<str>, SessionId>,
    /// Sessions that are out, because their instance has registered on a newer one; the shell has not been told of these yet.
    superseded: Vec<SessionId>,
    suspicions: HashMap<u64, Suspicion>,
    /// Who has reported which node, and until when that is remembered.
    doubts: HashMap<(SessionId, u64), Instant>,
    /// What a node has handed over so far of what it knows.
    copy: Vec<Record>,
    /// What peers of either version are being told now.
    editions: Targets,
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
    pub(crate) kept: bool,
}

/// What time brings.
#[derive(Debug, Default)]
pub(crate) struct DueActions {
    /// The node to ask for what it knows.
    pub(crate) ask: Option<SessionId>,
    /// Barriers to tell of.
    pub(crate) raised: Vec<(Resolved, Vec<String>)>,
    /// Nodes that did not come back.
    pub(crate) gone: Vec<Arc<Record>>,
    /// Lists are complete from now on.
    pub(crate) warm: bool,
}

impl Registry {
    /// A roster that knows nobody. `epoch` should be higher than any before.
    pub(crate) fn new(config: Config, memory: Budget, now: Instant, epoch: u64) -> Self {
        Self {
            registry: EntryTable::new(epoch),
            lists: ListCache::new(memory),
            damping: Damping::default(),
            losses: MassLoss::default(),
            warmup: Warmup::new(now),
            history: History::default(),
            barriers: VisibilityWaits::default(),
            liveness: Liveness::new(config.pings_per_second),
            admissions: TokenBucket::new(config.registrations_per_second, config.registration_burst),
            visits: HashMap::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            held_instances: HashMap::new(),
            superseded: Vec::new(),
            suspicions: HashMap::new(),
            doubts: HashMap::new(),
            copy: Vec::new(),
            editions: Targets::default(),
            next_removal: now,
            draining: false,
            config,
        }
    }

    /// The newest state.
    pub(crate) fn revision(&self) -> Revision {
        self.registry.revision()
    }

    /// How many nodes are listed.
    pub(crate) fn nodes(&self) -> usize {
        self.registry.len()
    }

    /// How many of them give no sign of life.
    pub(crate) fn suspects(&self) -> usize {
        self.registry.records().filter(|record| record.suspect).count()
    }

    /// How many registrations wait.
    pub(crate) fn held_back(&self) -> usize {
        self.held.len()
    }

    /// How many events are remembered, and the bytes that they take.
    pub(crate) fn history_size(&self) -> (usize, usize) {
        (self.history.len(), self.history.bytes())
    }

    /// Bytes of the list, with those of registrations that wait; and of changes that are remembered.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.registry.list_bytes() + self.held_bytes, self.registry.change_bytes())
    }

    /// All that is listed.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.registry.records()
    }

    /// An earlier list is about to come: nobody should be told anything before.
    pub(crate) fn is_restoring(&self) -> bool {
        self.warmup.is_restoring()
    }

    /// Peers of this version are told no list for now: an earlier one is about to come, or an old peer, which forgets what a list
    /// does not show, would be shown less than it knows.
    pub(crate) fn holds_back(&self, version: Version) -> bool {
        self.is_restoring() || version == Version::V1 && !self.registry.is_whole()
    }

    /// What makes followers have to be told when it is another one than before.
    pub(crate) fn progress(&self) -> (Revision, [bool; 2]) {
        (self.revision(), [self.holds_back(Version::V1), self.holds_back(Version::V2)])
    }

    /// Whether a peer that says what it holds can be told what has changed since.
    pub(crate) fn can_go_on_from(&self, have: ResumePoint) -> bool {
        have.revision.epoch != self.registry.revision().epoch
            || self.registry.whole_since().is_some_and(|since| have.revision.rev >= since)
    }

    /// The next session that is out, because its instance has registered on a newer one. It is to be told, and cut.
    pub(crate) fn poll_superseded(&mut self) -> Option<SessionId> {
        self.superseded.pop()
    }

    /// Bytes of the list for version 1.
    pub(crate) fn legacy_bytes(&self) -> usize {
        legacy_bytes(&self.registry)
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
        let known = self.registry.record_of(session).map(Arc::clone);
        if self.draining {
            return Err(RegisterError::Draining(BACK_AFTER_STOP));
        }
        if !proves_itself(&registration, terms) {
            return Err(RegisterError::NotYours);
        }
        let record = Record::new(0, &registration, host);
        if self.outgrows(session, &record) {
            return Err(RegisterError::Full);
        }
        // Old nodes cannot be told to come later.
        let is_v2 = registration.advert.is_some();
        if known.is_none()
            && is_v2
            && let Err(wait) = self.admissions.take(now)
        {
            return Err(RegisterError::Busy(wait));
        }
        // An epoch is the time of a start: one that is still to come was made up, or is of no use after the next start.
        if let Some(have) = terms.resume
            && have.revision.epoch < self.registry.revision().epoch
            && known.is_none()
        {
            self.warmup.offered(now, session, have);
        }
        self.warmup.joined(now);
        if is_v2 {
            self.barriers.follow(session);
            self.liveness.watch(session);
        }
        let wait = match &known {
            // Whoever wants no more calls is believed at once.
            Some(known) if known.entry != record.entry && !is_draining(&registration) => self.update_wait(now, session),
            Some(_) => None,
            None if self.registry.is_expected(&record) => None,
            None => self.damping.wait(now, &record.place()),
        };
        if let Some(wait) = wait {
            let why = format!("it comes and goes too often; {:.1} s", wait.as_secs_f32());
            self.history.note(now, self.revision().rev, &record, "held back", why);
            let since = self.held.get(&session).map_or(now, |held| held.since);
            let (host, bytes) = (host.to_owned(), record.entry.len());
            self.hold(session, Deferred { registration, host, bytes, since, until: now + wait });
            return Ok(Admission::Deferred(wait));
        }
        self.let_go(session);
        let registered = self.enter(now, session, &registration, host);
        if let Some(visible) = terms.visibility.filter(|_| is_v2) {
            self.barriers.open(now, session, self.revision(), visible);
        }
        Ok(Admission::Listed(registered))
    }

    /// Whether the list would have more bytes than it may, with this entry and all that wait to be listed. What is replaced does
    /// not count.
    fn outgrows(&self, session: SessionId, record: &Record) -> bool {
        let instance = record.instance.as_deref();
        let replaced = self.registry.record_of(session);
        let replaced = replaced.or_else(|| instance.and_then(|instance| self.registry.record_of_instance(instance)));
        let replaced = replaced.map_or(0, |record| record.entry.len());
        let held = self.held.get(&session).map_or(0, |held| held.bytes);
        let others = (self.registry.list_bytes() + self.held_bytes).saturating_sub(replaced + held);
        record.entry.len() > replaced && others + record.entry.len() > self.config.max_list_bytes
    }

    /// A registration waits, in place of any that its session, or its instance on another session, has had waiting.
    fn hold(&mut self, session: SessionId, held: Deferred) {
        self.let_go(session);
        if let Some(instance) = instance_of(&held.registration) {
            self.supersede_held(session, instance);
            self.held_instances.insert(instance.into(), session);
        }
        self.held_bytes += held.bytes;
        self.held.insert(session, held);
    }

    /// What a session has had waiting waits no more.
    fn let_go(&mut self, session: SessionId) -> Option<Deferred> {
        let held = self.held.remove(&session)?;
        self.held_bytes -= held.bytes;
        if let Some(instance) = instance_of(&held.registration)
            && self.held_instances.get(instance) == Some(&session)
        {
            self.held_instances.remove(instance);
        }
        Some(held)
    }

    /// An instance registers: what it has had waiting on another session is older, and must not take over from it later.
    fn supersede_held(&mut self, session: SessionId, instance: &str) {
        if let Some(&other) = self.held_instances.get(instance)
            && other != session
        {
            self.let_go(other);
            // If that session has an entry as well, it is another instance's, and stays.
            if self.registry.record_of(other).is_none() {
                self.forget(other);
                self.superseded.push(other);
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.visits.remove(&session);
        self.barriers.forget(session);
        self.liveness.forget(session);
    }

    fn update_wait(&mut self, now: Instant, session: SessionId) -> Option<Duration> {
        let (rate, burst) = (self.config.updates_per_second, self.config.update_burst);
        let visit = self.visits.get_mut(&session)?;
        visit.updates.get_or_insert_with(|| Box::new(TokenBucket::new(rate, burst))).take(now).err()
    }

    fn enter(&mut self, now: Instant, session: SessionId, registration: &Registration, host: &str) -> Registered {
        if let Some(instance) = instance_of(registration) {
            self.supersede_held(session, instance);
        }
        let registered = self.registry.register(session, registration, host);
        self.visits.entry(session).or_insert(Tenure { since: now, updates: None });
        if let Some(superseded) = registered.superseded {
            self.let_go(superseded);
            self.forget(superseded);
            self.superseded.push(superseded);
        }
        let event = match (registered.entrance, registered.superseded) {
            (RegisterOutcome::Joined, _) => "joined",
            (RegisterOutcome::Updated, _) => "updated",
            (RegisterOutcome::Unchanged, Some(_)) => "came back",
            (RegisterOutcome::Unchanged, None) => return registered,
        };
        if let Some(record) = self.registry.record_of(session) {
            let why = if registered.superseded.is_some() { "on a new connection" } else { "" };
            self.history.note(now, self.registry.revision().rev, record, event, why);
        }
        registered
    }

    /// A session has ended, or has taken its registration back.
    pub(crate) fn leave(&mut self, now: Instant, session: SessionId, reason: LeaveReason) -> Option<Removal> {
        self.warmup.left(now, session);
        self.barriers.forget(session);
        self.liveness.forget(session);
        let visit = self.visits.remove(&session);
        if let Some(held) = self.let_go(session)
            && visit.is_none()
        {
            let place = Record::new(0, &held.registration, &held.host).place();
            self.note_stay(now, &place, now.saturating_duration_since(held.since));
            return None;
        }
        let record = Arc::clone(self.registry.record_of(session)?);
        let vanished =
            matches!(reason, LeaveReason::Reset | LeaveReason::Hung | LeaveReason::Unreachable | LeaveReason::Stalled);
        let kept = vanished && self.losses.is_mass(now, self.registry.len());
        if kept {
            self.registry.keep(session, now + BACK_WITHIN);
            let why = format!("{}, as many others at once", reason.as_str());
            self.history.note(now, self.revision().rev, &record, "kept", why);
        } else {
            let stay = visit.map_or(Duration::MAX, |visit| now.saturating_duration_since(visit.since));
            self.registry.leave(session, reason);
            self.note_stay(now, &record.place(), stay);
            self.history.note(now, self.revision().rev, &record, "left", reason.as_str());
        }
        Some(Removal { record, kept })
    }

    /// An instance has left its place. As long as another one has the place, whoever says to be there comes and goes, and not who
    /// is: its next join must not wait for that.
    fn note_stay(&mut self, now: Instant, place: &NodeIdentity, stay: Duration) {
        if !self.registry.is_taken(place) {
            self.damping.left(now, place, stay);
        }
    }

    /// A peer was found not to answer, or to answer again. Returns whether that has to be told.
    pub(crate) fn judge(&mut self, now: Instant, session: SessionId, verdict: Verdict) -> bool {
        let (suspect, event) = match verdict {
            Verdict::Suspect => (true, "suspect"),
            Verdict::Trust => (false, "trusted"),
            Verdict::Ping | Verdict::Hung => return false,
        };
        let id = self.registry.record_of(session).map(|record| record.id);
        let Some(record) = id.and_then(|id| self.registry.mark(id, suspect)) else { return false };
        let why = if suspect { "no answer to a ping" } else { "it answers" };
        self.history.note(now, self.revision().rev, &record, event, why);
        true
    }

    /// A peer says that calls to these nodes failed. That counts if it is a node itself, once in a while for each node. Returns
    /// whether anything has to be told at once.
    pub(crate) fn report(&mut self, now: Instant, by: SessionId, failed: &[u64]) -> bool {
        let rev = self.revision().rev;
        if self.registry.record_of(by).is_none() {
            return false;
        }
        for &id in failed.iter().take(MAX_REPORTED) {
            if !self.may_doubt(now, by, id) {
                continue;
            }
            let (Some(record), Some(session)) = (self.registry.record(id), self.registry.holder(id)) else { continue };
            let record = Arc::clone(record);
            if record.version == Version::V2 {
                self.liveness.doubt(session);
                continue;
            }
            let known = self.suspicions.get(&id).filter(|known| now < known.until);
            let is_second = known.is_some_and(|known| known.by != by);
            if self.suspicions.len() < MAX_SUSPICIONS || known.is_some() {
                let by = known.map_or(by, |known| known.by);
                self.suspicions.insert(id, Suspicion { by, until: now + SUSPICION });
            }
            if is_second && let Some(record) = self.registry.mark(id, true) {
                self.history.note(now, self.revision().rev, &record, "suspect", "calls to it failed, say two peers");
            }
        }
        self.revision().rev != rev
    }

    fn may_doubt(&mut self, now: Instant, by: SessionId, id: u64) -> bool {
        if self.doubts.len() >= MAX_DOUBTS {
            self.doubts.retain(|_, until| now < *until);
        }
        let is_full = self.doubts.len() >= MAX_DOUBTS;
        match self.doubts.get_mut(&(by, id)) {
            Some(until) if now < *until => false,
            Some(until) => {
                *until = now + DOUBT_AGAIN;
                true
            }
            None if is_full => false,
            None => {
                self.doubts.insert((by, id), now + DOUBT_AGAIN);
                true
            }
        }
    }

    /// A peer knows this state, with this digest. Returns whether it should have another one.
    pub(crate) fn acknowledge(&mut self, session: SessionId, known: Revision, digest: Option<Digest>) -> bool {
        self.barriers.acknowledge(session, known);
        known == self.registry.revision() && digest.is_some_and(|digest| digest != self.registry.digest())
    }

    /// A part of what a node knows has come. Returns whether that was the last, and is in use now.
    pub(crate) fn take_copy(&mut self, now: Instant, session: SessionId, part: &CopyPart<'_>) -> bool {
        let Some(offered) = self.warmup.expects(session) else { return false };
        let records: Option<Vec<_>> =
            part.entries.iter().map(|(id, entry)| Record::from_entry(*id, entry.get())).collect();
        self.copy.extend(records.unwrap_or_default());
        let bytes: usize = self.copy.iter().map(|record| record.entry.len()).sum();
        if self.copy.len() > self.config.max_connections || bytes > self.config.max_list_bytes {
            self.copy.clear();
            self.warmup.spoiled(now);
            return false;
        }
        if part.more {
            return false;
        }
        let copy = std::mem::take(&mut self.copy);
        let mut digest = Digest::default();
        copy.iter().for_each(|record| digest.add(record.id, &record.entry));
        let is_offered = part.revision == offered.revision && offered.digest.is_none_or(|offered| offered == digest);
        if digest != part.digest || !is_offered || !is_sound(&copy) || self.is_too_much(&copy) {
            self.warmup.spoiled(now);
            return false;
        }
        self.registry.succeed(ResumePoint { revision: part.revision, digest: Some(digest) }, copy, now + BACK_WITHIN);
        self.warmup.restored();
        true
    }

    /// Whether a copy, and those who have registered and are not in it, would make a longer list than nodes take.
    fn is_too_much(&self, copy: &[Record]) -> bool {
        let instances: HashSet<_> = copy.iter().filter_map(|record| record.instance.as_deref()).collect();
        let is_new = |record: &&Arc<Record>| record.instance.as_deref().is_none_or(|id| !instances.contains(id));
        let new: usize = self.registry.records().filter(is_new).map(|record| record.entry.len() + 1).sum();
        let copied: usize = copy.iter().map(|record| record.entry.len() + 1).sum();
        copied + new + self.held_bytes > self.config.max_list_bytes
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Instant) -> DueActions {
        let mut turn = DueActions { ask: self.warmup.ask(now), ..DueActions::default() };
        if turn.ask.is_some() {
            self.copy.clear();
        }
        if self.warmup.ends(now) {
            self.registry.touch();
            turn.warm = true;
        }
        let due: Vec<_> = self.held.iter().filter(|(_, held)| held.until <= now).map(|(session, _)| *session).collect();
        for session in due {
            if let Some(Deferred { registration, host, .. }) = self.let_go(session) {
                self.enter(now, session, &registration, &host);
            }
        }
        if self.registry.absent() > 0 && self.next_removal <= now {
            let most = LEAST_REMOVALS.max(self.registry.len() / REMOVAL_SHARE);
            turn.gone = self.registry.expire(now, most);
            if !turn.gone.is_empty() {
                self.next_removal = now + REMOVAL_PERIOD;
            }
            for record in &turn.gone {
                self.history.note(now, self.revision().rev, record, "left", "it did not come back");
            }
        }
        let over: Vec<_> = self.suspicions.iter().filter(|(_, known)| known.until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.suspicions.remove(&id);
            if let Some(record) = self.registry.mark(id, false) {
                self.history.note(now, self.revision().rev, &record, "trusted", "nobody complains any more");
            }
        }
        let raised = self.barriers.look(now);
        let name = |session: &SessionId| {
            let record = self.registry.record_of(*session)?;
            Some(format!("{} {}", record.name, record.address()))
        };
        turn.raised = raised
            .into_iter()
            .map(|raised| {
                let missing = raised.missing.iter().filter_map(name).collect();
                (raised, missing)
            })
            .collect();
        turn
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let removal = if self.registry.absent() > 0 { self.registry.next_expiry() } else { None };
        let removal = removal.map(|at| at.max(self.next_removal));
        let held = self.held.values().map(|held| held.until).min();
        let suspicion = self.suspicions.values().map(|known| known.until).min();
        [self.warmup.next_due(), self.barriers.next_due(), removal, held, suspicion].into_iter().flatten().min()
    }

    /// From now on peers of this version are told of the state as it is now. Returns that state.
    pub(crate) fn publish(&mut self, version: Version) -> Revision {
        match version {
            Version::V1 => self.editions.legacy = Some(self.lists.legacy(&self.registry, &self.config)),
            Version::V2 => {
                self.registry.announce_returned();
                let edition = TargetState { stamp: self.stamp(), is_whole: self.registry.is_whole() };
                let before = std::mem::replace(&mut self.editions.news, edition);
                self.lists.step(&self.registry, before.stamp.revision, edition.stamp);
            }
        }
        self.revision()
    }

    /// The list that version 1 peers are being told.
    pub(crate) fn legacy(&mut self) -> Option<(OutPacket, Revision)> {
        self.editions.legacy.clone()
    }

    /// What a version 2 peer has to be told.
    pub(crate) fn news(&mut self, now: Instant, known: &PeerState) -> NextUpdate {
        let stamp = self.editions.news.stamp;
        let is_known = stamp.revision.epoch == self.registry.revision().epoch
            && self.registry.base(stamp.revision.into()).is_some();
        if !is_known {
            // More has changed since than is remembered, in the middle of a round.
            self.publish(Version::V2);
        }
        self.told(|roster| roster.lists.news(now, &roster.registry, roster.editions.news, known))
    }

    /// The list under a peer's own key.
    pub(crate) fn answer(&mut self, now: Instant, version: Version, key: &Key, view: &View) -> NextUpdate {
        let stamp = self.stamp();
        self.told(|roster| roster.lists.answer(now, &roster.registry, &roster.config, stamp, (version, key), view))
    }

    /// Whoever is told a list without those that are only copied has to be told of them when they come.
    fn told(&mut self, dispatch: impl FnOnce(&mut Self) -> NextUpdate) -> NextUpdate {
        let dispatch = dispatch(self);
        if matches!(&dispatch, NextUpdate::Packet(_, told) if told.confirmed_only) {
            self.registry.tell_partly();
        }
        dispatch
    }

    /// Says what a registration shows to be wrong with its node, for whoever asks why it is not called.
    pub(crate) fn note_loopback(&mut self, now: Instant, session: SessionId) {
        if let Some(record) = self.registry.record_of(session) {
            let why = "it listens on its own machine's loopback only: nodes on other machines cannot call it";
            self.history.note(now, self.registry.revision().rev, record, "unreachable", why);
        }
    }

    /// A question for a sign of life.
    pub(crate) fn ping(&self) -> Bytes {
        let mut out = BytesMut::new();
        write_ping(&mut out, self.liveness.interval(), self.registry.revision(), self.registry.digest());
        out.freeze()
    }

    /// What happened to a node.
    pub(crate) fn history(&self, now: Instant, node: &str) -> Vec<HistoryEvent> {
        self.history.of(now, node)
    }

    fn stamp(&self) -> UpdateHeader {
        UpdateHeader {
            revision: self.registry.revision(),
            digest: Some(self.registry.digest()),
            warming: self.warmup.is_warming(),
            ack: self.barriers.is_open(),
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
