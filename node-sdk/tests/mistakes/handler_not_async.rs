//~ a handler is async: write `async fn hello`
// A handler is async.
use node_sdk::{Node, ServiceError, handler};

#[handler]
fn hello() -> Result<String, ServiceError> { //~ here
    Ok(String::new())
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
