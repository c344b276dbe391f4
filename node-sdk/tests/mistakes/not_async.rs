//~ this function cannot handle calls
// A handler is async.
use node_sdk::{Node, ServiceError};

fn hello() -> Result<String, ServiceError> {
    Ok(String::new())
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
