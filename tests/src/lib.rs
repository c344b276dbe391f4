//! The harness: clusters on port 0, raw peers, processes to kill, and old peers in Node.js.
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]
#![expect(clippy::missing_panics_doc, reason = "in a test a surprise is a failure")]

mod cluster;
mod flood;
mod http;
pub mod http2;
mod js;
mod namespace;
mod peer;
mod process;
mod raw_node;
mod servers;
pub mod streams;
mod tls;

pub use cluster::{Cluster, eventually, pick_address, pick_port};
pub use flood::Flood;
pub use http::{HttpClient, HttpResponse, request, spawn_request};
pub use js::{example, goods};
pub use namespace::Namespace;
pub use peer::{Listener, Peer};
pub use process::{Process, legacy_peers_can_run, tool_is_installed};
pub use raw_node::{RawNode, answer_to};
pub use servers::{CountingServer, RawStream, Server, echo_server, gateway_before, serve_prefixes, try_request};
pub use tls::{GatewayFiles, ask_tls, connect_tls};

use std::time::Duration;

/// How long anything may take before a test gives up: far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
