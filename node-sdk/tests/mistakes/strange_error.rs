//~ this function cannot handle calls
//~ `E: Into<ServiceError>`
// An error says what the caller is told: `impl From<ParseIntError> for ServiceError` is not there.
use node_sdk::Node;

async fn read() -> Result<u32, std::num::ParseIntError> {
    "x".parse()
}

fn main() {
    let _ = Node::builder("files").route("GET/file", read);
}
