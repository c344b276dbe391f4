//~ `u64` cannot be an argument of a handler
//~ arguments of handlers are `Params<T>`
// Arguments say where they come from.
use node_sdk::{Node, Peers, ServiceError, handler};

#[handler]
async fn find(
    _peers: Peers,
    id: u64, //~ here
) -> Result<u64, ServiceError> {
    Ok(id)
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", find);
}
