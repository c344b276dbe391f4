//! The other nodes, and calls to them: a handle, and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::{Advert, Node, Route, Visibility};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::CallArguments;
use crate::client::call::Call;
use crate::client::events;
use crate::client::local_call::LocalCall;
use crate::client::mesh::Mesh;
use crate::client::raw_call::RawCall;
use crate::client::stream::StreamCall;
use crate::discovery;
use crate::discovery::registration::{Identity, RegistrationHandle};
use crate::error::CallError;
use crate::routing::registry_view::SharedTable;
use crate::routing::table::Lookup;
use crate::transport::budget::BufferUsage;

/// The other nodes. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Peers {
    mesh: Arc<Mesh>,
    registration: Arc<RegistrationHandle>,
}

/// The nodes known, as they come and go.
#[derive(Debug)]
pub struct Changes {
    changed: watch::Receiver<()>,
    table: Weak<SharedTable>,
}

impl Peers {
    /// Registers `identity` at the Distributor at `address` (`host:port`), and keeps registered and informed until
    /// `stop` is cancelled. Returns at once; before the first list there are the peers of the cache, if there is one.
    ///
    /// While the Distributor cannot be reached, what is known stays, and an attempt to connect is made every
    /// [`RECONNECT_PERIOD`](crate::RECONNECT_PERIOD), a tenth more or less. The first after a loss comes at a moment of that
    /// period which is this node's own, so that all nodes together come back as an even stream.
    pub fn join(identity: Identity, address: String, stop: CancellationToken) -> Self {
        let balance = identity.balance;
        let (view, local_node, registration) = discovery::start(identity, address, stop);
        Self { mesh: Arc::new(Mesh::new(view, local_node, balance)), registration: Arc::new(registration) }
    }

    /// The same nodes over connections of their own, for another runtime: a connection belongs to the runtime of the task that
    /// first calls over it. The returned peers know what these know, at the same moment.
    pub fn for_thread(&self) -> Self {
        Self { mesh: Arc::new(self.mesh.for_thread()), registration: Arc::clone(&self.registration) }
    }

    /// Calls what offers `url`, such as `GET/members` or `GET/members/7`, and reads its result as a `T`.
    ///
    /// Providers are picked as [`Balance`] says; whoever offers the url itself answers itself. A provider that cannot be reached is
    /// passed over; a call that was lost on the way is tried once more elsewhere if its method is idempotent by HTTP's rules
    /// (RFC 9110, 9.2.2), or [`Call::idempotent`] says so. A call made while another is handled has no more time than that one.
    /// Await the returned value to run the call; dropping that future takes the call back, and tells its node.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use std::time::Duration;
    ///
    /// let name: String = peers.call("GET/members/7/name", &()).timeout(Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn call<'a, T>(&'a self, url: &'a str, params: &'a (impl Serialize + Sync)) -> Call<'a, T> {
        let (method, path) = split_url(url);
        Call::new(RawCall::new(&self.mesh, method, path, CallArguments::Value(params)))
    }

    /// Opens a stream with what offers `url`: what comes is read as `T`s, and more can be sent than `params`. Providers are picked,
    /// and tried, as [`call`](Self::call) does until one has opened it. Who answers in one piece, as nodes of version 1 do, gives a
    /// stream of one. Await the returned value to open it; dropping that future takes it back.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use futures::StreamExt;
    ///
    /// let mut ticks = peers.stream::<u64>("GET/ticks", &()).await?;
    /// while let Some(tick) = ticks.next().await {
    ///     println!("{}", tick?);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stream<'a, T>(&'a self, url: &'a str, params: &'a (impl Serialize + Sync)) -> StreamCall<'a, T> {
        let (method, path) = split_url(url);
        StreamCall::new(RawCall::new(&self.mesh, method, path, CallArguments::Value(params)))
    }

    /// Calls with JSON text in and a packet out, unread: for gateways. `params` must be a JSON object if any provider may
    /// be of version 1. Fails as [`call`](Self::call) does, but never with `Refused` or `Answer`: what the node answered is in
    /// the [`RawResponse`](crate::RawResponse).
    pub fn call_raw<'a>(&'a self, method: &'a str, path: &'a str, params: &'a str) -> RawCall<'a> {
        RawCall::new(&self.mesh, method, path, CallArguments::Text(params))
    }

    /// Calls every node that offers `url`, all at once, and gives what each of them answered.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) {
    /// for (address, answer) in peers.gather::<u64>("GET/queue/length", &()).await {
    ///     println!("{address}: {answer:?}");
    /// }
    /// # }
    /// ```
    pub async fn gather<T: DeserializeOwned>(
        &self,
        url: &str,
        params: &(impl Serialize + Sync),
    ) -> Vec<(SocketAddr, Result<T, CallError>)> {
        let (method, path) = split_url(url);
        let calls = self.providers(url).into_iter().map(|address| async move {
            let call =
                Call::new(RawCall::new(&self.mesh, method, path, CallArguments::Value(params)).to_address(address));
            (address, call.await)
        });
        futures::future::join_all(calls).await
    }

    /// Sends to one node that offers `url` what needs no answer, such as a line for a log: returns when it is on its way.
    ///
    /// # Errors
    /// [`CallError`] when nobody can be reached. That it arrives, nobody says.
    pub async fn send(&self, url: &str, params: &(impl Serialize + Sync)) -> Result<(), CallError> {
        let (method, path) = split_url(url);
        RawCall::new(&self.mesh, method, path, CallArguments::Value(params)).one_way().await.map(drop)
    }

    /// Tells one node of each group that has subscribed to `event`: nodes of one name are a group. Gives how many nodes it was
    /// handed to; 0 when nobody has subscribed.
    ///
    /// An event goes straight to its nodes, once, and is not answered: who is not there, or is lost with what was on its way, is
    /// not told again. Which node of a group is told is decided as for calls. Returns at once. A node whose builder has
    /// [`interests`](crate::NodeBuilder::interests) has to name the event, as `EVENT/orders.created`, to know who has subscribed.
    ///
    /// ```no_run
    /// # fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// peers.emit("orders.created", &7)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Params`] when `payload` has no JSON form, and [`CallError::TooLarge`] when it is larger than nodes take.
    pub fn emit(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        events::emit(&self.mesh, event, payload)
    }

    /// As [`emit`](Self::emit), but tells every node that has subscribed.
    ///
    /// # Errors
    /// As there.
    pub fn broadcast(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        events::broadcast(&self.mesh, event, payload)
    }

    /// The nodes known now, ourselves included once the Distributor has listed us; by address.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.mesh.table().read().nodes().cloned().collect()
    }

    /// The name of the node whose instance id this is.
    pub(crate) fn name_of(&self, instance: &str) -> Option<String> {
        let is_it = |node: &&Arc<Node>| node.advert.as_ref().and_then(|advert| advert.id.as_deref()) == Some(instance);
        self.mesh.table().read().nodes().find(is_it).map(|node| node.name.clone())
    }

    /// Whether some node offers this now, as far as is known.
    pub fn offers(&self, method: &str, path: &str) -> bool {
        self.mesh.table().read().offers(method, path)
    }

    /// Whether some node offers this, or has offered it once.
    pub fn has_known(&self, method: &str, path: &str) -> bool {
        !matches!(self.mesh.lookup(method, path), Lookup::Unknown)
    }

    /// Calls `url` of the node at `address` and of nobody else, to find out how it does; with JSON text in and a packet out, as
    /// [`call_raw`](Self::call_raw). What comes of it is for the caller to judge: no other call goes elsewhere for it.
    pub fn probe<'a>(&'a self, url: &'a str, address: SocketAddr) -> RawCall<'a> {
        let (method, path) = split_url(url);
        RawCall::new(&self.mesh, method, path, CallArguments::Text("{}")).to_address(address).without_health_effect()
    }

    /// Which of the nodes that offer `url` calls of it go to: where they are, and which process of those that were there it is, if
    /// they say. Of very many they are some, others for each caller.
    pub fn balanced_providers(&self, url: &str) -> Vec<(SocketAddr, Option<String>)> {
        let (method, path) = split_url(url);
        let Lookup::Available(providers, _) = self.mesh.lookup(method, path) else { return Vec::new() };
        providers
            .members()
            .map(|provider| (provider.connection.address, provider.connection.instance.clone()))
            .collect()
    }

    /// Says how the node at this address does: one that is not healthy is called only if most others are no better, as it is with
    /// nodes that calls are lost at. That holds for all who [follow](Self::for_thread) the same news, until the opposite is said or
    /// another process is there. Returns whether it is a change. For whoever looks after nodes beside calling them, as
    /// gateways do.
    pub fn set_health(&self, address: SocketAddr, healthy: bool) -> bool {
        self.mesh.view().set_health(address, healthy)
    }

    /// Whether nobody has [said](Self::set_health) otherwise.
    pub fn is_healthy(&self, address: SocketAddr) -> bool {
        self.mesh.table().read().connection(address).is_none_or(|connection| connection.is_healthy())
    }

    /// Where the nodes are that offer `url`, such as `GET/members`, as far as is known now; in order.
    pub fn providers(&self, url: &str) -> Vec<SocketAddr> {
        let (method, path) = split_url(url);
        match self.mesh.lookup(method, path) {
            Lookup::Available(providers, _) => {
                let addresses: BTreeSet<_> =
                    providers.list().iter().map(|provider| provider.connection.address).collect();
                addresses.into_iter().collect()
            }
            Lookup::Unavailable | Lookup::Unknown => Vec::new(),
        }
    }

    /// Why the node at this address is never called, whatever it registers, if it is not: what it listens on is ours, of no host,
    /// or of the link only. For whoever calls nodes by other means.
    pub fn blocked_reason(&self, address: SocketAddr) -> Option<&'static str> {
        self.mesh.table().read().blocked_reason(address)
    }

    /// Whether the node at this address registers `route`, and is not called for it, because there are too many routes like it with
    /// parameters elsewhere: looking for one of them would take too long.
    pub fn is_refused(&self, address: SocketAddr, route: &Route) -> bool {
        self.mesh.table().read().is_refused(address, route)
    }

    /// Completes when every url has a provider. Cancel safe.
    ///
    /// ```no_run
    /// # async fn example(node: node_sdk::Node) {
    /// node.peers().wait_for(&["GET/members/7", "GET/goods"]).await;
    /// # }
    /// ```
    pub async fn wait_for(&self, urls: &[&str]) {
        let is_offered = |url: &&str| {
            let (method, path) = split_url(url);
            self.offers(method, path)
        };
        self.wait(|| urls.iter().all(is_offered)).await;
    }

    /// Completes when the nodes known fulfil `condition`. Cancel safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&[Arc<Node>]) -> bool) {
        self.wait(|| condition(&self.nodes())).await;
    }

    async fn wait(&self, mut is_fulfilled: impl FnMut() -> bool) {
        let mut changed = self.mesh.table().subscribe();
        while !is_fulfilled() {
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    /// What is known now, and whenever it changes after that.
    pub fn changes(&self) -> Changes {
        let mut changed = self.mesh.table().subscribe();
        changed.mark_changed();
        Changes { changed, table: Arc::downgrade(self.mesh.table()) }
    }

    /// For how long there has been no Distributor to tell what changes; `None` while there is one. What is known stays in use
    /// however long that is.
    pub fn stale_for(&self) -> Option<Duration> {
        self.mesh.view().stale_for()
    }

    /// How many bytes are kept of the nodes that are called, by all who follow the same nodes: packets that have come in part, and parts
    /// of streams that nobody has taken. What was ended for want of room counts as refused.
    pub fn buffer_usage(&self) -> BufferUsage {
        self.mesh.local_node().buffer_budget.usage()
    }

    /// Changes what this node says of itself.
    pub(crate) fn advertise(&self, change: impl FnOnce(&mut Advert)) {
        self.registration.advertise(change);
    }

    pub(crate) async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        self.registration.wait_visible(percent, within).await
    }

    /// From now on calls to what this node offers itself are handled by `service`.
    pub(crate) fn set_local(&self, service: Weak<dyn LocalCall>) {
        self.mesh.set_local(service);
    }
}

impl Changes {
    /// All nodes that are known, by address, once there is something new; changes that come faster than they are asked for are one.
    /// Who has not changed is the very same [`Arc`] as before. `None` when nobody is there any more who would know. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Node>>> {
        self.changed.changed().await.ok()?;
        let table = self.table.upgrade()?;
        let nodes = table.read().nodes().cloned().collect();
        Some(nodes)
    }
}

fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}
