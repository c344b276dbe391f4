//! Events that are stored in the log of this node.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use net::unique_id;

use crate::client::events::OutgoingEvent;
use crate::error::{CallError, PublishError};
use crate::event_log::{EventLog, NewEvent};

/// An event that is about to be stored. Change the settings that should differ from the defaults,
/// then await it: see [`Peers::publish`](crate::Peers::publish).
#[must_use = "an event is published when it is awaited"]
#[derive(Debug)]
pub struct Publish {
    log: Option<Arc<EventLog>>,
    event: Result<OutgoingEvent, CallError>,
    id: Option<String>,
    key: Option<String>,
}

impl Publish {
    pub(crate) fn new(log: Option<Arc<EventLog>>, event: Result<OutgoingEvent, CallError>) -> Self {
        Self { log, event, id: None, key: None }
    }

    /// Events of one key are handled one after the other, in the order in which they were
    /// published.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The id that handlers [see](crate::Event::id), in place of one that is made up. An id that
    /// the log has already is not stored again: so an event can be published again after a crash.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    async fn run(self) -> Result<u64, PublishError> {
        let Self { log, event, id, key } = self;
        let event = event.map_err(PublishError::Event)?;
        if let Some(error) = event.bad_name() {
            return Err(PublishError::Event(error));
        }
        let name = event.path[1..].to_owned();
        if name.contains('/') {
            let (url, reason) = (event.route.to_string(), "the name of an event in a log has no slash");
            return Err(PublishError::Event(CallError::BadUrl { url, reason }));
        }
        let log = log.ok_or(PublishError::NoLog)?;
        let id = id.unwrap_or_else(|| format!("{:032x}", unique_id()));
        Ok(log.append(NewEvent { id, name, key, payload: event.text }).await?)
    }
}

impl IntoFuture for Publish {
    type Output = Result<u64, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
