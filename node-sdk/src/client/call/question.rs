//! A node with a partial view asks the Distributor who offers a route before it calls it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::call::progress::CallState;
use crate::client::call::raw_call::RawCall;
use crate::client::mesh::Mesh;
use crate::client::split_url;
use crate::client::unknown_route::url_form_error;
use crate::error::CallError;
use crate::routing::needs::ASK_INTERVAL;
use crate::routing::needs::questions::QuestionAnswer;
use crate::routing::table::Lookup;
use crate::transport::limits::DEFAULT_DEADLINE;

/// How long the answer is waited for when nodes are known that offer the url; and half of what is
/// left until the deadline at most. A Distributor that is well answers in milliseconds. Then the
/// known nodes are called: one that is silent must not stop calls of nodes that are well.
const KNOWN_PROVIDER_MAX_WAIT: Duration = Duration::from_secs(1);

impl RawCall<'_> {
    /// Asks first, if this node is not told of all nodes that offer what was found, or nothing was
    /// found. Returns whether the call waits for the answer.
    pub(super) fn asks_first(&mut self, found: &Lookup<'_>, now: Instant, deadline: Instant) -> bool {
        let may_ask = self.awaits_list && self.address.is_none() && self.asked().is_none();
        if !may_ask || !self.progress.tried().is_empty() || self.mesh.is_told_of(found, now) {
            return false;
        }
        let url = self.url();
        if url_form_error(&url).is_some() {
            return false;
        }
        match self.mesh.view().needs().ask(&url, now) {
            Ok(answer) => {
                self.progress.setbacks_mut().asked = Some(answer);
                false
            }
            Err(asking) => {
                let until = wait_until(found, now, deadline);
                self.progress.state = CallState::Asking(Box::pin(asking.answer(until)));
                true
            }
        }
    }

    /// The answer of the Distributor, if it was asked.
    fn asked(&self) -> Option<QuestionAnswer> {
        self.progress.setbacks.as_ref()?.asked
    }

    /// The error of a call whose url no known node offers, because the Distributor could not be
    /// asked.
    pub(super) fn not_asked_error(&self) -> Option<CallError> {
        match self.asked() {
            Some(QuestionAnswer::Failed(reason)) => Some(CallError::NotAsked { url: self.url(), reason }),
            Some(QuestionAnswer::Offered | QuestionAnswer::NotOffered) | None => None,
        }
    }
}

impl Mesh {
    /// Whether this node is told of all nodes that offer what was found, which it is about to use.
    /// Before the first list of a Distributor, the known nodes count as all nodes.
    pub(super) fn is_told_of(&self, found: &Lookup<'_>, now: Instant) -> bool {
        match found {
            Lookup::Available(providers, _) => {
                let route = providers.members().first().map(|provider| &provider.route);
                !self.view().has_list() || route.is_some_and(|route| self.view().needs().use_url(route, now))
            }
            Lookup::Unavailable | Lookup::Unknown => !self.view().has_list(),
        }
    }

    /// Asks who offers a url that is about to be used, unless this node is told of that. Waits for
    /// the answer as a call does. Cancel safe.
    pub(crate) async fn learn(&self, url: &str) {
        let (method, path) = split_url(url);
        let now = Instant::now();
        let needs = self.view().needs();
        if !needs.is_partial() {
            return;
        }
        let found = self.lookup(method, path);
        if self.is_told_of(&found, now) || url_form_error(url).is_some() {
            return;
        }
        if let Err(asking) = needs.ask(url, now) {
            asking.answer(wait_until(&found, now, now + DEFAULT_DEADLINE)).await;
        }
    }

    /// Asks who offers these urls, again and again while no node does. Never completes; cancel
    /// safe.
    pub(crate) async fn keep_asking(&self, urls: &[&str]) {
        loop {
            self.view().wait_for_list().await;
            for url in urls {
                self.learn(url).await;
            }
            sleep(ASK_INTERVAL).await;
        }
    }
}

/// The time until which the answer is waited for, by what was found without it.
fn wait_until(found: &Lookup<'_>, now: Instant, deadline: Instant) -> Instant {
    match found {
        Lookup::Available(..) => now + (deadline.saturating_duration_since(now) / 2).min(KNOWN_PROVIDER_MAX_WAIT),
        Lookup::Unavailable | Lookup::Unknown => deadline,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Turns;
    use crate::routing::provider::RouteProviders;

    #[tokio::test(start_paused = true)]
    async fn beside_known_nodes_the_answer_is_waited_for_briefly() {
        let now = Instant::now();
        let check = |found: &Lookup<'_>, left: u64, expected: u64| {
            let until = wait_until(found, now, now + Duration::from_millis(left));
            assert_eq!(until - now, Duration::from_millis(expected), "{left} ms are left");
        };
        let known = Lookup::Available(Arc::new(RouteProviders::new(Turns::default())), Vec::new());
        let most = u64::try_from(KNOWN_PROVIDER_MAX_WAIT.as_millis()).unwrap();
        check(&known, 10 * most, most);
        check(&known, most, most / 2);
        check(&known, 0, 0);
        check(&Lookup::Unknown, 10 * most, 10 * most);
        check(&Lookup::Unavailable, most, most);
    }
}
