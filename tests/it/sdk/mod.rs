//! Services that are written with the SDK, and the calls between them. No test here sends HTTP.

mod calls;
mod mesh;
mod node;

use node_sdk::{Node, NodeBuilder, State};
use tests::Cluster;
use tests::streams::HandlerResult;

async fn number(number: State<usize>) -> HandlerResult<usize> {
    Ok(*number)
}

/// Providers of `GET/n`, which answer with their numbers.
async fn providers(cluster: &Cluster, count: usize, with: impl Fn(usize, NodeBuilder) -> NodeBuilder) -> Vec<Node> {
    let mut nodes = Vec::new();
    for at in 0..count {
        let node = with(at, Node::builder("n").state(at).route("GET/n", number));
        nodes.push(cluster.node(node).await);
    }
    nodes
}
