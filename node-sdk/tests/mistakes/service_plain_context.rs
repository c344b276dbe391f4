//~ Peers: serde
use node_sdk::{Peers, ServiceError};

#[node_sdk::service]
trait Goods {
    #[route("GET/goods")]
    async fn list(&self, peers: Peers) -> Result<(), ServiceError>; //~ here
}

fn main() {}
