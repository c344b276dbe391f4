//! The gateway inside this process, in front of nodes and HTTP servers, as its clients see it.
//! Tests that need a process of its own are in `process`.

mod clients;
mod nodes;
mod servers;

use node_sdk::{Params, ServiceError};
use serde_json::{Value, json};

/// Doubles `n`, which a query gives as a text.
async fn double(Params(params): Params<Value>) -> Result<Value, ServiceError> {
    match params["n"].as_i64().or_else(|| params["n"].as_str()?.parse().ok()) {
        Some(n) => Ok(json!({ "double": n * 2 })),
        None => Err(ServiceError::new(422, "no_number", "n must be a number")),
    }
}
