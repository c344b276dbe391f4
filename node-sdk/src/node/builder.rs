//! The description of a node: where it listens, what it offers, and what it needs.

use std::any::type_name_of_val;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use net::{Network, warn};
use protocol::{Advert, EVENT_PREFIX, LEGACY_READ_BYTES, RouteAdvert};

use crate::balance::Balance;
use crate::handler::event::DURABLE_METHOD;
use crate::handler::http::Wants;
use crate::handler::layer::{Layer, LayerDefinition};
use crate::handler::{AnyHandler, Handler, StateMap, erased};
#[cfg(feature = "event-log")]
use crate::node::event_log::{DurableDefinition, LogDefinition};
use crate::node::hooks::Hook;
use crate::transport::budget;
use crate::transport::limits::MAX_FRAME_BYTES;
#[cfg(feature = "schema")]
use crate::typed::schema::{RouteSchema, schema_handler, schema_route};

/// Configures a node: its address, its routes and its limits. Made by
/// [`Node::builder`](crate::Node::builder), and started by [`serve`](Self::serve) or
/// [`start`](Self::start).
///
/// ```no_run
/// # async fn hello() -> Result<String, node_sdk::ServiceError> { Ok("Hello!".to_owned()) }
/// # async fn example() -> Result<(), node_sdk::StartError> {
/// use node_sdk::Node;
///
/// let node = Node::builder("hello").listen("0.0.0.0:9010").distributor("10.0.0.1:9000");
/// node.route("GET/hello", hello).max_concurrency(100).serve().await
/// # }
/// ```
#[must_use = "a node runs when it is served"]
pub struct NodeBuilder {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) distributor: String,
    pub(super) admin: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) advert: Advert,
    pub(super) interests: Option<Vec<String>>,
    pub(super) cache: Option<PathBuf>,
    pub(super) balance: Balance,
    pub(super) network: Network,
    pub(super) max_buffer_bytes: usize,
    pub(super) legacy_bytes: usize,
    pub(super) routes: Vec<RouteDefinition>,
    /// What routes take and answer, each with the index of its route.
    #[cfg(feature = "schema")]
    pub(super) schemas: Vec<(usize, RouteSchema)>,
    /// The guards and layers of the routes that follow; the outermost first.
    pub(super) layers: Vec<LayerDefinition>,
    /// A guard or layer that no route follows: its kind and its name.
    pub(super) idle_layer: Option<(&'static str, &'static str)>,
    pub(super) states: StateMap,
    /// Whether the node prints nothing.
    pub(super) silent: bool,
    /// Whether the routes that follow are public.
    pub(super) public_routes: bool,
    /// Whether the node pushes to clients of gateways.
    pub(super) pushes: bool,
    /// A setting for the last route that was given before any route.
    pub(super) misplaced: Option<&'static str>,
    #[cfg(feature = "event-log")]
    pub(super) event_log: Option<LogDefinition>,
    /// The durable subscriptions, whose handlers are among the routes.
    #[cfg(feature = "event-log")]
    pub(super) durable: Vec<DurableDefinition>,
    pub(super) start_hooks: Vec<Hook>,
    pub(super) stop_hooks: Vec<Hook>,
    /// Variables with wrong values, and why.
    pub(super) wrong_variables: Vec<String>,
    /// Variables that set nothing, and those that were probably meant.
    pub(super) misspelt_variables: Vec<(String, &'static str)>,
}

/// A route as given.
pub(super) struct RouteDefinition {
    pub(super) text: String,
    pub(super) handler: Arc<dyn AnyHandler>,
    pub(super) max_concurrency: Option<usize>,
    pub(super) one_way: bool,
    pub(super) to_the_end: bool,
    /// What the route reads of a client's request, beside what its arguments want.
    pub(super) wants: Wants,
    pub(super) advert: RouteAdvert,
}

impl NodeBuilder {
    /// A node called `name` with the defaults, and no routes.
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            listen: "127.0.0.1:0".to_owned(),
            distributor: "127.0.0.1:9000".to_owned(),
            admin: None,
            advertise: None,
            advert: Advert::default(),
            interests: None,
            cache: None,
            balance: Balance::default(),
            network: Network::default(),
            max_buffer_bytes: budget::DEFAULT_BYTES,
            legacy_bytes: LEGACY_READ_BYTES,
            routes: Vec::new(),
            #[cfg(feature = "schema")]
            schemas: Vec::new(),
            layers: Vec::new(),
            idle_layer: None,
            states: StateMap::default(),
            silent: false,
            public_routes: false,
            pushes: false,
            misplaced: None,
            #[cfg(feature = "event-log")]
            event_log: None,
            #[cfg(feature = "event-log")]
            durable: Vec::new(),
            start_hooks: Vec::new(),
            stop_hooks: Vec::new(),
            wrong_variables: Vec::new(),
            misspelt_variables: Vec::new(),
        }
    }

    /// The address to listen on, `127.0.0.1:0` unless set. Other nodes call the port at the address
    /// that the Distributor sees, unless the node [advertises](Self::advertise) another.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// The address of the Distributor, `127.0.0.1:9000` unless set. A name is looked up at every
    /// attempt to connect, and all of its addresses are tried.
    pub fn distributor(mut self, address: impl Into<String>) -> Self {
        self.distributor = address.into();
        self
    }

    /// Where other nodes can call this one, `host:port`, if that is another place than the address
    /// that the Distributor sees and the port that the node listens on: behind a NAT, in a
    /// container with a published port. The host is an address or a name, which the Distributor and
    /// the callers look up. Unless set, the environment variable `NODE_ADVERTISE` is used, if there
    /// is one. See docs/PROTOCOL.md for what may be advertised.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// This node's share of the calls among the providers of its routes, in hundredths of the usual
    /// one; 100 unless set.
    pub fn weight(mut self, weight: u16) -> Self {
        self.advert.weight = weight.min(Advert::MAX_WEIGHT);
        self
    }

    /// The zone in which this node runs, such as a data centre. All nodes can see it.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.advert.zone = Some(zone.into());
        self
    }

    /// The version of the service. All nodes can see it.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.advert.version = Some(version.into());
        self
    }

    /// Any other information for operators. All nodes can see it, so it must hold no secrets. A
    /// value that has no JSON form is left out, with a warning in the log.
    pub fn meta(mut self, meta: &impl serde::Serialize) -> Self {
        let text = serde_json::to_string(meta);
        if let Err(error) = &text {
            warn!(name = %self.name, %error, "meta is left out: it has no JSON form");
        }
        self.advert.meta = text.ok();
        self
    }

    /// The services, by name, and the urls, spelled as they are registered (`GET/goods/{id}`), that
    /// this node calls. It is told of these only. Unless set, it finds out itself what it uses in a
    /// large mesh, and is told of all nodes of a small one: see [`Peers::nodes`].
    /// [`Node::ready`](crate::Node::ready) waits for what is set.
    ///
    /// ```
    /// # use node_sdk::Node;
    /// // All routes of the service `members`, one url, and the subscribers of an event.
    /// let interests = ["members", "GET/goods/{id}", "EVENT/orders.created"];
    /// let node = Node::builder("orders").interests(interests);
    /// ```
    ///
    /// [`Peers::nodes`]: crate::Peers::nodes
    pub fn interests<T: Into<String>>(mut self, interests: impl IntoIterator<Item = T>) -> Self {
        self.interests = Some(interests.into_iter().map(Into::into).collect());
        self
    }

    /// Keeps the known nodes in this file, so that the next start can call them before it reaches
    /// the Distributor. The file is replaced in one step; a damaged file is not used. Each process
    /// needs its own file.
    ///
    /// ```
    /// # use node_sdk::Node;
    /// let node = Node::builder("orders").cache("/var/lib/orders/nodes.cache");
    /// ```
    pub fn cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// Offers `route`, such as `GET/goods` or `GET/goods/{id}`, answered by `handler`. Handlers of
    /// one caller share a task. Once those of a route have worked for more than 100 µs without an
    /// await, each call of that route has a task. Work that takes or blocks for more than 100 ms
    /// belongs in `tokio::task::spawn_blocking`: it is a warning in the log.
    pub fn route<A: 'static>(self, route: &str, handler: impl Handler<A>) -> Self {
        self.offer(route.to_owned(), erased(handler), false)
    }

    /// Has `guard` check each call of the routes that follow, until the [`group`](Self::group)
    /// ends, before its handler begins. A guard is written like a handler, with the arguments that
    /// it needs. An error of the guard is the response; any result lets the call through to the
    /// next guard or [`layer`](Self::layer). A guard hands a value on as an
    /// [`Extension`](crate::Extension). Routes without guards and layers pay nothing. A guard or
    /// layer that no route follows is a [`StartError`](crate::StartError).
    ///
    /// ```no_run
    /// # use node_sdk::{Caller, Node, ServiceError};
    /// # async fn list() -> Result<(), ServiceError> { Ok(()) }
    /// # async fn delete() -> Result<(), ServiceError> { Ok(()) }
    /// async fn admins(caller: Caller) -> Result<(), ServiceError> {
    ///     match caller.name().as_deref() {
    ///         Some("admin") => Ok(()),
    ///         _ => Err(ServiceError::new(403, "admins_only", "this is for admins")),
    ///     }
    /// }
    ///
    /// let node = Node::builder("goods")
    ///     .route("GET/goods", list)
    ///     .group(|group| group.guard(admins).route("DELETE/goods/{id}", delete));
    /// ```
    pub fn guard<A: 'static>(mut self, guard: impl Handler<A>) -> Self {
        let name = type_name_of_val(&guard);
        self.layers.push(LayerDefinition { layer: Layer::Guard(erased(guard)), name, covers_route: false });
        self
    }

    /// Has `layer` answer the calls of the routes that follow, until the [`group`](Self::group)
    /// ends. A layer is written like a handler, and gets the handler that it wraps as
    /// [`Next`](crate::Next): it may act before it, after it or instead of it, and change its
    /// response. The layer given first is the outermost. Each costs an allocation or two per call
    /// and a copy of the response, and a gateway sends its client's [request](crate::HttpRequest)
    /// along; routes without layers pay nothing.
    ///
    /// ```no_run
    /// # use node_sdk::{Next, Node, Outcome, Route, ServiceError};
    /// # async fn list() -> Result<(), ServiceError> { Ok(()) }
    /// async fn timed(route: Route, next: Next) -> Result<Outcome, ServiceError> {
    ///     let start = std::time::Instant::now();
    ///     let outcome = next.run().await;
    ///     let status = outcome.as_ref().map_or_else(|error| error.status, Outcome::status);
    ///     println!("{route}: {status} in {:?}", start.elapsed());
    ///     outcome
    /// }
    ///
    /// let node = Node::builder("goods").layer(timed).route("GET/goods", list);
    /// ```
    pub fn layer<A: 'static>(mut self, layer: impl Handler<A>) -> Self {
        let name = type_name_of_val(&layer);
        self.layers.push(LayerDefinition { layer: Layer::Around(erased(layer)), name, covers_route: false });
        self
    }

    /// Adds routes with guards and layers of their own. The routes that `group` adds stay; its
    /// guards, its layers and its [`public_routes`](Self::public_routes) end with the group.
    ///
    /// ```
    /// # use node_sdk::{Caller, Node, ServiceError};
    /// # async fn signed_in(_caller: Caller) -> Result<(), ServiceError> { Ok(()) }
    /// # async fn list() -> Result<(), ServiceError> { Ok(()) }
    /// # async fn add() -> Result<(), ServiceError> { Ok(()) }
    /// let node = Node::builder("goods")
    ///     .group(|group| group.guard(signed_in).route("POST/goods", add))
    ///     .route("GET/goods", list); // without the guard
    /// ```
    pub fn group(mut self, group: impl FnOnce(Self) -> Self) -> Self {
        let (outer, public_routes) = (self.layers.len(), self.public_routes);
        self = group(self);
        self.end_layers(outer);
        self.public_routes = public_routes;
        self
    }

    /// Makes the routes that follow [public](Self::public), until the [`group`](Self::group) ends.
    pub fn public_routes(mut self) -> Self {
        self.public_routes = true;
        self
    }

    /// Ends the guards and layers behind the first `outer`, and records one that no route follows.
    pub(super) fn end_layers(&mut self, outer: usize) {
        let ended = self.layers.drain(outer.min(self.layers.len())..);
        let idle = ended.filter(|ended| !ended.covers_route).map(|idle| (idle.layer.kind(), idle.name)).next();
        self.idle_layer = self.idle_layer.or(idle);
    }

    /// Offers the schemas of the routes that have some, at an internal route.
    #[cfg(feature = "schema")]
    pub(super) fn offer_schemas(&mut self) {
        let Some(route) = schema_route(&self.name).filter(|_| !self.schemas.is_empty()) else { return };
        let known = self.schemas.iter().map(|(index, schema)| (self.routes[*index].text.as_str(), schema));
        let handler = schema_handler(&self.name, known);
        self.public_routes = false;
        self.push_route(route, handler, false);
    }

    pub(super) fn offer(mut self, text: String, handler: Arc<dyn AnyHandler>, one_way: bool) -> Self {
        let handler = self.layered(handler);
        self.push_route(text, handler, one_way);
        self
    }

    /// A handler with the present guards and layers around it.
    pub(super) fn layered(&mut self, handler: Arc<dyn AnyHandler>) -> Arc<dyn AnyHandler> {
        self.layers.iter_mut().rev().fold(handler, |inner, around| {
            around.covers_route = true;
            around.layer.clone().around(inner)
        })
    }

    pub(super) fn push_route(&mut self, text: String, handler: Arc<dyn AnyHandler>, one_way: bool) {
        let is_route = !text.starts_with(EVENT_PREFIX) && !is_durable(&text);
        let public = self.public_routes && is_route;
        let acks = text.starts_with(EVENT_PREFIX);
        let (advert, wants) = (RouteAdvert { public, acks, ..RouteAdvert::default() }, Wants::default());
        let (max_concurrency, to_the_end) = (None, false);
        self.routes.push(RouteDefinition { text, handler, max_concurrency, one_way, to_the_end, wants, advert });
    }

    /// Has `handler` called for an event, such as `orders.created`, or for all that belong to a
    /// pattern, such as `orders.*` (any one word) or `orders.>` (all that follows), whenever
    /// another node [emits](crate::Peers::emit) it. Of several subscriptions that match, the most
    /// specific one is called. Of all nodes with this node's name, one gets the event. The result
    /// of the handler is discarded; an error is a warning in the log, and counts among
    /// [`Node::lost_events`](crate::Node::lost_events).
    ///
    /// ```
    /// use node_sdk::{Node, Params, ServiceError};
    ///
    /// async fn welcome(Params(member): Params<u64>) -> Result<(), ServiceError> {
    ///     println!("welcome, {member}");
    ///     Ok(())
    /// }
    ///
    /// let node = Node::builder("mails").subscribe("members.joined", welcome);
    /// ```
    pub fn subscribe<A: 'static>(self, event: &str, handler: impl Handler<A>) -> Self {
        self.offer(format!("{EVENT_PREFIX}{event}"), erased(handler), true)
    }

    /// How this node picks one of several providers; [`Balance::PowerOfTwo`] unless set.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// How many bytes this node holds for its callers at a time: partly received packets, arguments
    /// of running calls, and parts and responses that were not read. 256 MiB unless set. Each
    /// caller has 16 KiB in any case. Beyond that it has at most 64 MiB, and at most half of the
    /// free bytes; a caller that holds more is not read from until it holds less. A response
    /// without room becomes 503 `no_room`. The caller's stream with the most unread bytes ends with
    /// that error.
    pub fn max_buffer_bytes(mut self, bytes: usize) -> Self {
        self.max_buffer_bytes = bytes;
        self
    }

    /// How many bytes a caller of version 1 can read at once: 65,536 unless set, and 8 MiB at most.
    /// A larger response becomes an error, and the caller never has more unread bytes than this.
    /// The default is what one read of a Node.js process takes: most callers of version 1 end when
    /// a packet comes in two reads. Set more only if all of them join what they read. Callers whose
    /// host registers that all of its peers read more (`readWindow`) need no such setting.
    pub fn max_legacy_response_bytes(mut self, bytes: usize) -> Self {
        self.legacy_bytes = bytes.min(MAX_FRAME_BYTES);
        self
    }

    /// Prints nothing if the program has no tracing subscriber. Otherwise [`serve`](Self::serve)
    /// prints to standard error what it would log: where the node listens and is registered, what
    /// goes wrong, and that it stops. After [`start`](Self::start), the first warning is printed.
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// The network of its connections: see [`TestMesh`](crate::testing::TestMesh).
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }
}

/// Whether this is the handler of a durable subscription, which is not registered.
pub(super) fn is_durable(route: &str) -> bool {
    route.strip_prefix(DURABLE_METHOD).is_some_and(|rest| rest.starts_with('/'))
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes: Vec<_> = self.routes.iter().map(|route| &route.text).collect();
        f.debug_struct("NodeBuilder").field("name", &self.name).field("routes", &routes).finish_non_exhaustive()
    }
}
