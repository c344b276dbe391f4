//~ `String` cannot be the error of a service
//~ #[derive(node_sdk::Refusal)]
#[node_sdk::service]
trait Goods {
    #[route("GET/goods")]
    async fn list(&self) -> Result<(), String>; //~ here
}

fn main() {}
