//! A Distributor in this process, and the nodes and gateways that join it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use node_sdk::{Node, NodeBuilder};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::machine::hermetic::watch;
use crate::peers::peer::Peer;
use crate::{PATIENCE, http};

/// A Distributor on a port of its own; it and its gateways stop when the cluster is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Where the Distributor is.
    pub address: SocketAddr,
    stop: CancellationToken,
    distributor: JoinHandle<()>,
    _stop_at_end: DropGuard,
}

impl Cluster {
    /// A cluster with the usual limits, and a [`patient`] Distributor.
    pub fn start() -> Self {
        Self::with(patient())
    }

    /// A cluster whose Distributor has other limits.
    pub fn with(config: distributor::Config) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), config)
    }

    /// A cluster whose Distributor listens on a given address.
    pub fn on(address: SocketAddr, config: distributor::Config) -> Self {
        watch();
        let listener = net::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let distributor = tokio::spawn(distributor::serve(vec![listener], config, stop.clone()));
        Self { address, stop: stop.clone(), distributor, _stop_at_end: stop.drop_guard() }
    }

    /// Stops the Distributor, and waits until its port is free.
    pub async fn stop(self) {
        self.stop.cancel();
        self.distributor.await.unwrap();
    }

    /// A raw connection to the Distributor.
    pub async fn peer(&self) -> Peer {
        Peer::connect(self.address).await
    }

    /// A raw version 1 node of this name that has registered and seen itself listed.
    pub async fn registered(&self, name: &str) -> Peer {
        let mut peer = self.peer().await;
        peer.register(name, 1).await;
        peer.list_with(name).await;
        peer
    }

    /// Starts a node of ours.
    pub async fn node(&self, node: NodeBuilder) -> Node {
        node.distributor(self.address.to_string()).start().await.unwrap()
    }

    /// Starts a gateway and returns its address once it has joined.
    pub async fn gateway(&self) -> SocketAddr {
        self.gateway_with(gateway::Config::default()).await
    }

    /// Starts a gateway with other limits.
    pub async fn gateway_with(&self, config: gateway::Config) -> SocketAddr {
        let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let config = gateway::Config { distributor: self.address.to_string(), ..config };
        tokio::spawn(gateway::serve(listener, config, self.stop.clone()));
        let mut observer = self.peer().await;
        eventually("the gateway has joined", async || {
            observer.ask(7).await.iter().any(|entry| entry["port"] == address.port())
        })
        .await;
        address
    }

    /// Waits until a gateway has a way to `GET path`, then gives back its answer.
    pub async fn wait_routed(gateway: SocketAddr, path: &str) -> http::HttpResponse {
        let mut answer = http::request(gateway, "GET", path, "").await;
        eventually("the gateway knows the route", async || {
            answer = http::request(gateway, "GET", path, "").await;
            answer.status != 404 && answer.status != 503
        })
        .await;
        answer
    }
}

/// The usual limits of a Distributor, but for those of time, which a test that is about them sets.
/// One thread of a test plays all of its peers: on a busy machine it comes late to some of them,
/// which must not pass for peers that hang.
pub fn patient() -> distributor::Config {
    distributor::Config {
        frame_timeout: PATIENCE,
        register_timeout: PATIENCE,
        write_timeout: PATIENCE,
        ..distributor::Config::default()
    }
}

/// Waits until a condition holds, and panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let location = std::panic::Location::caller();
    async move {
        let holds = async {
            while !condition().await {
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let happens = timeout(PATIENCE, holds).await.is_ok();
        assert!(happens, "did not happen within {PATIENCE:?}: {what} ({location})");
    }
}

/// A free port outside the range that the system assigns from: for a server that restarts at the
/// same address, and for an address where no server must be.
pub fn pick_port() -> u16 {
    /// Below the range of ports that systems give out.
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    /// Tests that run at once in several processes begin at ports far apart.
    const APART: u32 = 127;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(APART);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(first.wrapping_add(step) % PORTS.len() as u32).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A loopback address whose port is free, as [`pick_port`] picks it.
pub fn pick_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], pick_port()))
}
