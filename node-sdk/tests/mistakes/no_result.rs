//~ this function cannot handle calls
// A handler gives a `Result`.
use node_sdk::Node;

async fn hello() -> String {
    String::new()
}

fn main() {
    let _ = Node::builder("hello").route("GET/hello", hello);
}
