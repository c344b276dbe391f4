//! The gateway inside this process, in front of nodes and HTTP servers, as its clients see it.
//! Tests that need a process of its own are in `process`.

mod binary;
mod browsers;
mod client_requests;
mod crowds;
mod exposure;
mod http1;
mod http2;
mod http2_abuse;
mod leniency;
mod node_failures;
mod nodes;
mod offers;
mod origins;
mod routes;
mod server_failures;
mod servers;
mod sockets;
mod streams;

use node_sdk::{Params, ServiceError};
use serde_json::{Value, json};

/// Doubles `n`, which a query gives as a text.
async fn double(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    match params["n"].as_i64().or_else(|| params["n"].as_str()?.parse().ok()) {
        Some(n) => Ok(json!({ "double": n * 2 })),
        None => Err(ServiceError::new(422, "no_number", "n must be a number")),
    }
}
