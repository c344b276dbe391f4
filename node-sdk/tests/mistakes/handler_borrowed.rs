//~ an argument owns its value, because the call may end before the handler does
//~ write `String` here
// Arguments are not borrowed.
use node_sdk::{Node, Params, ServiceError, handler};

#[handler]
async fn hello(
    Params(name): Params<&str>, //~ here
) -> Result<String, ServiceError> {
    Ok(name.to_owned())
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
