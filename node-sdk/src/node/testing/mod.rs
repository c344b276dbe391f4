//! A mesh in one process, to test services with: a Distributor, and nodes whose connections are
//! buffers, on tokio's clock. With paused time, an event that takes minutes, such as the return to
//! a Distributor that was gone, takes milliseconds.
//!
//! It must not change how nodes work: it only stands for their network, and for a gateway.
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
//! // Without a Distributor, nodes go on with what they know.
//! mesh.kill_distributor();
//! assert_eq!(caller.peers().call::<String>("GET/hello", &()).await.unwrap(), "Hello!");
//!
//! greeter.kill();
//! assert!(caller.peers().call::<String>("GET/hello", &()).await.is_err());
//! # }
//! ```

mod client;

use std::ops::Deref;
use std::time::Duration;

use net::{Host, Network, VirtualNet};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::client::{TestRequest, TestResponse};
use crate::error::StartError;
use crate::node::{Node, NodeBuilder};

/// Where the Distributor listens on its host.
const PORT: u16 = 9000;

/// A Distributor, and the network of its nodes. Dropping it stops everything except nodes that
/// still exist.
///
/// Each test has a mesh of its own. Its addresses are fictitious, from `10.0.0.1` on.
#[derive(Debug)]
pub struct TestMesh {
    net: VirtualNet,
    host: Host,
    distributor: Option<DropGuard>,
}

/// A node of a [`TestMesh`], and its machine.
#[derive(Debug)]
pub struct TestNode {
    node: Node,
    host: Host,
    net: VirtualNet,
}

impl TestMesh {
    /// A mesh with a running Distributor.
    pub fn start() -> Self {
        let net = VirtualNet::default();
        let host = net.host();
        let mut mesh = Self { net, host, distributor: None };
        mesh.start_distributor();
        mesh
    }

    /// Starts a node on a machine of its own. The mesh chooses its address and that of the
    /// Distributor. Dropping the future leaves no node running.
    ///
    /// # Errors
    /// [`StartError`] as from [`NodeBuilder::start`].
    pub async fn node(&self, node: NodeBuilder) -> Result<TestNode, StartError> {
        let host = self.net.host();
        let distributor = format!("{}:{PORT}", self.host.address());
        let node = node.network(Network::Virtual(host.clone())).listen("127.0.0.1:0").distributor(distributor);
        Ok(TestNode { node: node.start().await?, host, net: self.net.clone() })
    }

    /// Kills the Distributor, as `kill -9` does: its connections break, and its port refuses
    /// connections.
    pub fn kill_distributor(&mut self) {
        self.distributor = None;
        self.host.kill();
    }

    /// Starts a Distributor without any state at the address of the last one. Does nothing while
    /// one runs.
    pub fn start_distributor(&mut self) {
        if self.distributor.is_some() {
            return;
        }
        let killed = CancellationToken::new();
        let guard = killed.clone().drop_guard();
        let network = Network::Virtual(self.host.clone());
        // A virtual host always binds.
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

    /// Freezes the Distributor, as SIGSTOP does: it neither reads nor writes. `false` thaws it.
    pub fn freeze_distributor(&self, is_frozen: bool) {
        self.host.freeze(is_frozen);
    }

    /// Drops everything between a node and the Distributor, without an error at either. `false`
    /// ends that.
    pub fn isolate(&self, node: &TestNode, is_isolated: bool) {
        self.net.cut(&self.host, &node.host, is_isolated);
    }
}

impl TestNode {
    /// Kills the node, as `kill -9` does: its connections break, its work is lost, and its port
    /// refuses connections.
    pub fn kill(self) {
        self.host.kill();
    }

    /// Stops the node in order: see [`Node::stop`]. Dropping the future stops the node at once.
    pub async fn stop(self) -> usize {
        self.node.stop().await
    }

    /// Freezes the connections of the node, as SIGSTOP does: it neither reads nor writes. Its work
    /// continues. `false` thaws them.
    pub fn freeze(&self, is_frozen: bool) {
        self.host.freeze(is_frozen);
    }

    /// Delays everything that the node sends and receives from now on.
    pub fn slow(&self, delay: Duration) {
        self.host.set_delay(delay);
    }

    /// Drops everything between this node and another one, without an error at either. `false` ends
    /// that.
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
