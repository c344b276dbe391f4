//! The status of a server, for operators.

use std::fmt;

use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::gateway::Readiness;

/// A server as the worker with the worst opinion of it sees it.
#[derive(Debug)]
pub(crate) struct EndpointStatus {
    pub(super) name: Option<String>,
    pub(super) weight: u16,
    pub(super) strip: bool,
    pub(super) suspect: bool,
    pub(super) readiness: Readiness,
    pub(super) in_flight: u32,
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
        write!(f, "{name} weight {}{strip}: {state}, {} in flight", self.weight, self.in_flight)
    }
}
