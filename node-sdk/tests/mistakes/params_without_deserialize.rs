//~ this function cannot handle calls
// What `Params` reads is `Deserialize`.
use node_sdk::{Node, Params, ServiceError};

struct Who {
    name: String,
}

async fn hello(Params(who): Params<Who>) -> Result<String, ServiceError> {
    Ok(who.name)
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
