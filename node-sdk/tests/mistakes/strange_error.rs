//~ this function cannot handle calls
//~ `E: Into<ServiceError>`
// An error says what the caller is told: `impl From<std::io::Error> for ServiceError` is not there.
use node_sdk::Node;

async fn read() -> Result<String, std::io::Error> {
    std::fs::read_to_string("x")
}

fn main() {
    let _ = Node::builder("files").route("GET/file", read);
}
