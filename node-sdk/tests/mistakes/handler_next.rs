//~ `Next` is for a layer, which returns `Result<Outcome, ServiceError>`
// A handler has no next: only a layer has.
use node_sdk::{Next, Node, Params, ServiceError, handler};

#[handler]
async fn find(
    Params(id): Params<u64>,
    _next: Next, //~ here
) -> Result<u64, ServiceError> {
    Ok(id)
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", find);
}
