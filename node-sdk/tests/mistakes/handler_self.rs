//~ a handler has no `self`: give the value to `NodeBuilder::state`
// Shared values are states.
use node_sdk::{Node, ServiceError, handler};

struct Shelf;

impl Shelf {
    #[handler]
    async fn list(
        &self, //~ here
    ) -> Result<Vec<u64>, ServiceError> {
        Ok(Vec::new())
    }
}

fn main() {
    let _ = Node::builder("goods").route("GET/goods", Shelf::list);
}
