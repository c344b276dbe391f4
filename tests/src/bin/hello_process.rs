//! The service of the README, with the usual log on standard output, for tests that close its
//! output.

use node_sdk::{Node, Params, ServiceError};

#[derive(serde::Deserialize)]
struct Who {
    name: String,
}

async fn hello(Params(who): Params<Who>) -> Result<String, ServiceError> {
    Ok(format!("Hello, {}!", who.name))
}

/// Argument: where the Distributor is.
#[tokio::main]
async fn main() -> Result<(), node_sdk::StartError> {
    tracing_subscriber::fmt().init();
    let distributor = std::env::args().nth(1).unwrap_or_default();
    Node::builder("hello").distributor(distributor).route("GET/hello", hello).serve().await
}
