//! The other nodes, and calls to them: a handle, and nothing else.
//!
//! It must not route, balance or send a call: `client` does. It must not import `handler`, `server`
//! or `node`.

pub mod gateway;
mod push;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

#[cfg(feature = "event-log")]
use futures::TryStreamExt;
use protocol::{Advert, Node, Visibility};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::call::Call;
use crate::client::call::raw_call::RawCall;
use crate::client::events;
use crate::client::events::deliver::Deliver;
use crate::client::local_call::LocalCall;
use crate::client::mesh::Mesh;
use crate::client::stream::StreamCall;
use crate::client::unknown_route;
use crate::client::{CallArguments, split_url};
use crate::discovery;
use crate::discovery::registration::{NodeDescription, RegistrationHandle};
use crate::error::CallError;
use crate::push::PushLinks;
use crate::routing::registry_view::SharedTable;
use crate::routing::table::Lookup;
use crate::transport::budget::BufferUsage;
use crate::transport::limits::DEFAULT_DEADLINE;

/// The other nodes, and calls to them. Clones are cheap and stand for the same peers.
///
/// A handler takes it as an argument. Elsewhere it comes from [`Node::peers`](crate::Node::peers).
///
/// ```no_run
/// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
/// peers.wait_for(&["GET/members/{id}"]).await;
/// let member: String = peers.call("GET/members/7", &()).await?;
/// peers.emit("members.seen", &member)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Peers {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) registration: Arc<RegistrationHandle>,
    /// The gateways that take pushes of this node.
    pub(crate) push_links: Arc<PushLinks>,
}

/// A subscription to the known nodes, as they come and go: see [`Peers::changes`].
///
/// ```no_run
/// # async fn example(peers: node_sdk::Peers) {
/// let mut changes = peers.changes();
/// while let Some(nodes) = changes.next().await {
///     println!("{} nodes are known", nodes.len());
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Changes {
    changed: watch::Receiver<()>,
    table: Weak<SharedTable>,
}

impl Peers {
    /// Registers, and keeps registered and informed until `stop` is cancelled. Returns at once.
    pub(crate) fn register(description: NodeDescription, address: Option<String>, stop: CancellationToken) -> Self {
        let balance = description.balance;
        let interests = description.interests.clone();
        let (view, local_node, registration) = discovery::start(description, address, stop);
        let mesh = Arc::new(Mesh::new(view, local_node, balance, interests));
        tokio::spawn(Mesh::connect_newcomers(Arc::downgrade(&mesh)));
        Self { mesh, registration: Arc::new(registration), push_links: Arc::default() }
    }

    fn raw_call<'a>(&'a self, method: &'a str, path: &'a str, params: &'a (impl Serialize + Sync)) -> RawCall<'a> {
        RawCall::new(&self.mesh, method, path, CallArguments::Value(params)).awaiting_list()
    }

    /// Calls a node that offers `url`, such as `GET/members` or `GET/members/7`, and reads the
    /// result as a `T`. Await the returned value to run the call.
    ///
    /// # Which node
    ///
    /// Providers are picked as [`Balance`](crate::Balance) says. A node that offers the url itself
    /// calls itself, unless the call has a [key](Call::sticky_key) or the node has no room for it.
    /// A provider that cannot be reached is skipped.
    ///
    /// # Waiting
    ///
    /// A call made before the first list of nodes has come waits for it, as long as the call may
    /// take. A node with a [partial view](Self::nodes) asks the Distributor at the first call of a
    /// url. The call waits for the answer; if nodes are known that offer the url, it waits for a
    /// second and half of its time at most. A call made while another one is handled ends a margin
    /// before that one.
    ///
    /// # Retries
    ///
    /// A call that was lost on the way is tried once more elsewhere if its method is idempotent by
    /// HTTP's rules (RFC 9110, 9.2.2), or if [`Call::idempotent`] says so.
    ///
    /// # Cancelling
    ///
    /// Dropping the future cancels the call, on the remote node too.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use std::time::Duration;
    ///
    /// let call = peers.call("GET/members/7/name", &());
    /// let name: String = call.timeout(Duration::from_secs(1)).await?;
    /// # Ok(()) }
    /// ```
    pub fn call<'a, T>(&'a self, url: &'a str, params: &'a (impl Serialize + Sync)) -> Call<'a, T> {
        let (method, path) = split_url(url);
        Call::new(self.raw_call(method, path, params))
    }

    /// Opens a stream with a node that offers `url`. What the node sends is read as `T`s; the
    /// caller can send more than `params`. Providers are picked and tried as [`call`](Self::call)
    /// does, until one has opened the stream. A response in one piece, as version 1 nodes send,
    /// becomes a stream of one item. Await the returned value to open the stream; dropping that
    /// future cancels it.
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
        StreamCall::new(self.raw_call(method, path, params))
    }

    /// Calls every node that offers `url`, all at once, and returns the result of each. Waits for
    /// the first list as [`call`](Self::call) does. Dropping the future cancels the calls that have
    /// no answer yet.
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
        if self.providers(url).is_empty() {
            let _ = timeout(DEFAULT_DEADLINE, self.mesh.view().wait_for_list()).await;
        }
        self.mesh.learn(url).await;
        let calls = self.providers(url).into_iter().map(|address| async move {
            let call =
                Call::new(RawCall::new(&self.mesh, method, path, CallArguments::Value(params)).with_address(address));
            (address, call.await)
        });
        futures::future::join_all(calls).await
    }

    /// Sends a message without a response, such as a log line, to one node that offers `url`.
    /// Returns when the message is queued for its connection. Dropping the future before that sends
    /// nothing.
    ///
    /// # Errors
    /// [`CallError`] when no node can be reached. Success does not mean that the message arrived.
    pub async fn send(&self, url: &str, params: &(impl Serialize + Sync)) -> Result<(), CallError> {
        let (method, path) = split_url(url);
        self.raw_call(method, path, params).one_way().await.map(drop)
    }

    /// Sends an event to one node of each group that has subscribed to `event`; nodes with the same
    /// name are a group. Returns the number of nodes to which it was sent; 0 when no known node has
    /// subscribed.
    ///
    /// An event goes directly to its subscribers, once, and is not answered. A node that is away,
    /// or that is lost while the event is on its way, does not get it later. The node of a group is
    /// picked as for calls; this node is one of its own group. Returns at once. A node whose
    /// builder has [`interests`](crate::NodeBuilder::interests) must name the event among them, as
    /// `EVENT/orders.created`, to know its subscribers.
    ///
    /// A node with a [partial view](Self::nodes) asks at the first event of a name who subscribes
    /// to it, and returns 0. When the answer comes, a task of the node sends this event and those
    /// that have followed, in order. If there is no answer within 5 s, they go to the subscribers
    /// that are known; where there are none, the log says that they are lost.
    ///
    /// ```no_run
    /// # fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// peers.emit("orders.created", &7)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`CallError::Params`] when `payload` has no JSON form, and [`CallError::TooLarge`] when it
    /// is larger than nodes accept. If it was sent to no node: [`CallError::BadUrl`] when no node
    /// can subscribe to this name, [`CallError::NoList`] before the first list of nodes has come,
    /// [`CallError::OutsideInterests`] when this node is told of no subscriber, and
    /// [`CallError::NotAsked`] when the Distributor cannot be asked who subscribes.
    /// [`CallError::Overloaded`] when 1024 events wait for its answer.
    pub fn emit(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        events::emit(&self.mesh, event, payload)
    }

    /// As [`emit`](Self::emit), but to every node that has subscribed.
    ///
    /// # Errors
    /// As for `emit`.
    pub fn broadcast(&self, event: &str, payload: &impl Serialize) -> Result<usize, CallError> {
        events::broadcast(&self.mesh, event, payload)
    }

    /// Delivers an event to one node of each group that has subscribed, as [`emit`](Self::emit),
    /// and waits until each group has acknowledged it: until the handler of a node is done. Returns
    /// the number of groups; 0 when no known node has subscribed. Await the returned value to
    /// deliver it.
    ///
    /// A group is tried again, at another of its nodes if there is one, when a node is lost, has
    /// too much to do, fails with a status from 500 on, or does not answer in 5 s. The pauses
    /// between attempts grow from 50 ms to 5 s. Each group has its own attempts, for 30 s together.
    /// So a handler may get an event twice; all attempts have one [id](crate::Event::id). A status
    /// below 500, or 501, is final, except 408, 421, 425 and 429.
    ///
    /// Nothing is stored: if this node ends before, the event may be lost. Dropping the future ends
    /// the attempts; a handler that has begun is finished. To go on beside the present call, spawn
    /// it with [`detach`](crate::detach).
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::DeliveryError> {
    /// let groups = peers.deliver("orders.created", &7).key("order-7").await?;
    /// println!("{groups} services know of order 7");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`DeliveryError`](crate::DeliveryError) names the groups that have failed, and why.
    pub fn deliver(&self, event: &str, payload: &impl Serialize) -> Deliver {
        events::deliver(&self.mesh, event, payload)
    }

    /// Stores an event in the log of this node, for [durable
    /// subscriptions](crate::NodeBuilder::subscribe_durably), and returns its position once it is
    /// on disk: no crash loses it then. Events that are published at the same time share a flush of
    /// the disk. Other subscriptions do not get it: [`emit`](Self::emit) it for these. Await the
    /// returned value to publish it; dropping the future before that leaves it stored or not.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::PublishError> {
    /// let position = peers.publish("orders.created", &7).key("order-7").await?;
    /// println!("stored at {position}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PublishError`](crate::PublishError). Nothing was stored.
    #[cfg(feature = "event-log")]
    pub fn publish(&self, event: &str, payload: &impl Serialize) -> crate::Publish {
        events::publish(&self.mesh, event, payload)
    }

    /// Restarts the [durable subscription](crate::NodeBuilder::subscribe_durably) `name` of the
    /// group `group` in every log, at the first event published at `since` or later that is still
    /// kept. Events that its handlers are running may be delivered again. Returns the number of
    /// logs.
    ///
    /// # Errors
    /// The [`CallError`] of the first log that could not be called.
    #[cfg(feature = "event-log")]
    pub async fn replay(&self, group: &str, name: &str, since: std::time::SystemTime) -> Result<usize, CallError> {
        let since = since.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let replay = Some(u64::try_from(since).unwrap_or(u64::MAX));
        let (subscription, pattern) = (format!("{group}/{name}"), String::new());
        let request = protocol::LogRequest { subscription, pattern, only_new: false, replay };
        let _ = timeout(DEFAULT_DEADLINE, self.mesh.view().wait_for_list()).await;
        self.mesh.learn(protocol::EVENT_LOG_URL).await;
        let logs = self.providers(protocol::EVENT_LOG_URL);
        for address in &logs {
            let stream = self.stream::<protocol::LogPart>(protocol::EVENT_LOG_URL, &request);
            let mut parts = stream.at_address(*address).await?;
            // It ends when the subscription has begun again.
            while parts.try_next().await?.is_some() {}
        }
        Ok(logs.len())
    }

    /// The nodes that are known now, by address.
    ///
    /// In a mesh of up to 1000 nodes (the Distributor's `--tell-all-up-to`), these are all of them,
    /// and this node once it is listed. In a larger one this node has a partial view: it knows the
    /// nodes that offer what it has called, [waited for](Self::wait_for) or emitted, and what may
    /// be preferred to that. This node is among them only if it offers that, too. What it knows is
    /// decided when it connects to the Distributor: `docs/DISTRIBUTOR.md`, "What a node knows", has
    /// a table of all cases. A node whose builder has
    /// [`interests`](crate::NodeBuilder::interests) knows the nodes that these name.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.mesh.table().read().nodes().cloned().collect()
    }

    /// The name of the node with this instance id.
    pub(crate) fn name_of(&self, instance: &str) -> Option<String> {
        let is_it = |node: &&Arc<Node>| node.advert.as_ref().and_then(|advert| advert.id.as_deref()) == Some(instance);
        self.mesh.table().read().nodes().find(is_it).map(|node| node.name.clone())
    }

    /// Whether a known node offers this now: see [`nodes`](Self::nodes).
    pub fn offers(&self, method: &str, path: &str) -> bool {
        self.mesh.table().read().offer(method, path).is_some()
    }

    /// The addresses of the known nodes that offer `url`, such as `GET/members`, in order: see
    /// [`nodes`](Self::nodes).
    pub fn providers(&self, url: &str) -> Vec<SocketAddr> {
        let (method, path) = split_url(url);
        match self.mesh.lookup(method, path) {
            Lookup::Available(providers, _) => {
                let addresses: BTreeSet<_> =
                    providers.members().iter().map(|provider| provider.connection.address).collect();
                addresses.into_iter().collect()
            }
            Lookup::Unavailable | Lookup::Unknown => Vec::new(),
        }
    }

    /// Completes when every url has a provider. A node with a [partial view](Self::nodes) asks for
    /// them, once a second. After 5 s, a line of the log says which have none.
    /// Cancel safe.
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
        let missing = || urls.iter().filter(|url| !is_offered(url)).map(|url| (*url).to_owned()).collect();
        tokio::select! {
            () = self.wait_noticed(|_| missing()) => {}
            () = self.mesh.keep_asking(urls) => {}
        }
    }

    /// Completes when nothing is missing any more among the known nodes. If that takes long, the
    /// log says once what is missing.
    pub(crate) async fn wait_noticed(&self, missing: impl Fn(&[Arc<Node>]) -> Vec<String>) {
        let missing = || missing(&self.nodes());
        unknown_route::wait_with_notice(&self.mesh, self.wait(|| missing().is_empty()), missing).await;
    }

    /// Completes when the [known nodes](Self::nodes) fulfil `condition`. Cancel safe.
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

    /// The nodes that are known now, and after each change.
    pub fn changes(&self) -> Changes {
        let mut changed = self.mesh.table().subscribe();
        changed.mark_changed();
        Changes { changed, table: Arc::downgrade(self.mesh.table()) }
    }

    /// How long no Distributor has been connected, so that changes are not known; `None` while one
    /// is. The known nodes stay in use, however long that is.
    pub fn stale_for(&self) -> Option<Duration> {
        self.mesh.view().stale_for()
    }

    /// How many bytes this process holds for the nodes that it calls, in all threads: partly
    /// received packets, and parts of streams that were not read. Streams and packets that were cut
    /// for lack of memory count as refused.
    pub fn buffer_usage(&self) -> BufferUsage {
        self.mesh.local_node().buffer_budget.usage()
    }

    /// Changes this node's advert.
    pub(crate) fn advertise(&self, change: impl FnOnce(&mut Advert)) {
        self.registration.advertise(change);
    }

    pub(crate) async fn wait_visible(&self, percent: u8, within: Duration) -> Visibility {
        self.registration.wait_visible(percent, within).await
    }

    pub(crate) fn push_links(&self) -> &Arc<PushLinks> {
        &self.push_links
    }

    /// Lets `service` handle calls of routes that this node itself offers from now on.
    pub(crate) fn set_local(&self, service: Weak<dyn LocalCall>) {
        self.mesh.set_local(service);
    }
}

impl Changes {
    /// All known nodes, by address, after the next change. Several changes in a row count as one. A
    /// node that has not changed is the same [`Arc`] as before. `None` once the [`Peers`] are
    /// dropped. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Node>>> {
        self.changed.changed().await.ok()?;
        let table = self.table.upgrade()?;
        let nodes = table.read().nodes().cloned().collect();
        Some(nodes)
    }
}
