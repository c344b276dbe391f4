//! The other nodes, and calls to them: a handle, and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::{Advert, Node, Visibility};
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
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) registration: Arc<RegistrationHandle>,
}

/// The nodes known, as they come and go.
#[derive(Debug)]
pub struct Changes {
    changed: watch::Receiver<()>,
    table: Weak<SharedTable>,
}

impl Peers {
    /// Registers, and keeps registered and informed until `stop` is cancelled. Returns at once.
    pub(crate) fn register(identity: Identity, address: String, stop: CancellationToken) -> Self {
        let balance = identity.balance;
        let (view, local_node, registration) = discovery::start(identity, address, stop);
        Self { mesh: Arc::new(Mesh::new(view, local_node, balance)), registration: Arc::new(registration) }
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

pub(crate) fn split_url(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}
