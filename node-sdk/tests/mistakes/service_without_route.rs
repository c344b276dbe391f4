//~ a method of a service has a route
use node_sdk::{ServiceError};

#[node_sdk::service]
trait Goods {
    async fn list(&self) -> Result<(), ServiceError>; //~ here
}

fn main() {}
