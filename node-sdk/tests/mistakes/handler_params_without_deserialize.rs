//~ the trait bound `Who: serde
// What `Params` reads is `Deserialize`.
use node_sdk::{Node, Params, Peers, ServiceError, handler};

struct Who {
    name: String,
}

#[handler]
async fn hello(
    _peers: Peers,
    Params(who): Params<Who>, //~ here
) -> Result<String, ServiceError> {
    Ok(who.name)
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
