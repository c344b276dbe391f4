//! The start of a node: its description is checked, then it listens, registers and serves.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use net::{MAX_ESCAPED_BYTES, Network, PeerBacklog, SliceQueue, error, escaped, info, notify_systemd, warn};
use protocol::{EVENT_PREFIX, HostPort, PUSH_URL, Route, RouteAdverts, Router, Visibility};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::context::Stop;
use crate::discovery::RECONNECT_PERIOD;
use crate::discovery::registration::NodeDescription;
use crate::error::StartError;
use crate::handler::sockets::push_route;
use crate::handler::{Missing, NodeContext, StateMap, StateTypes, erased};
use crate::node::admin::{AdminServer, AdminSources};
use crate::node::builder::{RouteDefinition, is_durable};
#[cfg(feature = "event-log")]
use crate::node::event_log;
use crate::node::hooks::{Hook, STOP_HOOKS_TIME, outcome, run_start_hooks};
use crate::node::own_route::own_route;
use crate::node::{Node, NodeBuilder};
use crate::observe::NodeMetrics;
use crate::peers::Peers;
use crate::routing::subscriptions::event_route;
use crate::server;
use crate::server::admission::LocalRoute;
use crate::server::concurrency::ConcurrencyLimit;
use crate::server::dispatch::LocalService;
use crate::server::released::ReleasedCalls;
use crate::server::route_pace::RoutePaces;
use crate::transport::budget::Budget;

/// How long a node may take to stop after a signal: the time of its server, and some for the log.
const MAX_STOP_TIME_AFTER_SIGNAL: Duration = server::MAX_STOP_TIME.saturating_add(Duration::from_secs(3));
/// How long the hooks of the start wait for a Distributor: one period of attempts to connect, so
/// that a node which is started on its own is not held up for long.
const REGISTRATION_TIME: Duration = RECONNECT_PERIOD;

/// What is printed behind the first warning that no subscriber gets.
pub(super) const HINT: &str =
    "(This program has no log. Call node_sdk::init_log, of the feature `log`, or set a tracing subscriber.)";

/// The environment variable with the address to advertise: see [`NodeBuilder::advertise`].
const ADVERTISE: &str = "NODE_ADVERTISE";

impl NodeBuilder {
    /// Listens, registers, and serves until SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal is
    /// closed; ignored if `nohup` says so). Then the node leaves in order: other nodes stop picking
    /// it, and calls in flight finish. A second SIGTERM or SIGINT ends the process at once, with
    /// status 130. The process ends with status 1 if it is still there after 15 s (20 s with a stop
    /// [hook](Self::on_stop)): all threads are busy, or a log that is not read blocks them.
    ///
    /// A unit of systemd may say `Type=notify`: the node is ready when it listens, and the hooks of
    /// its start are done. Dropping the future stops the node at once, and cuts its connections.
    ///
    /// # Errors
    /// [`StartError`] when the node cannot start; [`StartError::Cut`] when calls did not finish in
    /// time, and [`StartError::Hook`] when a hook of the stop has failed, so that the exit code of
    /// `main` shows it. A node that has started ends only by a signal.
    pub async fn serve(self) -> Result<(), StartError> {
        self.serve_with(async |_peers, _stop| Ok::<_, Infallible>(())).await
    }

    /// As [`serve`](Self::serve), and does `work` beside the node, such as a loop in the
    /// background. It gets the other nodes, and a [`Stop`] by which it learns that the node stops.
    /// The node waits for it then, as for tasks of [`detach`](crate::detach).
    ///
    /// Work that ends is not begun again. If it ends with an error or a panic, the node stops in
    /// order.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use node_sdk::{CallError, Node, Peers, StartError, Stop};
    /// use tokio::time::sleep;
    ///
    /// async fn report(peers: Peers, stop: Stop) -> Result<(), CallError> {
    ///     while stop.interrupt(sleep(Duration::from_secs(60))).await.is_some() {
    ///         peers.call::<()>("POST/reports", &peers.nodes().len()).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), StartError> {
    ///     Node::builder("reporter").environment().serve_with(report).await
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Self::serve), and [`StartError::Work`] when the work has failed.
    pub async fn serve_with<F, Fut, E>(self, work: F) -> Result<(), StartError>
    where
        F: FnOnce(Peers, Stop) -> Fut,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let stop = self.handle_signals()?;
        let Some(node) = stop.run_until_cancelled(self.start()).await.transpose()? else { return Ok(()) };
        notify_systemd("READY=1");
        let (failed, mut failure) = oneshot::channel();
        let work = outcome(work(node.peers().clone(), node.stopping()));
        node.peers().mesh.tasks().spawn(async move { work.await.map_err(|error| failed.send(error)) });
        let early = tokio::select! {
            () = stop.cancelled() => None,
            Ok(error) = &mut failure => Some(error),
        };
        if let Some(error) = &early {
            error!(error = ?escaped(error, MAX_ESCAPED_BYTES), "the work beside the node has failed; the node stops");
        }
        let ended = node.end().await;
        match early.or_else(|| failure.try_recv().ok()) {
            Some(error) => Err(StartError::Work(error)),
            None => ended,
        }
    }

    /// As [`serve`](Self::serve), and logs when `percent` of all version 2 nodes know this one;
    /// when that takes longer than `within`, the log names some nodes that do not. `ready` is
    /// called in either case, for scripts that start processes one after the other. Dropping the
    /// future stops the node at once, and cuts its connections.
    ///
    /// # Errors
    /// [`StartError`] when the node cannot start.
    pub async fn serve_when_visible(
        self,
        percent: u8,
        within: Duration,
        ready: impl FnOnce(&Node, &Visibility),
    ) -> Result<(), StartError> {
        let stop = self.handle_signals()?;
        let Some(node) = stop.run_until_cancelled(self.start()).await.transpose()? else { return Ok(()) };
        notify_systemd("READY=1");
        tokio::select! {
            () = stop.cancelled() => {}
            visibility = node.wait_visible(percent, within) => {
                let Visibility { seen, of, enough, missing } = &visibility;
                if *enough {
                    info!(seen, of, "visible");
                } else {
                    warn!(seen, of, missing = ?escaped(missing.join(", "), MAX_ESCAPED_BYTES), "some nodes do not know this node yet");
                }
                ready(&node, &visibility);
                stop.cancelled().await;
            }
        }
        node.end().await
    }

    /// Effects on the whole process: signal handlers, and lines on standard error.
    fn handle_signals(&self) -> Result<CancellationToken, StartError> {
        if !self.silent {
            net::print_without_subscriber();
        }
        let hooks_time = if self.stop_hooks.is_empty() { Duration::ZERO } else { STOP_HOOKS_TIME };
        net::stop_on_signals(move || MAX_STOP_TIME_AFTER_SIGNAL + hooks_time).map_err(StartError::Signals)
    }

    /// Listens and begins to register, and runs the [hooks](Self::on_start) of the start. The node
    /// runs until it is stopped or dropped. A Distributor that cannot be reached yet is not an
    /// error. Dropping the future leaves nothing running.
    ///
    /// # Errors
    /// [`StartError`]. Nothing is left running.
    pub async fn start(mut self) -> Result<Node, StartError> {
        if !self.silent {
            net::hint_without_subscriber(HINT);
        }
        self.check()?;
        #[cfg(feature = "event-log")]
        let (log, durable) = {
            let (with_log, log) = self.open_log().await?;
            self = with_log;
            (log, std::mem::take(&mut self.durable))
        };
        if self.pushes {
            self.push_route(PUSH_URL.to_owned(), erased(push_route), false);
        }
        #[cfg(feature = "schema")]
        self.offer_schemas();
        self.state_wants()?;
        let registered = self.routes.iter().filter(|route| !is_durable(&route.text));
        if !self.routes.is_empty() {
            self.advert.routes = Some(RouteAdverts::new(registered.map(|route| route.advert.clone())));
        }
        let (routes, router) = build_router(std::mem::take(&mut self.routes), &self.states)?;
        let admin = match &self.admin {
            Some(text) => Some(net::bind(resolve(text)?).map_err(|error| error.set_by("admin"))?),
            None => None,
        };
        let listener = self.network.bind(resolve(&self.listen)?)?;
        let wrong = |source| StartError::Address { address: self.listen.clone(), source };
        let address = listener.local_addr().map_err(wrong)?;
        info!(%address, name = %self.name, routes = routes.len(), "listening");
        let leaving = CancellationToken::new();
        let names = routes.clone();
        let routes = routes.into_iter().filter(|route| !is_durable(route.as_str())).collect();
        let peers = Peers::register(self.description(address, routes), Some(self.distributor.clone()), leaving.clone());
        let interests = self.interests.take().unwrap_or_default();
        let (start_hooks, stop_hooks) = (std::mem::take(&mut self.start_hooks), std::mem::take(&mut self.stop_hooks));
        let metrics = admin.is_some().then(|| Arc::new(NodeMetrics::new(names.iter().map(Route::as_str))));
        if let Some(metrics) = &metrics {
            let _ = peers.mesh.local_node().metrics.set(Arc::clone(metrics));
        }
        let stop = Stop::new(leaving.clone());
        let service = Arc::new(self.into_service(router, &peers, stop.clone(), metrics.clone(), &names));
        let weak = Arc::downgrade(&service);
        peers.set_local(weak);
        #[cfg(feature = "event-log")]
        {
            log.into_iter().for_each(|log| peers.mesh.set_event_log(log));
            event_log::start_readers(&service.name, durable, &peers, &stop);
        }
        let (budget, lost) = (Arc::clone(&service.budget), Arc::clone(&service.lost));
        let admin = admin.zip(metrics).map(|(listener, metrics)| {
            let (peers, budget) = (peers.clone(), Arc::clone(&budget));
            AdminServer::start(listener, AdminSources { metrics, peers, budget, stop })
        });
        let admin = admin.transpose()?;
        let server = tokio::spawn(server::serve(listener, service, leaving.clone()));
        let node = Node { address, peers, interests, budget, lost, leaving, server, stop_hooks, admin };
        node.after_start(start_hooks).await
    }

    /// States for each route what its arguments read of a client's request. No gateway calls an
    /// internal route.
    fn state_wants(&mut self) -> Result<(), StartError> {
        for RouteDefinition { text, handler, wants, advert, .. } in &mut self.routes {
            handler.wants(wants);
            let wanted = wants.registered().map_err(|wrong| wrong.into_error(text))?;
            advert.headers = wanted.filter(|_| advert.public);
            advert.max_body = advert.max_body.filter(|_| advert.public);
            advert.raw_body = wants.is_raw_body() && advert.public;
            advert.upload = wants.is_body_stream() && advert.public;
            advert.download = wants.is_byte_stream() && advert.public;
        }
        Ok(())
    }

    /// Checks the settings that concern no route, and reads the address to advertise.
    pub(super) fn check(&mut self) -> Result<(), StartError> {
        if let Some(setting) = self.misplaced {
            return Err(StartError::Misplaced(setting));
        }
        if !self.wrong_variables.is_empty() {
            return Err(StartError::Environment(std::mem::take(&mut self.wrong_variables)));
        }
        self.warn_of_misspelt_variables();
        self.end_layers(0);
        if let Some((kind, name)) = self.idle_layer {
            return Err(StartError::CoversNothing { kind, name });
        }
        #[cfg(feature = "event-log")]
        self.check_durable()?;
        if !is_name(&self.name) {
            return Err(StartError::Name(self.name.clone()));
        }
        if let Err(reason) = self.distributor.parse::<HostPort>() {
            return Err(StartError::Distributor { address: self.distributor.clone(), reason });
        }
        // The variable is for this machine: a network inside the process has other addresses.
        let from_environment = || std::env::var_os(ADVERTISE).filter(|_| matches!(self.network, Network::System));
        let from_environment = || from_environment().map(|text| text.to_string_lossy().into_owned());
        if let Some(address) = self.advertise.take().or_else(from_environment) {
            match address.parse() {
                Ok(parsed) => self.advert.advertise = Some(parsed),
                Err(reason) => return Err(StartError::Advertise { address, reason }),
            }
        }
        Ok(())
    }

    /// What the Distributor is told of the node that listens at `address` and offers `routes`.
    pub(super) fn description(&self, address: SocketAddr, routes: Vec<Route>) -> NodeDescription {
        NodeDescription {
            name: self.name.clone(),
            port: address.port(),
            // In a network inside this process, the mesh gives out addresses.
            listen: matches!(self.network, Network::System).then_some(address.ip().to_canonical()),
            client_addresses: Vec::new(),
            routes,
            advert: self.advert.clone(),
            interests: self.interests.clone(),
            asks: true,
            cache: self.cache.clone(),
            public_only: None,
            balance: self.balance,
            network: self.network.clone(),
        }
    }

    /// What answers the calls of the routes that `router` finds.
    fn into_service(
        self,
        router: Router<LocalRoute>,
        peers: &Peers,
        stop: Stop,
        metrics: Option<Arc<NodeMetrics>>,
        routes: &[Route],
    ) -> LocalService {
        let (tasks, local_node) = (peers.mesh.tasks().clone(), peers.mesh.local_node());
        LocalService {
            instance: local_node.instance.as_str().into(),
            name: self.name.into(),
            router,
            node: Arc::new(NodeContext { states: self.states, peers: peers.clone(), stop }),
            peer_backlog: PeerBacklog::start(),
            slices: SliceQueue::new(),
            budget: Budget::new(self.max_buffer_bytes),
            released: Arc::new(ReleasedCalls::new(tasks.clone())),
            paces: RoutePaces::new(routes),
            tasks,
            lost: Arc::clone(&local_node.connector.lost),
            key_turns: Arc::default(),
            caller_log: std::sync::Mutex::default(),
            legacy_bytes: self.legacy_bytes,
            metrics,
        }
    }
}

impl Node {
    /// Runs the hooks of the start, once the node is registered or [`REGISTRATION_TIME`] is over.
    /// The node leaves if one fails.
    async fn after_start(mut self, hooks: Vec<Hook>) -> Result<Self, StartError> {
        if hooks.is_empty() {
            self.admin.iter().for_each(AdminServer::set_started);
            return Ok(self);
        }
        let _ = timeout(REGISTRATION_TIME, self.peers.mesh.view().wait_for_list()).await;
        let done = run_start_hooks(hooks, &self.peers, &self.stopping()).await;
        if let Err(error) = done {
            // What they would undo has not been done.
            self.stop_hooks.clear();
            self.stop().await;
            return Err(error);
        }
        self.admin.iter().for_each(AdminServer::set_started);
        Ok(self)
    }
}

/// Whether a node may have this name.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_plain)
}

/// The routes that the node offers, and the router that finds their handlers.
fn build_router(
    given: Vec<RouteDefinition>,
    states: &StateMap,
) -> Result<(Vec<Route>, Router<LocalRoute>), StartError> {
    let mut routes = Vec::with_capacity(given.len());
    let mut router = Router::default();
    for (index, definition) in given.into_iter().enumerate() {
        let RouteDefinition { text, handler, max_concurrency, one_way, to_the_end, wants, advert } = definition;
        let route = match text.strip_prefix(EVENT_PREFIX) {
            Some(event) if advert.public => return Err(StartError::PublicEvent { event: event.to_owned() }),
            Some(event) => event_route(event)?,
            None => own_route(&text)?,
        };
        match handler.missing(&StateTypes::new(states)) {
            Some(Missing::State(state)) => return Err(StartError::MissingState { route: text, state }),
            Some(Missing::Extension(value)) => return Err(StartError::MissingExtension { route: text, value }),
            None => {}
        }
        let max_concurrency = max_concurrency.map(ConcurrencyLimit::new);
        let wanted = wants.registered().map_err(|wrong| wrong.into_error(&text))?;
        let (route_copy, max_body) = (route.clone(), advert.max_body.unwrap_or(u64::MAX));
        let offer =
            LocalRoute { index, route: route_copy, handler, max_concurrency, one_way, to_the_end, wanted, max_body };
        let mut offer = Some(offer);
        let entry = router.entry(&route, || offer.take().expect("a router makes at most one value"));
        let entry = entry.map_err(|refused| refused.into_error(&route))?;
        if offer.is_some() {
            let other = entry.route.to_string();
            return Err(StartError::DoubledRoute { other, route: route.to_string() });
        }
        routes.push(route);
    }
    Ok((routes, router))
}

fn resolve(text: &str) -> Result<SocketAddr, StartError> {
    let wrong = |source| StartError::Address { address: text.to_owned(), source };
    let mut addresses = text.to_socket_addrs().map_err(wrong)?;
    addresses.next().ok_or_else(|| wrong(io::ErrorKind::NotFound.into()))
}
