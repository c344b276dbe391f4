//! A node: what it offers, where it listens, and how it starts and stops.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use daemon::LocalQueues;
use protocol::Route;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::callee::Service;
use crate::discovery::Identity;
use crate::error::StartError;
use crate::handler::{AnyHandler, Handler, States, Surroundings, boxed};
use crate::peers::Peers;
use crate::router::Router;
use crate::server;

/// A running node. Dropping it stops it at once; [`stop`](Self::stop) lets calls in flight finish.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    peers: Peers,
    leaving: CancellationToken,
    server: JoinHandle<usize>,
}

/// A node that is being described.
#[must_use = "a node runs when it is served"]
pub struct NodeBuilder {
    name: String,
    listen: String,
    distributor: String,
    routes: Vec<(String, Box<dyn AnyHandler>)>,
    states: States,
}

impl Node {
    /// Begins to describe a node. `name` is 1 to 128 of `A-Z a-z 0-9 . _ -`; instances of one service share it.
    pub fn builder(name: impl Into<String>) -> NodeBuilder {
        NodeBuilder {
            name: name.into(),
            listen: "127.0.0.1:0".to_owned(),
            distributor: "127.0.0.1:9000".to_owned(),
            routes: Vec::new(),
            states: States::default(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The other nodes.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Leaves the registry, serves callers until they have gone or for 2 s, lets calls in flight finish for up to 10 s more, and
    /// returns how many connections were cut while calls were in flight. Dropping the future stops at once.
    pub async fn stop(mut self) -> usize {
        self.leaving.cancel();
        let cut = (&mut self.server).await.unwrap_or_default();
        if cut > 0 {
            warn!(connections = cut, "stopped; connections were cut while calls were in flight");
        } else {
            info!("stopped");
        }
        cut
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.leaving.cancel();
        self.server.abort();
    }
}

impl NodeBuilder {
    /// Where to listen, `127.0.0.1:0` unless set. Other nodes call the port at the address that the Distributor sees.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// Where the Distributor is, `127.0.0.1:9000` unless set. A name is looked up at every attempt to connect.
    pub fn distributor(mut self, address: impl Into<String>) -> Self {
        self.distributor = address.into();
        self
    }

    /// Offers `route`, such as `GET/goods` or `GET/goods/{id}`, answered by `handler`. Handlers of one caller share a
    /// task: work that blocks belongs into `tokio::task::spawn_blocking`.
    pub fn route<A: 'static>(mut self, route: &str, handler: impl Handler<A>) -> Self {
        self.routes.push((route.to_owned(), boxed(handler)));
        self
    }

    /// A value that handlers can have as [`State<T>`](crate::State). One per type; a second of a type replaces the first.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(Arc::new(state));
        self
    }

    /// Listens, registers, and serves until SIGTERM or SIGINT; then leaves in order.
    ///
    /// # Errors
    /// [`StartError`] when the node cannot start. Once it has, nothing but a signal ends it.
    pub async fn serve(self) -> Result<(), StartError> {
        let stop = daemon::stop_on_signals().map_err(StartError::Signals)?;
        let node = self.start().await?;
        stop.cancelled().await;
        node.stop().await;
        Ok(())
    }

    /// Listens and begins to register; the node runs until it is stopped or dropped. A Distributor that is not there yet
    /// is no error.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    #[expect(clippy::unused_async, reason = "it needs the runtime, and may come to wait")]
    pub async fn start(self) -> Result<Node, StartError> {
        let Self { name, listen, distributor, routes: given, states } = self;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=128).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(StartError::Name(name));
        }
        let mut routes = Vec::with_capacity(given.len());
        let mut router = Router::default();
        for (text, handler) in given {
            let route = Route::parse(&text)?;
            if let Some(state) = handler.missing(&states) {
                return Err(StartError::MissingState { route: text, state });
            }
            let mut handler = Some(handler);
            router.entry(&route, || (route.clone(), handler.take().expect("a router makes at most one value")));
            if handler.is_some() {
                return Err(StartError::DoubledRoute(text));
            }
            routes.push(route);
        }
        let address = resolve(&listen)?;
        let listener = daemon::bind(address)?;
        let address = listener.local_addr().map_err(|source| StartError::Address { address: listen, source })?;
        let leaving = CancellationToken::new();
        info!(%address, %name, routes = routes.len(), "listening");
        let identity = Identity { name, port: address.port(), routes };
        let peers = Peers::join(identity, distributor, leaving.clone());
        let surroundings = Surroundings { states, peers: peers.clone() };
        let service = Arc::new(Service { router, surroundings, local_queues: LocalQueues::start() });
        let server = tokio::spawn(server::serve(listener, service, leaving.clone()));
        Ok(Node { address, peers, leaving, server })
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes: Vec<_> = self.routes.iter().map(|(route, _)| route).collect();
        f.debug_struct("NodeBuilder").field("name", &self.name).field("routes", &routes).finish_non_exhaustive()
    }
}

fn resolve(text: &str) -> Result<SocketAddr, StartError> {
    let wrong = |source| StartError::Address { address: text.to_owned(), source };
    let mut addresses = text.to_socket_addrs().map_err(wrong)?;
    addresses.next().ok_or_else(|| wrong(io::ErrorKind::NotFound.into()))
}
