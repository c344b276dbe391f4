//! The harness: clusters on port 0, raw peers, processes to kill, and version 1 peers in Node.js.
//!
//! A [`Cluster`] is a Distributor in this process. Nodes and gateways join it, and a [`Peer`] sees
//! each packet that they are sent. All wait for conditions, for at most [`PATIENCE`]; none sleeps.
//! A [`Process`] is a program that a test starts, signals and kills, a [`Namespace`] a machine at
//! the end of a cable that a test cuts. The tests themselves are in `tests/it`, sorted by what they
//! test; helpers that two of them need belong here.
//!
//! ```no_run
//! # async fn example() {
//! use node_sdk::{Node, ServiceError};
//! use tests::Cluster;
//!
//! let cluster = Cluster::start();
//! let node = Node::builder("n").public_routes().route("GET/n", async || Ok::<_, ServiceError>(7));
//! let _node = cluster.node(node).await;
//! let gateway = cluster.gateway().await;
//! assert_eq!(Cluster::wait_routed(gateway, "/n").await.body, "7");
//! # }
//! ```
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]
#![expect(clippy::missing_panics_doc, reason = "in a test a surprise is a failure")]

mod cluster;
mod http;
mod machine;
mod nodes;
mod peers;

pub use cluster::{Cluster, eventually, patient, pick_address, pick_port};
pub use http::{
    CountingServer, EventSource, GatewayFiles, HttpClient, HttpResponse, RawStream, Server, ask_tls, connect_tls,
    echo_server, gateway_before, http2, request, serve_prefixes, spawn_request, try_request, web_socket,
};
pub use machine::{Container, Namespace, Process, Terminal, can_run, isolate, legacy_peers_can_run, tool_is_installed};
pub use nodes::{NodeLog, RawNode, answer_to, example, goods, goods_of_version, js_file, log_to, streams};
pub use peers::{Flood, Listener, Peer};

use std::time::Duration;

/// How long anything may take before a test gives up: far more than it takes with eight busy
/// processes beside it. Only a test that fails waits this long.
pub const PATIENCE: Duration = Duration::from_secs(120);
