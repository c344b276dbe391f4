//! The error of a call that no node has answered.

use tokio::time::{Instant, timeout_at};

use crate::client::call::progress::{CallSetbacks, CallState};
use crate::client::call::raw_call::RawCall;
use crate::client::call::response::RawResponse;
use crate::client::unknown_route;
use crate::error::CallError;

impl RawCall<'_> {
    /// Handles a url that no known node offers: waits for the first list if that has not come.
    pub(super) fn unknown_route(&mut self, deadline: Instant) -> Result<(), CallError> {
        if let Some(error) = self.not_asked_error() {
            return Err(error);
        }
        if !self.awaits_list {
            return Err(CallError::NoRoute { url: self.url() });
        }
        match unknown_route::error(self.mesh, self.method, self.path) {
            CallError::NoList { .. } => {
                self.progress.setbacks_mut().has_waited_for_list = true;
                let listed = self.mesh.view().wait_for_list();
                self.progress.state = CallState::AwaitingList(Box::pin(async move {
                    let _ = timeout_at(deadline, listed).await;
                }));
                Ok(())
            }
            error => Err(error),
        }
    }

    /// The result when no node is left to try.
    pub(super) fn no_provider_error(&mut self) -> Result<RawResponse, CallError> {
        let url = self.url();
        let CallSetbacks { lost, declined, has_found_full, has_found_too_small, .. } = self.progress.setbacks_mut();
        match (lost, declined.take()) {
            (_, Some(declined)) => Ok(declined),
            (Some(node), None) => Err(CallError::Lost { url, node: *node }),
            (None, None) if *has_found_full => Err(CallError::Overloaded { url }),
            (None, None) if *has_found_too_small => Err(CallError::TooLarge { url }),
            (None, None) => Err(CallError::NoProvider { url }),
        }
    }

    pub(super) fn deadline_error(&self) -> CallError {
        CallError::Deadline { url: self.url(), within: self.progress.within }
    }
}
