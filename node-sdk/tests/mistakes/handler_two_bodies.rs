//~ a call has a body (`RawBody` or `BodyStream`) or parts (`Items`): take one of them
// The body of a call is taken once.
use node_sdk::{Items, Node, RawBody, ServiceError, handler};

#[handler]
async fn upload(
    RawBody(_body): RawBody,
    _items: Items<u64>, //~ here
) -> Result<(), ServiceError> {
    Ok(())
}

fn main() {
    let _ = Node::builder("files").route("POST/files", upload);
}
