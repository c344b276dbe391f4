//~ a handler is not generic: a route calls one function
// A handler is one function.
use node_sdk::{Node, Params, ServiceError, handler};
use serde::de::DeserializeOwned;

#[handler]
async fn count<T: DeserializeOwned>(_all: Params<Vec<T>>) -> Result<(), ServiceError> { //~ here
    Ok(())
}

fn main() {
    let _ = Node::builder("counts").route("POST/count", count);
}
