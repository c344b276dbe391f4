//! What this process knows of the registry, and the routing tables that follow it.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use net::{LogThrottle, MAX_ESCAPED_BYTES, escaped, warn};
use protocol::{ListUpdate, Replica, Report, Unreachable, UpdateOutcome};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::routing::crashing_routes::{CrashingRoutes, LossVerdict};
use crate::routing::local_node::LocalNode;
use crate::routing::needs::Needs;
use crate::routing::reachability::Reachability;
use crate::routing::table::{NodeChange, RoutingTable};
use crate::transport::connection::Connection;

/// Maximum number of entries that are reported at a time. Further nodes are reported when a call to
/// them fails again.
const MAX_FAILED: usize = 64;

/// Log lines in ten seconds about nodes that cannot be reached.
const MAX_UNREACHABLE_LINES: u32 = 10;

/// The replica of the process. Discovery feeds it, and every change reaches all tables at once.
#[derive(Debug)]
pub(crate) struct RegistryView {
    state: Mutex<ViewState>,
    /// The table of the thread that registers.
    main: Arc<SharedTable>,
    crashing_routes: Mutex<CrashingRoutes>,
    /// The urls that this node uses, and its questions.
    needs: Needs,
    /// Whether a Distributor has sent a list.
    has_list: watch::Sender<bool>,
}

#[derive(Debug)]
struct ViewState {
    replica: Replica,
    /// Since when no Distributor has been connected.
    stale_since: Option<Instant>,
    /// Entries of nodes to which calls failed, to be reported to the Distributor.
    failed: BTreeSet<u64>,
    /// Nodes that cannot be connected to.
    reachability: Reachability,
    /// Limits the log about them.
    unreachable_log: LogThrottle,
    /// Whether the cache file is out of date.
    is_unsaved: bool,
    /// The tables of other threads.
    tables: Vec<Weak<SharedTable>>,
}

/// A routing table, and a signal after each of its changes.
#[derive(Debug)]
pub(crate) struct SharedTable {
    /// Changed under the lock of the view's state, so that changes come in their order.
    table: RwLock<RoutingTable>,
    changed: watch::Sender<()>,
}

impl RegistryView {
    pub(crate) fn new(local_node: Arc<LocalNode>, can_ask: bool) -> Arc<Self> {
        let state = ViewState {
            replica: Replica::default(),
            stale_since: Some(Instant::now()),
            failed: BTreeSet::new(),
            reachability: Reachability::default(),
            unreachable_log: LogThrottle::with_burst(MAX_UNREACHABLE_LINES, LogThrottle::LOG_PERIOD),
            is_unsaved: false,
            tables: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            main: SharedTable::new(RoutingTable::new(local_node)),
            crashing_routes: Mutex::default(),
            needs: Needs::new(can_ask, Instant::now()),
            has_list: watch::Sender::default(),
        })
    }

    /// The table of the thread that registers.
    pub(crate) fn main(&self) -> &Arc<SharedTable> {
        &self.main
    }

    /// The urls that this node uses, and its questions.
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The urls that this node has used so far, as registered: those that it has asked for, and
    /// those that it has called while it was told of all nodes.
    pub(crate) fn used_urls(&self) -> Vec<String> {
        if self.needs.adds_called() {
            let state = self.lock();
            let now = Instant::now();
            let others: Vec<_> = state.tables.iter().filter_map(Weak::upgrade).collect();
            for table in others.iter().chain([&self.main]) {
                table.read().called_urls(|url| self.needs.add(url, now));
            }
        }
        self.needs.urls()
    }

    /// A table for another thread, with connections of its own.
    pub(crate) fn for_thread(&self) -> Arc<SharedTable> {
        let mut state = self.lock();
        let table = SharedTable::new(self.main.read().for_thread(Instant::now()));
        state.tables.push(Arc::downgrade(&table));
        table
    }

    /// Starts with the nodes that an earlier process knew. Nothing must be known before.
    pub(crate) fn seed(&self, replica: Replica) {
        self.change(|known| {
            *known = replica;
            true
        });
    }

    /// Applies an update from the Distributor.
    pub(crate) fn apply_update(&self, update: &ListUpdate<'_>) -> UpdateOutcome {
        let now = Instant::now().into_std();
        let mut outcome = UpdateOutcome::Same;
        let is_partial = match update {
            ListUpdate::Whole(list) => Some(list.header.is_some_and(|header| header.part)),
            ListUpdate::Delta(_) => None,
        };
        if is_partial == Some(true) {
            // Before nodes vanish from the tables, so that calls to them ask.
            self.needs.record_list(true);
        }
        self.change(|replica| {
            outcome = replica.apply(now, update);
            outcome == UpdateOutcome::Changed
        });
        let mut state = self.lock();
        if matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same) {
            state.stale_since = None;
            state.is_unsaved = true;
            drop(state);
            if let Some(is_partial) = is_partial {
                self.needs.record_list(is_partial);
            }
            self.has_list.send_if_modified(|has_list| !std::mem::replace(has_list, true));
        }
        outcome
    }

    /// Whether a Distributor has sent a list.
    pub(crate) fn has_list(&self) -> bool {
        *self.has_list.borrow()
    }

    /// Completes when a Distributor has sent a list. Cancel safe.
    pub(crate) fn wait_for_list(&self) -> impl Future<Output = ()> + use<> {
        let mut has_list = self.has_list.subscribe();
        async move {
            // The view lives as long as the process calls.
            let _ = has_list.wait_for(|has_list| *has_list).await;
        }
    }

    /// Records a new connection to a Distributor, at this address unless it is on this machine.
    pub(crate) fn record_reconnect(&self, registry_host: Option<IpAddr>) {
        let mut state = self.lock();
        state.replica.record_connect();
        state.replica.set_registry_host(registry_host);
    }

    pub(crate) fn record_disconnect(&self) {
        self.needs.record_disconnect();
        let mut state = self.lock();
        state.replica.record_disconnect();
        state.stale_since.get_or_insert_with(Instant::now);
    }

    /// How long no Distributor has been connected; `None` while one is.
    pub(crate) fn stale_for(&self) -> Option<Duration> {
        self.lock().stale_since.map(|since| since.elapsed())
    }

    /// Removes nodes that a new Distributor has not listed for too long. Returns when to check
    /// again.
    pub(crate) fn expire(&self) -> Option<Instant> {
        self.change(|replica| replica.expire(Instant::now().into_std()));
        self.lock().replica.next_expiry().map(Instant::from_std)
    }

    /// The position of an instance among all nodes, from 0 to 1.
    pub(crate) fn rank(&self, id: &str) -> Option<f64> {
        self.lock().replica.rank(id)
    }

    pub(crate) fn with_replica<T>(&self, read: impl FnOnce(&Replica) -> T) -> T {
        read(&self.lock().replica)
    }

    /// Whether the cache file is out of date.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.lock().is_unsaved
    }

    /// Records that the content of the cache file has changed.
    pub(crate) fn mark_unsaved(&self) {
        self.lock().is_unsaved = true;
    }

    /// The text for the cache file, which `write` makes if the file is out of date. It then counts
    /// as saved.
    pub(crate) fn cache_text(&self, write: impl FnOnce(&Replica) -> Option<String>) -> Option<String> {
        let mut state = self.lock();
        std::mem::take(&mut state.is_unsaved).then(|| write(&state.replica)).flatten()
    }

    /// Whether there is something to report of other nodes.
    pub(crate) fn has_report(&self) -> bool {
        let state = self.lock();
        !state.failed.is_empty() || state.reachability.has_reports()
    }

    /// The nodes that calls failed at, and that could not be reached, since the last time.
    pub(crate) fn drain_report(&self) -> Report {
        let mut state = self.lock();
        let failed = std::mem::take(&mut state.failed).into_iter().collect();
        Report { failed, unreachable: state.reachability.drain_reports(MAX_FAILED) }
    }

    /// Records that calls to the node at this address fail, so that the Distributor is told.
    pub(crate) fn record_failed(&self, address: SocketAddr) {
        let mut state = self.lock();
        if state.failed.len() < MAX_FAILED {
            state.failed.extend(self.main.read().entries_at(address));
        }
    }

    /// Records that a node was lost while it handled a call of this route. Returns whether calls of
    /// it may be tried again.
    pub(crate) fn record_loss(&self, now: std::time::Instant, route: &str, node: SocketAddr) -> bool {
        let verdict = self.lock_crashing_routes().record_loss(now, route, node);
        if verdict == LossVerdict::NewlyCrashing {
            let route = escaped(route, MAX_ESCAPED_BYTES);
            warn!(%node, "calls of {route} crash one node after the other; such calls are not retried for a minute");
        }
        verdict == LossVerdict::Harmless
    }

    /// Records that another node has answered such a call.
    pub(crate) fn record_response(&self, route: &str) {
        self.lock_crashing_routes().record_response(route);
    }

    /// Replaces the connection to a node from now on. The old one ends with its last call.
    pub(crate) fn renew(&self, table: &SharedTable, connection: &Arc<Connection>) {
        let _in_order = self.lock();
        table.table.write().unwrap_or_else(PoisonError::into_inner).renew(connection, Instant::now());
    }

    /// Records that the node at this address could not be connected to. If it could before, the
    /// failure should be [confirmed](Self::confirm_unreachable) by the returned number.
    pub(crate) fn mark_unreachable(&self, address: SocketAddr, why: Unreachable) -> Option<u64> {
        self.change(|replica| replica.mark_unreachable(address));
        self.record_failed(address);
        let mut state = self.lock();
        let is_listed = !self.main.read().entries_at(address).is_empty();
        if is_listed { state.reachability.record_failure(address, why) } else { None }
    }

    /// Records that there is a connection to the node at this address.
    pub(crate) fn mark_reached(&self, address: SocketAddr) {
        self.lock().reachability.forget(address);
    }

    /// Confirms a failure after a while: if the node is still listed and has not been reached, the
    /// log says so, and so will a report.
    pub(crate) fn confirm_unreachable(&self, address: SocketAddr, number: u64, now: Instant) {
        let mut state = self.lock();
        let table = self.main.read();
        let Some(why) = state.reachability.confirm(address, number, table.entries_at(address)) else { return };
        let Some(suppressed) = state.unreachable_log.allow(now.into_std()) else { return };
        drop((table, state));
        let name = escaped(self.name_of(address).unwrap_or_default(), MAX_ESCAPED_BYTES).to_string();
        let reason = why.as_str();
        warn!(node = %address, ?name, reason, suppressed, "a listed node cannot be called: {}", why.describe());
    }

    /// The name of the node at this address.
    pub(crate) fn name_of(&self, address: SocketAddr) -> Option<String> {
        let table = self.main.read();
        let node = table.nodes().find(|node| SocketAddr::new(node.host, node.port) == address);
        node.map(|node| node.name.clone())
    }

    /// Why the node at this address could not be connected to when that was last tried.
    pub(crate) fn unreachable_reason(&self, address: SocketAddr) -> Option<Unreachable> {
        self.lock().reachability.why(address)
    }

    /// Sets in all tables whether a node is healthy. Returns whether that is a change in the main
    /// table.
    pub(crate) fn set_health(&self, address: SocketAddr, healthy: bool) -> bool {
        let state = self.lock();
        let set = |table: &SharedTable| {
            table.read().connection(address).is_some_and(|connection| connection.set_health(healthy))
        };
        for table in state.tables.iter().filter_map(Weak::upgrade) {
            set(&table);
        }
        set(&self.main)
    }

    /// Changes the replica and, if that made a difference, all tables.
    fn change(&self, change: impl FnOnce(&mut Replica) -> bool) {
        let mut state = self.lock();
        if change(&mut state.replica) {
            let changes: Vec<NodeChange> = state.replica.last_changes().collect();
            for (address, known) in &changes {
                // The failure was that of an earlier node at this address.
                if known.as_ref().is_none_or(|known| known.ids != self.main.read().entries_at(*address)) {
                    state.reachability.forget(*address);
                }
            }
            self.main.apply(&changes);
            state.tables.retain(|table| table.upgrade().inspect(|table| table.apply(&changes)).is_some());
        }
    }

    fn lock_crashing_routes(&self) -> MutexGuard<'_, CrashingRoutes> {
        self.crashing_routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state. Nothing waits while it is locked, and a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedTable {
    fn new(table: RoutingTable) -> Arc<Self> {
        Arc::new(Self { table: RwLock::new(table), changed: watch::Sender::default() })
    }

    /// The table as it is now. Release it before doing anything that could change it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, RoutingTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The new nodes that should be connected: see [`RoutingTable::take_newcomers`].
    pub(crate) fn take_newcomers(&self) -> Vec<Arc<Connection>> {
        if !self.read().has_newcomers() {
            return Vec::new();
        }
        self.table.write().unwrap_or_else(PoisonError::into_inner).take_newcomers()
    }

    /// A receiver that is told after each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn apply(&self, changes: &[NodeChange]) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).apply(changes, Instant::now());
        self.changed.send_replace(());
    }
}
