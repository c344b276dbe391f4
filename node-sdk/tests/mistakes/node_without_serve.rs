//~ unused `NodeBuilder` that must be used
//~ a node runs when it is served
// A node is nothing until it is served.
#![deny(unused_must_use)]
use node_sdk::Node;

fn main() {
    Node::builder("idle").listen("127.0.0.1:9010");
}
