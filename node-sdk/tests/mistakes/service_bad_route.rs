//~ this is not a route: no path follows the method
use node_sdk::{ServiceError};

#[node_sdk::service]
trait Goods {
    #[route("GET goods")] //~ here
    async fn list(&self) -> Result<(), ServiceError>;
}

fn main() {}
