//~ this function cannot handle calls
//~ `T: Serialize`
// A result is `Serialize`.
use node_sdk::{Node, ServiceError};

struct Good;

async fn find() -> Result<Good, ServiceError> {
    Ok(Good)
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", find);
}
