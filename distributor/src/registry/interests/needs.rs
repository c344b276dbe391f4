//! The interests of nodes that can ask: all nodes while these are few, and otherwise the nodes that
//! they use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{EVENT_PREFIX, IgnoredParts, RegisterOptions, Route, RouterError};

use crate::entries::SessionId;
use crate::entries::interests::{InterestKind, Interests};
use crate::registry::Registry;
use crate::registry::admission::RegisterError;
use crate::registry::admission::rejection::Rejection;
use crate::updates::learned::LearnedUpdate;
use crate::updates::lists::{PeerState, WaitReason};

/// A mesh is small again for a node that had a partial view when it has fewer than half (1 / this)
/// of `tell_all_up_to` nodes. Otherwise, in a mesh of about that size, a node would know all or a
/// part by chance.
const SMALL_AGAIN_DIVISOR: usize = 2;

/// How long a node waits before it asks again, if it is about to be sent the list of what it needs.
const ASK_AFTER_LIST_DELAY: Duration = Duration::from_millis(10);

/// The time between two nodes that ask again after their questions were turned away: as many come
/// back in a second as may register.
pub(in crate::registry) const QUESTION_INTERVAL: Duration = Duration::from_micros(200);
/// No node is told to wait longer, because its calls wait as long.
pub(in crate::registry) const MAX_QUESTION_WAIT: Duration = Duration::from_secs(1);

/// The answer to a question.
#[derive(Debug)]
pub(crate) struct LearnedInterests {
    /// The registered url to which each route belongs, if a node offers it.
    pub(crate) needs: Vec<Option<String>>,
    /// The node's interests from now on, if they have grown.
    pub(crate) interests: Option<Arc<Interests>>,
    /// The update that it is sent before the answer.
    pub(crate) update: LearnedUpdate,
}

impl Registry {
    /// The interests of a node that registers; `None` means all. A node that can ask is told of all
    /// others while these are few. A session that began with all nodes, or with a part, stays so.
    fn interests_of(&self, session: SessionId, options: &RegisterOptions) -> Option<Interests> {
        if let Some(named) = &options.interests {
            return Some(Interests::named(named.clone()));
        }
        let uses = options.uses.as_ref()?;
        let is_partial = match self.visibility.interests_of(session) {
            Some(interests) => interests.is_some(),
            None => self.is_large(options.part),
        };
        is_partial.then(|| Interests::used(uses.iter().map(String::as_str)))
    }

    /// Whether the mesh is too large to tell a node that can ask of all nodes. `was_part`: whether
    /// the node had a partial view before. During the warmup lists lack nodes, and do not show that
    /// a mesh is small.
    fn is_large(&self, was_part: bool) -> bool {
        let (nodes, limit) = (self.entries.len(), self.config.tell_all_up_to);
        nodes >= limit || was_part && (self.warmup.is_warming() || nodes >= limit / SMALL_AGAIN_DIVISOR)
    }

    /// The interests of a node that registers, as far as the budget has room for them. A node that
    /// can ask is not turned away: it keeps the interests that it has on this session, or has none,
    /// and asks. Also returns what was left out.
    ///
    /// # Errors
    /// There is no room for the interests that its author has named.
    pub(in crate::registry) fn affordable_interests(
        &self,
        session: SessionId,
        host: &str,
        options: &RegisterOptions,
    ) -> Result<(Option<Arc<Interests>>, Option<IgnoredParts>), RegisterError> {
        let Some(interests) = self.interests_of(session, options) else { return Ok((None, None)) };
        let Err(error) = self.interest_budget.check(session, host, interests.bytes()) else {
            return Ok((Some(Arc::new(interests)), None));
        };
        if interests.kind() == InterestKind::Named {
            return Err(error);
        }
        let before = self.visibility.interests_of(session).flatten();
        let before = before.filter(|before| before.kind() == InterestKind::Used).cloned();
        let kept = before.unwrap_or_else(|| Arc::new(Interests::used([])));
        let first = "there is no room for what the node uses beside what others use (--max-list-bytes): it is told of \
                     these nodes when it asks"
            .to_owned();
        let count = interests.len().saturating_sub(kept.len()).max(1);
        Ok((Some(kept), Some(IgnoredParts { first, count })))
    }

    /// How many nodes are told only of what they use.
    pub(crate) fn partial_views(&self) -> usize {
        self.visibility.partial_views()
    }

    /// Answers the question of a node that knows this: who offers these routes? From now on the
    /// node is told of the nodes that do.
    ///
    /// # Errors
    /// The node may not ask, cannot be told now, or needs more than it may. Nothing has changed.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        session: SessionId,
        host: &str,
        known: &PeerState,
        routes: &[String],
    ) -> Result<LearnedInterests, Rejection> {
        let needs: Vec<_> = routes.iter().map(|route| self.needed_url(route)).collect();
        let Some(before) = &known.view.interests else {
            return Ok(LearnedInterests { needs, interests: None, update: LearnedUpdate::Nothing });
        };
        if before.kind() == InterestKind::Named {
            let message = "a node with needs is told of these, and of no others";
            return Err(Rejection::new(400, "bad_need", message));
        }
        let mut added: Vec<&str> = needs.iter().flatten().map(String::as_str).filter(|url| !before.has(url)).collect();
        added.sort_unstable();
        added.dedup();
        let header = self.header();
        if added.is_empty() && [known.revision, known.irrelevant_until].contains(&Some(header.revision)) {
            return Ok(LearnedInterests { needs, interests: None, update: LearnedUpdate::Nothing });
        }
        if before.len() + added.len() > self.config.max_urls {
            let message = format!("a node uses at most {} urls at a time (--max-urls)", self.config.max_urls);
            return Err(Rejection::new(400, "too_many_needs", message));
        }
        self.lists.check_pace(now).map_err(|wait| self.reject_question(now, wait))?;
        let grown = (!added.is_empty()).then(|| Arc::new(before.with(added.iter().copied())));
        if let Some(interests) = &grown {
            let checked = self.interest_budget.check(session, host, interests.bytes());
            checked.map_err(|error| error.rejection().unwrap_or_else(|| Rejection::new(503, "busy", "it is cut")))?;
        }
        let interests = grown.as_ref().unwrap_or(before);
        let update = self.lists.learned(now, &self.entries, header, known, interests, Interests::used(added));
        let update = update.map_err(|wait| self.reject_question(now, wait))?;
        if matches!(&update, LearnedUpdate::Change(_, told) if told.confirmed_only) {
            self.entries.publish_partly();
        }
        if let Some(interests) = &grown {
            self.interest_budget.set(session, host, interests.bytes());
            self.visibility.set_interests(session, Some(interests));
        }
        Ok(LearnedInterests { needs, interests: grown, update })
    }

    /// The rejection of a question for which there is no time or memory now.
    fn reject_question(&mut self, now: Instant, wait: WaitReason) -> Rejection {
        let (WaitReason::Pace(at) | WaitReason::Memory(at)) = wait;
        let wait = self.question_waits.next_wait(now, at.saturating_duration_since(now));
        Rejection::new(503, "busy", "many nodes are told what they need").retry_after(wait)
    }

    /// The urls of a session that no node calls, as searches among them would take too long.
    pub(crate) fn refused_urls(&self, session: SessionId) -> Option<IgnoredParts> {
        let mut urls = self.entries.refused_urls(self.entries.record_of(session)?);
        let shown: String = urls.next()?.chars().take(60).collect();
        let why = RouterError::TooManyShapes.reason();
        Some(IgnoredParts { first: format!("'{shown}' is not called: {why}"), count: 1 + urls.count() })
    }

    /// The registered url that a route belongs to.
    fn needed_url(&self, route: &str) -> Option<String> {
        // An event can be needed before any node has subscribed to it.
        if route.starts_with(EVENT_PREFIX) {
            return Route::parse(route).ok().filter(|event| !event.is_pattern()).map(|event| event.as_str().to_owned());
        }
        self.entries.url_of(route).map(str::to_owned)
    }
}

impl LearnedInterests {
    /// The rejection in place of an answer while the node is about to be sent a list.
    pub(crate) fn after_list() -> Rejection {
        Rejection::new(503, "busy", "the list of what the node needs comes first").retry_after(ASK_AFTER_LIST_DELAY)
    }
}
