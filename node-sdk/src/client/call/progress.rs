//! The progress of a call over all its attempts.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::client::call::observed::ObservedCall;
use crate::client::call::response::RawResponse;
use crate::client::local_call::LocalResponse;
use crate::routing::needs::questions::QuestionAnswer;
use crate::transport::connection::PendingCall;

/// The progress of a call.
#[derive(Debug, Default)]
pub(super) struct CallProgress {
    /// The deadline, from the first attempt on.
    pub(super) deadline: Option<Instant>,
    /// How long the call may take, from its first attempt to its deadline.
    pub(super) within: Duration,
    pub(super) state: CallState,
    /// What has kept the call from being answered at once. On the heap: most calls have none.
    pub(super) setbacks: Option<Box<CallSetbacks>>,
    /// The stream that the call has become.
    pub(super) opened: Option<PendingCall>,
    pub(super) hedge: HedgeState,
    pub(super) observed: ObservedCall,
}

/// What a call has met before its response.
#[derive(Debug, Default)]
pub(super) struct CallSetbacks {
    /// The answer of the Distributor, if it was asked who offers the route.
    pub(super) asked: Option<QuestionAnswer>,
    /// Whether the call has waited for the first list.
    pub(super) has_waited_for_list: bool,
    /// The nodes that were tried without success.
    pub(super) tried: Vec<SocketAddr>,
    /// The lost node that may have carried out the call.
    pub(super) lost: Option<SocketAddr>,
    /// A response which says that the call was not carried out. It is returned if no other node
    /// succeeds.
    pub(super) declined: Option<RawResponse>,
    /// Whether the response in `declined`, or an earlier one, came from this node itself.
    pub(super) has_declined_here: bool,
    /// Whether a tried node had no room.
    pub(super) has_found_full: bool,
    /// Whether a tried node cannot take so large a packet.
    pub(super) has_found_too_small: bool,
}

impl CallProgress {
    /// The nodes that were tried without success.
    pub(super) fn tried(&self) -> &[SocketAddr] {
        self.setbacks.as_ref().map_or(&[], |setbacks| &setbacks.tried)
    }

    /// What the call has met, to be added to.
    pub(super) fn setbacks_mut(&mut self) -> &mut CallSetbacks {
        self.setbacks.get_or_insert_default()
    }

    /// The lost node that may have carried out the call.
    pub(super) fn lost(&self) -> Option<SocketAddr> {
        self.setbacks.as_ref()?.lost
    }

    /// Whether a node has answered that it does not carry out the call.
    pub(super) fn has_declined(&self) -> bool {
        self.setbacks.as_ref().is_some_and(|setbacks| setbacks.declined.is_some())
    }

    /// Whether this node itself has not carried out the call.
    pub(super) fn has_declined_here(&self) -> bool {
        self.setbacks.as_ref().is_some_and(|setbacks| setbacks.has_declined_here)
    }
}

#[derive(Default)]
pub(super) enum CallState {
    /// The next attempt should be made.
    #[default]
    Due,
    Waiting(PendingCall),
    /// This node itself answers.
    Local(LocalResponse),
    /// The Distributor is asked who offers the route.
    Asking(Pin<Box<dyn Future<Output = QuestionAnswer> + Send>>),
    /// The first list is to come.
    AwaitingList(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Asking a second provider.
#[derive(Debug, Default)]
pub(super) enum HedgeState {
    /// The timer has not started.
    #[default]
    Idle,
    /// On the heap: few calls are hedged.
    At(Pin<Box<Sleep>>),
    /// A second provider works on it too.
    Asked(PendingCall),
    /// No second provider is called, or the hedge is over.
    Done,
}

impl fmt::Debug for CallState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Due => "due",
            Self::Waiting(_) => "waiting",
            Self::Local(_) => "running on this node",
            Self::Asking(_) => "asking who offers the route",
            Self::AwaitingList(_) => "waiting for the first list",
        })
    }
}
