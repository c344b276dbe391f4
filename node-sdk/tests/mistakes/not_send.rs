//~ this function cannot handle calls
//~ what it keeps over an `.await` must be `Send`
// What is kept over an await goes from thread to thread.
use std::rc::Rc;

use node_sdk::{Node, Peers, ServiceError};

async fn ask(peers: Peers) -> Result<u64, ServiceError> {
    let kept = Rc::new(1);
    let answer: u64 = peers.call("GET/n", &()).await?;
    Ok(answer + *kept)
}

fn main() {
    let _ = Node::builder("asks").route("GET/ask", ask);
}
