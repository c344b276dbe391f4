//! A whole mesh in one process, to test services with: a Distributor and nodes whose connections are buffers, on tokio's clock.
//! With paused time what takes minutes, such as coming back to a Distributor that was gone, takes milliseconds.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! use node_sdk::testing::TestMesh;
//! use node_sdk::{Node, ServiceError};
//!
//! async fn hello() -> Result<String, ServiceError> {
//!     Ok("Hello!".to_owned())
//! }
//!
//! let mut mesh = TestMesh::start();
//! let greeter = mesh.node(Node::builder("greeter").route("GET/hello", hello)).await.unwrap();
//! let caller = mesh.node(Node::builder("caller")).await.unwrap();
//! caller.peers().wait_for(&["GET/hello"]).await;
//! assert_eq!(caller.peers().call::<String>("GET/hello", &()).await.unwrap(), "Hello!");
//!
//! // Without a Distributor they go on with what they know.
//! mesh.kill_distributor();
//! assert_eq!(caller.peers().call::<String>("GET/hello", &()).await.unwrap(), "Hello!");
//!
//! greeter.kill();
//! assert!(caller.peers().call::<String>("GET/hello", &()).await.is_err());
//! # }
//! ```

use std::ops::Deref;
use std::time::Duration;

use net::{Host, Network, VirtualNet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::StartError;
use crate::node::{Node, NodeBuilder};

/// Where the Distributor listens on its host.
const PORT: u16 = 9000;

/// A Distributor, and what joins it. Everything stops when it is dropped, but for nodes that are not.
///
/// Tests of one process that run at a time each have a mesh of their own. Addresses are made up, `10.0.0.1` and up.
#[derive(Debug)]
pub struct TestMesh {
    net: VirtualNet,
    host: Host,
    distributor: Option<DropGuard>,
}

/// A node of a [`TestMesh`], and the machine it runs on.
#[derive(Debug)]
pub struct TestNode {
    node: Node,
    host: Host,
    net: VirtualNet,
}

impl TestMesh {
    /// A mesh with a Distributor that runs.
    pub fn start() -> Self {
        let net = VirtualNet::default();
        let host = net.host();
        let mut mesh = Self { net, host, distributor: None };
        mesh.start_distributor();
        mesh
    }

    /// Starts a node on a machine of its own; where it listens and where the Distributor is, is the mesh's to say.
    ///
    /// # Errors
    /// [`StartError`] as from [`NodeBuilder::start`].
    pub async fn node(&self, node: NodeBuilder) -> Result<TestNode, StartError> {
        let host = self.net.host();
        let distributor = format!("{}:{PORT}", self.host.address());
        let node = node.network(Network::Virtual(host.clone())).listen("127.0.0.1:0").distributor(distributor);
        Ok(TestNode { node: node.start().await?, host, net: self.net.clone() })
    }

    /// Kills the Distributor, as `kill -9` does: its connections break, and nobody listens there.
    pub fn kill_distributor(&mut self) {
        self.distributor = None;
        self.host.kill();
    }

    /// Starts a Distributor that knows nothing, where the last one was. Does nothing while one runs.
    pub fn start_distributor(&mut self) {
        if self.distributor.is_some() {
            return;
        }
        let killed = CancellationToken::new();
        let guard = killed.clone().drop_guard();
        let network = Network::Virtual(self.host.clone());
        // A virtual host refuses nobody.
        let Ok(listener) = network.bind(([0, 0, 0, 0], PORT).into()) else { return };
        let serving = distributor::serve(vec![listener], distributor::Config::default(), CancellationToken::new());
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                () = killed.cancelled() => {}
            }
        });
        self.distributor = Some(guard);
    }

    /// The Distributor neither reads nor writes, as under SIGSTOP; or it does again.
    pub fn freeze_distributor(&self, is_frozen: bool) {
        self.host.freeze(is_frozen);
    }

    /// Nothing passes between a node and the Distributor any more, and neither is told; or it does again.
    pub fn isolate(&self, node: &TestNode, is_isolated: bool) {
        self.net.cut(&self.host, &node.host, is_isolated);
    }
}

impl TestNode {
    /// Kills it, as `kill -9` does: its connections break, what it was doing is lost, and nobody listens there.
    pub fn kill(self) {
        self.host.kill();
    }

    /// Stops it in order: see [`Node::stop`].
    pub async fn stop(self) -> usize {
        self.node.stop().await
    }

    /// It neither reads nor writes, and its connections stay, as under SIGSTOP; or it does again. What it is doing goes on.
    pub fn freeze(&self, is_frozen: bool) {
        self.host.freeze(is_frozen);
    }

    /// What it sends, and is sent from now on, arrives so much later.
    pub fn slow(&self, delay: Duration) {
        self.host.set_delay(delay);
    }

    /// Nothing passes between it and another node any more, and neither is told; or it does again.
    pub fn partition(&self, other: &Self, is_cut: bool) {
        self.net.cut(&self.host, &other.host, is_cut);
    }
}

impl Deref for TestNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
