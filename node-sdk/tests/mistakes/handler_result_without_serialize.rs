//~ `Good` cannot be the result of a handler
//~ add `#[derive(serde::Serialize)]` to `Good`
// A result is `Serialize`.
use node_sdk::{Node, ServiceError, handler};

struct Good;

#[handler]
async fn find()
-> Result<Good, ServiceError> { //~ here
    Ok(Good)
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", find);
}
