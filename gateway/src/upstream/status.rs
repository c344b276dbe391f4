//! The status of a server, for operators.

use std::fmt;
use std::time::Duration;

use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::Readiness;
use protocol::HostPort;
use tokio::time::Instant;

use crate::upstream::endpoint::MalformedResponses;
use crate::upstream::unix_socket::unix_fault::UnixFault;

/// A server as the worker with the worst opinion of it sees it.
#[derive(Debug)]
pub(crate) struct EndpointStatus {
    pub(super) name: Option<String>,
    /// The name that it advertises, and why that is not known here.
    pub(super) advertised: Option<(HostPort, Option<String>)>,
    pub(super) weight: u16,
    pub(super) strip: bool,
    pub(super) suspect: bool,
    pub(super) readiness: Readiness,
    /// The fault of its Unix socket.
    pub(super) fault: Option<UnixFault>,
    pub(super) in_flight: u32,
    /// The malformed responses since the process began, and how long ago the last one came.
    pub(super) malformed: Option<(MalformedResponses, Duration)>,
}

impl EndpointStatus {
    /// Adds the malformed responses that another worker has seen.
    pub(super) fn add_malformed(&mut self, seen: Option<MalformedResponses>, now: Instant) {
        let Some(seen) = seen else { return };
        let before = self.malformed.take().map(|(before, _)| before);
        let count = seen.count + before.as_ref().map_or(0, |before| before.count);
        let last = match before {
            Some(before) if before.last > seen.last => before,
            _ => seen,
        };
        let ago = now.saturating_duration_since(last.last);
        self.malformed = Some((MalformedResponses { count, ..last }, ago));
    }
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = escaped(self.name.as_deref().unwrap_or("fixed"), MAX_ESCAPED_BYTES);
        let strip = if self.strip { ", without the prefix" } else { "" };
        let state = match self.readiness {
            Readiness::Ready => "up",
            Readiness::Connecting => "full",
            Readiness::Ejected if self.suspect => "gives no sign of life",
            Readiness::Ejected => "fails requests",
            Readiness::Reconnect | Readiness::CoolingDown => "cannot be reached",
        };
        write!(f, "{name} weight {}{strip}", self.weight)?;
        match &self.advertised {
            Some((at, Some(why))) => write!(f, ", at {at} (not known here: {why})")?,
            Some((at, None)) => write!(f, ", at {at}")?,
            None => {}
        }
        write!(f, ": {state}")?;
        if let Some(why) = &self.fault {
            write!(f, " ({why})")?;
        }
        write!(f, ", {} in flight", self.in_flight)?;
        match &self.malformed {
            Some((MalformedResponses { count, why, .. }, ago)) => {
                write!(f, ", {count} malformed or cut responses, the last {} s ago: {why}", ago.as_secs())
            }
            None => Ok(()),
        }
    }
}
