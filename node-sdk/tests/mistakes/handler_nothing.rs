//~ a handler returns a `Result`: write `-> Result<(), ServiceError>`
// A handler without a value returns a `Result`, too.
use node_sdk::{Node, handler};

#[handler]
async fn hello() {} //~ here

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
