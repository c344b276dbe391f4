//! A service that greets: `curl '127.0.0.1:8000/hello?name=you'`.

use node_sdk::{Node, Params, ServiceError};

#[derive(serde::Deserialize)]
struct Guest {
    name: String,
}

async fn hello(Params(guest): Params<Guest>) -> Result<String, ServiceError> {
    Ok(format!("Hello, {}!", guest.name))
}

#[tokio::main]
async fn main() -> Result<(), node_sdk::StartError> {
    Node::builder("hello").route("GET/hello", hello).public().serve().await
}
