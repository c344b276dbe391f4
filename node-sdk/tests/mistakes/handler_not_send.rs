//~ future cannot be sent between threads safely
//~ let answer: u64 = peers.call("GET/n", &()).await?;
// What is kept over an await goes from thread to thread.
use std::rc::Rc;

use node_sdk::{Node, Peers, ServiceError, handler};

#[handler]
async fn ask(peers: Peers) -> Result<u64, ServiceError> { //~ here
    let kept = Rc::new(1);
    let answer: u64 = peers.call("GET/n", &()).await?;
    Ok(answer + *kept)
}

fn main() {
    let _ = Node::builder("asks").route("GET/ask", ask);
}
