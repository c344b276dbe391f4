//! Decides whether a session may register, and what its registration does to the table of entries.
//!
//! It must not judge whether nodes are alive: `liveness` does.

pub(super) mod address_limit;
pub(super) mod admission_rate;
pub(super) mod damping;
pub(super) mod deferred;
pub(super) mod rejection;

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{IgnoredParts, RegisterOptions, Registration, ResumePoint, Secret};

use crate::entries::address_shares::is_same_address;
use crate::entries::interests::Interests;
use crate::entries::{NodeIdentity, Record, RegisterOutcome, RegistrationChange, Retained, SessionId};
use crate::rate_limit::token_bucket::TokenBucket;
use crate::registry::admission::address_limit::is_within_share;
use crate::registry::admission::deferred::Deferred;
use crate::registry::admission::rejection::Rejection;
use crate::registry::history::BEFORE_RESTART;
use crate::registry::{Registry, Tenure};

/// The time after which peers that register while the Distributor stops should come back.
pub(super) const RETRY_AFTER_STOP: Duration = Duration::from_secs(3);

/// The outcome of a registration that is taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The node is listed. A session that it superseded has lost its entry.
    Listed(RegistrationChange),
    /// The node will be listed after this time: it comes and goes, or changes, too often.
    Deferred(Duration),
}

/// Why a registration is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegisterError {
    /// Too many nodes register at once; there is room after this time.
    Busy(Duration),
    /// The Distributor is stopping; another should be there after this time.
    Draining(Duration),
    /// The list would be larger than nodes accept.
    Full,
    /// The nodes of its address would hold more of the list than is left for others.
    AddressFull,
    /// The instance id is made of a secret that the peer has not shown.
    NotYours,
    /// The session is about to be cut.
    Superseded,
}

/// The changes for the session of a registration that is taken.
#[derive(Debug)]
pub(crate) struct RegisterEffects {
    pub(crate) admission: Admission,
    /// The node's interests; `None` means all.
    pub(crate) interests: Option<Arc<Interests>>,
    /// The state from which the node can be told the changes.
    pub(crate) resume: Option<ResumePoint>,
    /// A url that it offers beside a service of another name, if it has one.
    pub(crate) shared_url: Option<SharedUrl>,
    /// What it uses has no room, and it is told of less.
    pub(crate) uses_without_room: Option<IgnoredParts>,
}

/// A url that services of two names offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedUrl {
    pub(crate) url: Box<str>,
    /// The other service that offers it.
    pub(crate) other: Box<str>,
    /// How many such urls there are.
    pub(crate) count: usize,
}

impl Admission {
    /// Whether lists show the same as before.
    pub(crate) fn is_unchanged(&self) -> bool {
        matches!(self, Self::Listed(RegistrationChange { outcome: RegisterOutcome::Unchanged, .. }))
    }

    /// The notice to the peer, if the registration is not listed at once.
    pub(crate) fn notice(&self) -> Option<Rejection> {
        let message = "the node comes and goes, or changes, too often; this registration will be listed later";
        match self {
            Self::Listed(_) => None,
            Self::Deferred(wait) => Some(Rejection::new(202, "held_back", message).retry_after(*wait)),
        }
    }
}

impl RegisterError {
    /// The packet for the peer; `None` when the session is about to be cut with a reason of its
    /// own.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        let (status, reason, message, retry_after) = match self {
            Self::Busy(wait) => {
                (503, "busy", "too many nodes register at once (--registrations-per-second)", Some(*wait))
            }
            Self::Draining(wait) => (503, "draining", "this Distributor is stopping", Some(*wait)),
            Self::Full => (507, "registry_full", "the list would become larger than nodes accept", None),
            Self::AddressFull => (507, "address_full", "nodes of this address have used their share of the list", None),
            Self::NotYours => {
                (403, "not_yours", "this instance id is made of a secret that the packet does not contain", None)
            }
            Self::Superseded => return None,
        };
        Some(Rejection { retry_after, ..Rejection::new(status, reason, message) })
    }
}

impl Registry {
    /// Registers this session if it may, and returns what that changes for the session. `is_cut`
    /// says that the session is about to end: a newer connection keeps the instance then.
    ///
    /// # Errors
    /// [`RegisterError`] when it is refused. An earlier registration stands, and the session is
    /// unchanged.
    pub(crate) fn register_session(
        &mut self,
        now: Instant,
        session: SessionId,
        is_cut: bool,
        registration: Registration,
        host: &str,
        options: &RegisterOptions,
    ) -> Result<RegisterEffects, RegisterError> {
        let (interests, uses_without_room) = self.affordable_interests(session, host, options)?;
        let interest_bytes = interests.as_ref().map_or(0, |interests| interests.bytes());
        if is_cut {
            return Err(RegisterError::Superseded);
        }
        let resume = options.resume.filter(|point| self.can_resume_from(*point));
        let is_unserved = resume.is_none() && registration.advert.is_some() && !self.tenures.contains_key(&session);
        let admission = self.admit(now, session, registration, host, options)?;
        if is_unserved {
            self.transfers.wait_for_list(session);
        }
        self.interest_budget.set(session, host, interest_bytes);
        self.visibility.set_interests(session, interests.as_ref());
        let shared_url =
            if matches!(admission, Admission::Listed(_)) { self.record_shared_url(now, session) } else { None };
        Ok(RegisterEffects { admission, interests, resume, shared_url, uses_without_room })
    }

    /// Records in the history that services of two names offer one url, and returns which.
    fn record_shared_url(&mut self, now: Instant, session: SessionId) -> Option<SharedUrl> {
        let record = Arc::clone(self.entries.record_of(session)?);
        let (urls, other) = self.entries.newly_shared(&record)?;
        let shared = SharedUrl { url: urls[0].into(), other: other.name.clone(), count: urls.len() };
        let more = if shared.count > 1 { format!(", and {} more", shared.count - 1) } else { String::new() };
        let why = format!("{} is offered by {} too{more}: calls go to either", shared.url, shared.other);
        self.history.record(now, self.revision().rev, &record, "shares", why);
        Some(shared)
    }

    /// Decides whether a registration, the first one or a later one, is listed, deferred or
    /// refused; and lists or defers it.
    ///
    /// # Errors
    /// [`RegisterError`] when it is refused. An earlier registration stands.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        session: SessionId,
        registration: Registration,
        host: &str,
        options: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        let known = self.entries.record_of(session).map(Arc::clone);
        if self.is_draining {
            return Err(RegisterError::Draining(RETRY_AFTER_STOP));
        }
        if !may_register_instance(&registration, options) {
            return Err(RegisterError::NotYours);
        }
        let record = Record::new(0, &registration, host);
        self.check_room(session, &record)?;
        // Version 1 nodes cannot be told to come later.
        let is_v2 = registration.advert.is_some();
        if known.is_none()
            && is_v2
            && let Err(wait) = self.admission_rate.try_admit(now, self.transfers.is_crowded())
        {
            return Err(RegisterError::Busy(wait));
        }
        // An epoch is the time of a Distributor's start. An epoch after our own was made up, or
        // comes from a clock that was ahead: it does not count.
        if let Some(have) = options.resume
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
        let offers = self.entries.offers_of(&record);
        let (wait, what) = match &known {
            // The start of a drain is never delayed.
            Some(known) if known.entry != record.entry && !is_draining(&registration) => {
                (self.update_delay(now, session), "changes")
            }
            Some(_) => (None, ""),
            None if self.entries.is_expected(&record) => (None, ""),
            None => (self.join_delay(now, &record.identity(), &offers), "comes and goes"),
        };
        if let Some(wait) = wait {
            let why = format!("it {what} too often; listed in {:.1} s", wait.as_secs_f32());
            self.history.record(now, self.revision().rev, &record, "deferred", why);
            let since = self.deferred.get(session).map_or(now, |deferred| deferred.since);
            let (host, bytes) = (host.to_owned(), record.entry.len());
            self.defer(session, Deferred { registration, host, bytes, offers, since, until: now + wait });
            return Ok(Admission::Deferred(wait));
        }
        self.deferred.remove(session);
        let registered = self.list_entry(now, session, &registration, host);
        if let Some(visible) = options.visibility.filter(|_| is_v2) {
            let listed = self.tenures.get(&session).map_or_else(|| self.revision(), |tenure| tenure.listed);
            self.visibility.open(now, session, listed, visible);
        }
        Ok(Admission::Listed(registered))
    }

    /// Checks that the list has room for this entry beside all others and all that wait to be
    /// listed, and its address a share that is large enough. What is replaced does not count.
    fn check_room(&self, session: SessionId, record: &Record) -> Result<(), RegisterError> {
        let (host, bytes) = (&*record.host, record.entry.len());
        let instance = record.instance.as_deref();
        let replaced = self.entries.record_of(session);
        let replaced = replaced.or_else(|| instance.and_then(|instance| self.entries.record_of_instance(instance)));
        let replaced_bytes = replaced.map_or(0, |record| record.entry.len());
        if bytes <= replaced_bytes {
            return Ok(());
        }
        let deferred = self.deferred.get(session).map_or(0, |deferred| deferred.bytes);
        let others = (self.entries.list_bytes() + self.deferred.bytes()).saturating_sub(replaced_bytes + deferred);
        let free = self.config.max_list_bytes.checked_sub(others + bytes).ok_or(RegisterError::Full)?;
        let own = replaced.filter(|record| record.is_confirmed && is_same_address(&record.host, host));
        let replaced_bytes = own.map_or(0, |record| record.entry.len());
        let held = self.entries.shares().held_by(host) + self.deferred.shares().held_by(host);
        let held = held.saturating_sub(replaced_bytes + deferred) + bytes;
        if is_within_share(host, held, free) { Ok(()) } else { Err(RegisterError::AddressFull) }
    }

    /// How long an unlisted node with these offers waits before it is listed.
    pub(super) fn join_delay(&mut self, now: Instant, identity: &NodeIdentity, offers: &[u64]) -> Option<Duration> {
        if self.entries.lacks(offers) {
            self.damping.sole_delay(now, identity)
        } else {
            self.damping.delay(now, identity)
        }
    }

    fn update_delay(&mut self, now: Instant, session: SessionId) -> Option<Duration> {
        let (rate, burst) = (self.config.updates_per_second, self.config.update_burst);
        let tenure = self.tenures.get_mut(&session)?;
        tenure.updates.get_or_insert_with(|| Box::new(TokenBucket::new(rate, burst))).try_spend(now).err()
    }

    pub(super) fn list_entry(
        &mut self,
        now: Instant,
        session: SessionId,
        registration: &Registration,
        host: &str,
    ) -> RegistrationChange {
        if let Some(instance) = instance_of(registration) {
            self.supersede_deferred(session, instance);
        }
        let registered = self.entries.register(session, registration, host);
        let since = match (registered.outcome, registered.superseded) {
            (RegisterOutcome::Joined, _) => Some(now),
            // The instance continues over another connection.
            (_, Some(superseded)) => self.tenures.get(&superseded).map_or(Some(now), |tenure| tenure.since),
            // The entry was kept for it.
            (RegisterOutcome::Updated | RegisterOutcome::Unchanged, None) => None,
        };
        let listed = self.entries.revision();
        let tenure = self.tenures.entry(session).or_insert(Tenure { since, listed, updates: None });
        match registered.outcome {
            RegisterOutcome::Joined => tenure.listed = listed,
            RegisterOutcome::Updated => {
                tenure.listed = listed;
                self.deferred.record_offer_change(now);
            }
            RegisterOutcome::Unchanged => {}
        }
        if let Some(superseded) = registered.superseded {
            self.deferred.remove(superseded);
            self.forget(superseded);
            self.superseded.push(superseded);
        }
        let event = match registered.outcome {
            RegisterOutcome::Joined => "joined",
            RegisterOutcome::Updated => "updated",
            RegisterOutcome::Unchanged if registered.is_return() => "came back",
            RegisterOutcome::Unchanged => return registered,
        };
        if let Some(record) = self.entries.record_of(session) {
            let why = match registered.retained {
                Some(Retained::OverRestart) => BEFORE_RESTART,
                Some(Retained::OverMassLoss) => "it was lost among many",
                None if registered.superseded.is_some() => "on a new connection",
                None => "",
            };
            self.history.record(now, self.entries.revision().rev, record, event, why);
        }
        registered
    }
}

/// Whether a peer may register this instance. An id that is made of a secret needs that secret; any
/// other id is free.
fn may_register_instance(registration: &Registration, options: &RegisterOptions) -> bool {
    let fits = |id: &str| options.secret.as_ref().is_some_and(|secret| secret.instance() == id);
    instance_of(registration).is_none_or(|id| !Secret::guards(id) || fits(id))
}

/// The instance that a registration names.
pub(super) fn instance_of(registration: &Registration) -> Option<&str> {
    registration.advert.as_ref()?.id.as_deref()
}

fn is_draining(registration: &Registration) -> bool {
    registration.advert.as_ref().is_some_and(|advert| advert.draining)
}
