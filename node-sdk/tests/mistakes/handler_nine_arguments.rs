//~ a handler has up to eight arguments
// Eight arguments are the most.
use node_sdk::{Peers, ServiceError, handler};

#[handler]
async fn busy(
    _1: Peers, _2: Peers, _3: Peers, _4: Peers, _5: Peers, _6: Peers, _7: Peers, _8: Peers,
    _9: Peers, //~ here
) -> Result<(), ServiceError> {
    Ok(())
}

fn main() {
    let _ = busy;
}
