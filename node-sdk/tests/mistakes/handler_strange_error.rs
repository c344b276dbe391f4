//~ the trait bound `ServiceError: From<ParseIntError>` is not satisfied
// An error says what the caller is told.
use std::num::ParseIntError;

use node_sdk::{Node, handler};

#[handler]
async fn read()
-> Result<u32, ParseIntError> { //~ here
    "x".parse()
}

fn main() {
    let _ = Node::builder("files").route("GET/file", read);
}
