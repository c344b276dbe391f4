//~ `{id}` is not an argument of `find`: add `id: …`
use node_sdk::{ServiceError};

#[node_sdk::service]
trait Goods {
    #[route("GET/goods/{id}")] //~ here
    async fn find(&self, number: u64) -> Result<(), ServiceError>;
}

fn main() {}
