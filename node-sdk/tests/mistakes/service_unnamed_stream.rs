//~ an answer in parts is a `BoxStreaming<T>` here
use node_sdk::{ServiceError, Streaming};

#[node_sdk::service]
trait Goods {
    #[route("GET/ticks")]
    async fn ticks(&self) -> Result<Streaming<Ticks>, ServiceError>; //~ here
}

fn main() {}
