//! A second attempt while the first is still under way.

use std::net::SocketAddr;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::balance::Readiness;
use crate::client::call::progress::{CallState, HedgeState};
use crate::client::call::raw_call::RawCall;
use crate::routing::provider::Provider;
use crate::routing::table::Lookup;
use crate::transport::connection::PendingCall;
use crate::transport::in_flight::CallResult;

/// A connection over which nothing has been answered, not even the hello of version 2, may lead to
/// a process that is gone: the master of a cluster accepts for its workers. After this time without
/// an answer, calls go over a new connection, and idempotent calls are made again.
const UNPROVEN_AFTER: Duration = Duration::from_secs(1);

impl RawCall<'_> {
    /// Whether the call is, or may be, made a second time while the first is under way.
    pub(super) fn hedges(&self) -> bool {
        self.hedge.is_some()
            || self.waits_unproven()
            || matches!(self.progress.hedge, HedgeState::At(_) | HedgeState::Asked(_))
    }

    fn waits_unproven(&self) -> bool {
        matches!(&self.progress.state, CallState::Waiting(first) if first.connection().is_unproven()) && !self.is_probe
    }

    /// Whether the connection of the call is still being made.
    fn is_connecting(&self) -> bool {
        matches!(&self.progress.state, CallState::Waiting(first) if !first.connection().is_up())
    }

    fn may_hedge(&self) -> bool {
        self.idempotent && !self.one_way && self.address.is_none() && self.instance.is_none()
    }

    /// Calls a second provider when it is time, and polls that call. When the second call ends
    /// first, the two are swapped.
    pub(super) fn poll_hedge(&mut self, task: &mut TaskContext<'_>) -> Poll<CallResult> {
        if matches!(self.progress.hedge, HedgeState::Idle) {
            let unproven = self.waits_unproven().then_some(UNPROVEN_AFTER);
            let after = self.hedge.filter(|_| self.may_hedge()).or(unproven);
            self.progress.hedge = after.map_or(HedgeState::Done, |after| HedgeState::At(Box::pin(sleep(after))));
        }
        if let HedgeState::At(at) = &mut self.progress.hedge {
            ready!(at.as_mut().poll(task));
            while self.hedge.is_none() && self.is_connecting() {
                // A connection that does not exist yet cannot have answered.
                let mut later = Box::pin(sleep(UNPROVEN_AFTER));
                let waits = later.as_mut().poll(task);
                self.progress.hedge = HedgeState::At(later);
                ready!(waits);
            }
            self.progress.hedge = self.start_hedge().map_or(HedgeState::Done, HedgeState::Asked);
        }
        let HedgeState::Asked(other) = &mut self.progress.hedge else { return Poll::Pending };
        let Poll::Ready(outcome) = other.poll(task) else { return Poll::Pending };
        if let (HedgeState::Asked(other), CallState::Waiting(first)) =
            (&mut self.progress.hedge, &mut self.progress.state)
        {
            std::mem::swap(other, first);
        }
        Poll::Ready(outcome)
    }

    /// Makes the call a second time, to a provider with a live connection, if there is another one.
    /// If the first connection has answered nothing, also over a new connection to the same
    /// provider.
    fn start_hedge(&self) -> Option<PendingCall> {
        let CallState::Waiting(first) = &self.progress.state else { return None };
        let is_unproven = self.waits_unproven() && !self.is_connecting();
        if is_unproven {
            self.mesh.renew(first.connection());
        }
        if !self.may_hedge() || (self.hedge.is_none() && !is_unproven) {
            return None;
        }
        let now = Instant::now();
        let deadline = self.progress.deadline.filter(|deadline| *deadline > now)?;
        let Lookup::Available(providers, captured) = self.mesh.lookup(self.method, self.path) else { return None };
        let tried: Vec<SocketAddr> =
            self.progress.tried().iter().copied().chain([first.connection().address]).collect();
        let options = self.pick_options(&providers, &tried);
        let other = providers.pick(&options, now, |provider| self.mesh.connect(&provider.connection));
        let other = other.filter(|provider| provider.connection.readiness(now) == Readiness::Ready);
        let same = |provider: &&Provider| is_unproven && provider.connection.address == first.connection().address;
        let provider = other.or_else(|| providers.members().iter().find(same))?;
        if !self.mesh.retries().try_withdraw(now.into_std()) {
            return None;
        }
        self.mesh.connect(&provider.connection);
        self.submit(provider, &captured, now, deadline, &self.context()).ok().flatten()
    }
}
