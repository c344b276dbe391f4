//~ this is the route of `find`, too
use node_sdk::{ServiceError};

#[node_sdk::service]
trait Goods {
    #[route("GET/goods/{id}")]
    async fn find(&self, id: u64) -> Result<(), ServiceError>;
    #[route("GET/goods/{name}")] //~ here
    async fn find_by_name(&self, name: String) -> Result<(), ServiceError>;
}

fn main() {}
