//~ this function cannot handle calls
//~ arguments such as `Params<T>`, `State<T>` and `Peers`
// Arguments say where they come from: `Params(id): Params<u64>`.
use node_sdk::{Node, ServiceError};

async fn find(id: u64) -> Result<u64, ServiceError> {
    Ok(id)
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", find);
}
