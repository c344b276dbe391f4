//~ a handler returns a `Result`, and this is `String`
//~ write `Result<String, ServiceError>`
// A handler returns a `Result`.
use node_sdk::{Node, handler};

#[handler]
async fn hello() -> String { //~ here
    String::new()
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
