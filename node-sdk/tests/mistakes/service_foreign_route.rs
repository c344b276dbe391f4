//~ a parameter is written {name}, not :name
use node_sdk::{ServiceError};

#[node_sdk::service]
trait Goods {
    #[route("GET/goods/:id")] //~ here
    async fn find(&self, id: u64) -> Result<(), ServiceError>;
}

fn main() {}
