//! The log of a node in the mesh: its settings, the stream by which nodes read it, and the nodes
//! that do. It must not know how a log is kept: `event_log` does.

mod reader;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::EVENT_LOG_URL;

use self::reader::{LogReader, ReaderSettings};
use self::session::read_log;
use crate::context::Stop;
use crate::error::StartError;
use crate::event_log::{EventLog, LogLimits};
use crate::handler::event::DURABLE_METHOD;
use crate::handler::{Handler, erased};
use crate::node::NodeBuilder;
use crate::peers::Peers;
use crate::routing::subscriptions::event_route;

/// The log that a node is given.
#[derive(Debug)]
pub(super) struct LogDefinition {
    path: PathBuf,
    limits: LogLimits,
}

/// A durable subscription as given.
#[derive(Clone, Debug)]
pub(super) struct DurableDefinition {
    pattern: String,
    name: String,
    only_new: bool,
}

/// Maximum number of bytes of the name of a durable subscription.
const MAX_NAME_BYTES: usize = 64;

impl NodeBuilder {
    /// Gives the node a log: a file of SQLite, which is made if it is not there, and in which
    /// [`Peers::publish`](crate::Peers::publish) stores events for
    /// [durable subscriptions](Self::subscribe_durably). Each process needs a file of its own, and
    /// the file has to be there when the process is started again. Events are kept for a week, and
    /// 1 GiB of them at most, unless [`event_log_limits`](Self::event_log_limits) says otherwise.
    ///
    /// ```
    /// # use node_sdk::Node;
    /// let node = Node::builder("orders").event_log("/var/lib/orders/events.db");
    /// ```
    pub fn event_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.event_log = Some(LogDefinition { path: path.into(), limits: LogLimits::default() });
        self
    }

    /// How long the log keeps events, and how many bytes of payloads at most. It keeps no more,
    /// even if they are not handled: a subscription that is further behind misses some, and logs
    /// how many. It stands behind [`event_log`](Self::event_log).
    pub fn event_log_limits(mut self, max_age: Duration, max_bytes: u64) -> Self {
        match &mut self.event_log {
            Some(log) => log.limits = LogLimits { max_age, max_bytes },
            None => self.misplaced = Some("event_log_limits"),
        }
        self
    }

    /// Has `handler` called for each event that is [published](crate::Peers::publish) under this
    /// name or [pattern](Self::subscribe), also for those of before, and of the time in which this
    /// node was away. `name` is that of the subscription, 1 to 64 of `A-Z a-z 0-9 . _ -`: the log
    /// remembers by it which events are done. Of all nodes that have this node's name and give the
    /// subscription that name, one gets an event at a time.
    ///
    /// An event is done when the handler has ended without an error. One that fails comes again, to
    /// the next node that has time, after pauses that grow from 0.5 s to a minute. After 16
    /// attempts, or an error with a status below 500 or 501 (except 408, 421, 425 and 429), it is
    /// buried: the log keeps it in the table `buried`, and warns. A handler may get an event twice,
    /// under one [id](crate::Event::id). Events of one [key](crate::Publish::key) come one after
    /// the other, in the order of the log.
    ///
    /// ```
    /// use node_sdk::{Event, Node, Params, ServiceError};
    ///
    /// async fn bill(event: Event, Params(order): Params<u64>) -> Result<(), ServiceError> {
    ///     println!("{} {order}", event.name());
    ///     Ok(())
    /// }
    ///
    /// let node = Node::builder("bills").subscribe_durably("orders.*", "bill", bill);
    /// ```
    pub fn subscribe_durably<A: 'static>(mut self, event: &str, name: &str, handler: impl Handler<A>) -> Self {
        let (pattern, name) = (event.to_owned(), name.to_owned());
        let route = format!("{DURABLE_METHOD}/{name}/{{event}}");
        self.durable.push(DurableDefinition { pattern, name, only_new: false });
        self.offer(route, erased(handler), false)
    }

    /// The last durable subscription begins at the end of a log that does not know it, and not as
    /// far back as the log goes.
    pub fn only_new(mut self) -> Self {
        match self.durable.last_mut() {
            Some(durable) => durable.only_new = true,
            None => self.misplaced = Some("only_new"),
        }
        self
    }

    /// Checks the names of durable subscriptions.
    pub(super) fn check_durable(&self) -> Result<(), StartError> {
        for DurableDefinition { pattern, name, .. } in &self.durable {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_plain) {
                return Err(StartError::SubscriptionName(name.clone()));
            }
            event_route(pattern)?;
        }
        Ok(())
    }

    /// Offers the log to other nodes, if there is one.
    pub(super) async fn open_log(mut self) -> Result<(Self, Option<Arc<EventLog>>), StartError> {
        let Some(LogDefinition { path, limits }) = self.event_log.take() else { return Ok((self, None)) };
        let shown = path.display().to_string();
        let log = EventLog::open(path, limits).await;
        let log = log.map_err(|source| StartError::EventLog { path: shown, source })?;
        self.layers.clear();
        let with = self.shared_state(Arc::clone(&log)).offer(EVENT_LOG_URL.to_owned(), erased(read_log), false);
        Ok((with, Some(log)))
    }
}

/// Reads the logs of other nodes, until the node stops.
pub(super) fn start_readers(node_name: &str, durable: Vec<DurableDefinition>, peers: &Peers, stop: &Stop) {
    for DurableDefinition { pattern, name, only_new } in durable {
        let subscription = format!("{node_name}/{name}");
        let settings = ReaderSettings { name, subscription, pattern, only_new };
        let reader = LogReader::new(settings, peers.clone(), stop.clone());
        peers.mesh.tasks().spawn(reader.run());
    }
}
