//~ expected `Duration`
// A time has a unit.
use node_sdk::{CallError, Peers};

async fn ask(peers: Peers) -> Result<u64, CallError> {
    peers.call::<u64>("GET/n", &()).timeout(5).await
}

fn main() {
    let _ = ask;
}
