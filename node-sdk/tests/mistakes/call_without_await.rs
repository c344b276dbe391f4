//~ unused `Call` that must be used
//~ a call is made when it is awaited
// A call is nothing until it is awaited.
#![deny(unused_must_use)]
use node_sdk::Peers;

async fn ask(peers: Peers) {
    peers.call::<u64>("GET/n", &());
}

fn main() {
    let _ = ask;
}
