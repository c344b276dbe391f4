//! A second attempt while the first is still under way.

use std::net::SocketAddr;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::balance::{PickOptions, Readiness};
use crate::client::progress::{CallState, HedgeState};
use crate::client::raw_call::RawCall;
use crate::routing::table::Lookup;
use crate::transport::connection::PendingCall;
use crate::transport::in_flight::CallFailure;

impl RawCall<'_> {
    /// Calls a second provider when it is time, and polls that call. When it ends, it takes the
    /// place of the first.
    pub(super) fn poll_hedge(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Bytes, CallFailure>> {
        if matches!(self.progress.hedge, HedgeState::Idle) {
            let may = self.idempotent && !self.one_way && self.address.is_none() && self.pick.instance.is_none();
            let after = self.hedge.filter(|_| may);
            self.progress.hedge = after.map_or(HedgeState::Done, |after| HedgeState::At(Box::pin(sleep(after))));
        }
        if let HedgeState::At(at) = &mut self.progress.hedge {
            if at.as_mut().poll(task).is_pending() {
                return Poll::Pending;
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
    fn start_hedge(&self) -> Option<PendingCall> {
        let CallState::Waiting(first) = &self.progress.state else { return None };
        let now = Instant::now();
        let deadline = self.progress.deadline.filter(|deadline| *deadline > now)?;
        let Lookup::Available(providers, captured) = self.mesh.lookup(self.method, self.path) else { return None };
        let tried: Vec<SocketAddr> = self.progress.tried.iter().copied().chain([first.connection().address]).collect();
        let options = PickOptions { tried: &tried, ..self.pick };
        let provider = providers.pick(&options, now, |provider| self.mesh.connect(&provider.connection))?;
        let is_up = provider.connection.readiness(now) == Readiness::Ready;
        if !is_up || !self.mesh.retries().try_withdraw(now.into_std()) {
            return None;
        }
        self.submit(provider, &captured, now, deadline, &self.context()).ok().flatten()
    }
}
