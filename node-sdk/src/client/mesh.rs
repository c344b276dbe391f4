//! What all calls of one thread share: the routing table, the retry budget, and this node itself.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use protocol::Unreachable;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::balance::{Balance, RetryBudget};
use crate::client::events::deferred::DeferredEvents;
use crate::client::events::key_order::KeyTurns;
use crate::client::local_call::LocalCall;
use crate::context::tasks::NodeTasks;
#[cfg(feature = "event-log")]
use crate::event_log::EventLog;
use crate::observe::NodeMetrics;
use crate::routing::local_node::LocalNode;
use crate::routing::registry_view::{RegistryView, SharedTable};
use crate::routing::subscriptions::Subscribers;
use crate::routing::table::Lookup;
use crate::transport::connection::Connection;

/// How long a node that cannot be reached may stay listed before the log says so: a node that dies
/// is off the list sooner, unless the Distributor is gone.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// The other nodes, as calls of one thread see them.
pub(crate) struct Mesh {
    table: Arc<SharedTable>,
    view: Arc<RegistryView>,
    local_node: Arc<LocalNode>,
    retries: RetryBudget,
    balance: Balance,
    /// Events that wait for the Distributor's answer.
    deferred_events: Arc<DeferredEvents>,
    /// Events with keys that wait for earlier ones to be acknowledged.
    key_turns: Arc<KeyTurns>,
    /// The log of this node, if it has one.
    #[cfg(feature = "event-log")]
    event_log: OnceLock<Arc<EventLog>>,
    /// The tasks of this node, and the runtime that it was started in, where they run.
    tasks: NodeTasks,
    runtime: Handle,
    /// The interests that the author has named; `None` if none are.
    interests: Option<Arc<[String]>>,
    /// The service of this node, if it offers routes.
    local: OnceLock<Weak<dyn LocalCall>>,
}

impl Mesh {
    /// The mesh of the thread that registers, in the present runtime.
    pub(crate) fn new(
        view: Arc<RegistryView>,
        local_node: Arc<LocalNode>,
        balance: Balance,
        interests: Option<Vec<String>>,
    ) -> Self {
        let (table, retries) = (Arc::clone(view.main()), RetryBudget::new(Instant::now().into_std()));
        let interests = interests.map(Arc::from);
        Self {
            table,
            view,
            local_node,
            retries,
            balance,
            deferred_events: Arc::default(),
            key_turns: Arc::default(),
            #[cfg(feature = "event-log")]
            event_log: OnceLock::new(),
            tasks: NodeTasks::default(),
            runtime: Handle::current(),
            interests,
            local: OnceLock::new(),
        }
    }

    /// The mesh of another thread, with connections and a retry budget of its own.
    pub(crate) fn for_thread(&self) -> Self {
        Self {
            table: self.view.for_thread(),
            view: Arc::clone(&self.view),
            local_node: Arc::clone(&self.local_node),
            retries: RetryBudget::new(Instant::now().into_std()),
            balance: self.balance,
            deferred_events: Arc::clone(&self.deferred_events),
            key_turns: Arc::clone(&self.key_turns),
            #[cfg(feature = "event-log")]
            event_log: self.event_log.clone(),
            tasks: self.tasks.clone(),
            runtime: self.runtime.clone(),
            interests: self.interests.clone(),
            local: self.local.clone(),
        }
    }

    pub(crate) fn table(&self) -> &Arc<SharedTable> {
        &self.table
    }

    pub(crate) fn view(&self) -> &Arc<RegistryView> {
        &self.view
    }

    pub(crate) fn local_node(&self) -> &LocalNode {
        &self.local_node
    }

    pub(crate) fn lookup<'p>(&self, method: &str, path: &'p str) -> Lookup<'p> {
        self.table.read().lookup(method, path)
    }

    /// As [`lookup`](Self::lookup), and also finds internal routes that are not called for clients.
    pub(crate) fn lookup_all<'p>(&self, method: &str, path: &'p str) -> Lookup<'p> {
        self.table.read().lookup_all(method, path)
    }

    /// The nodes that have subscribed to an event.
    pub(crate) fn subscribers(&self, path: &str) -> Subscribers {
        self.table.read().subscribers(path)
    }

    /// Begins to connect, unless that is under way or done.
    pub(crate) fn connect(&self, connection: &Arc<Connection>) {
        let weak = Arc::downgrade(&self.view);
        connection.connect(move |address, reached| {
            if let Some(view) = weak.upgrade() {
                record_reach(&view, address, reached);
            }
        });
    }

    /// Connects to new nodes that offer routes which this thread calls, so that they are connected
    /// before their first turn. Runs until the mesh is dropped, in the present runtime.
    pub(crate) async fn connect_newcomers(mesh: Weak<Self>) {
        let Some(mut changed) = mesh.upgrade().map(|mesh| mesh.table.subscribe()) else { return };
        while changed.changed().await.is_ok() {
            let Some(mesh) = mesh.upgrade() else { return };
            mesh.table.take_newcomers().iter().for_each(|connection| mesh.connect(connection));
        }
    }

    /// Reports that calls to the node at this address fail.
    pub(crate) fn record_failed(&self, address: SocketAddr) {
        self.view.record_failed(address);
    }

    /// Records that a node was lost while it handled a call of this route. Returns whether the call
    /// may be tried again.
    pub(crate) fn record_loss(&self, now: std::time::Instant, route: &str, node: SocketAddr) -> bool {
        self.view.record_loss(now, route, node)
    }

    /// Records that another node has answered such a call.
    pub(crate) fn record_response(&self, route: &str) {
        self.view.record_response(route);
    }

    /// Calls go to the node of this connection over a new one from now on.
    pub(crate) fn renew(&self, connection: &Arc<Connection>) {
        self.view.renew(&self.table, connection);
    }

    /// The counters of this node, if its author wants them.
    pub(crate) fn metrics(&self) -> Option<&Arc<NodeMetrics>> {
        self.local_node.metrics.get()
    }

    pub(crate) fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    pub(crate) fn balance(&self) -> Balance {
        self.balance
    }

    /// The tasks that the node waits for when it stops.
    pub(crate) fn tasks(&self) -> &NodeTasks {
        &self.tasks
    }

    /// Spawns such a task where the node was started: the runtime of the caller may end before.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(future, &self.runtime);
    }

    pub(super) fn deferred_events(&self) -> &DeferredEvents {
        &self.deferred_events
    }

    /// The log of this node.
    #[cfg(feature = "event-log")]
    pub(super) fn event_log(&self) -> Option<&Arc<EventLog>> {
        self.event_log.get()
    }

    /// Lets events be published in this log from now on.
    #[cfg(feature = "event-log")]
    pub(crate) fn set_event_log(&self, log: Arc<EventLog>) {
        let _ = self.event_log.set(log);
    }

    pub(super) fn key_turns(&self) -> &Arc<KeyTurns> {
        &self.key_turns
    }

    /// The interests of this node: see [`NodeBuilder::interests`](crate::NodeBuilder::interests).
    pub(crate) fn interests(&self) -> Option<&[String]> {
        self.interests.as_deref()
    }

    /// The service of this node, as long as it runs.
    pub(crate) fn local(&self) -> Option<Arc<dyn LocalCall>> {
        self.local.get()?.upgrade()
    }

    /// Lets `service` handle calls of routes that this node itself offers from now on.
    pub(crate) fn set_local(&self, service: Weak<dyn LocalCall>) {
        let _ = self.local.set(service);
    }
}

/// Records whether the node at this address could be connected to. A failure is looked at again
/// after a while.
pub(crate) fn record_reach(view: &Arc<RegistryView>, address: SocketAddr, reached: Result<(), Unreachable>) {
    let failure = match reached {
        Ok(()) => return view.mark_reached(address),
        Err(why) => view.mark_unreachable(address, why),
    };
    let Some(number) = failure else { return };
    let weak = Arc::downgrade(view);
    tokio::spawn(async move {
        sleep(CONFIRM_AFTER).await;
        if let Some(view) = weak.upgrade() {
            view.confirm_unreachable(address, number, Instant::now());
        }
    });
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("balance", &self.balance).finish_non_exhaustive()
    }
}
