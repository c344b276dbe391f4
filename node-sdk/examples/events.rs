//! Events: of each name, one node gets an event. A broadcast goes to every node.
//!
//! `cargo run -p node-sdk --features testing --example events`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use node_sdk::testing::TestMesh;
use node_sdk::{Node, NodeBuilder, Params, ServiceError, State};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Who got which order.
type Handled = (&'static str, u64);

struct Mailer {
    name: &'static str,
    handled: Sender<Handled>,
}

async fn order_created(Params(order): Params<u64>, mailer: State<Mailer>) -> Result<(), ServiceError> {
    // Its reader may have gone.
    let _ = mailer.handled.send((mailer.name, order)).await;
    Ok(())
}

fn subscriber(name: &'static str, handled: &Sender<Handled>) -> NodeBuilder {
    Node::builder(name).subscribe("orders.created", order_created).state(Mailer { name, handled: handled.clone() })
}

/// The names of the nodes that have handled an event, in order.
async fn names(events: &mut Receiver<Handled>, count: usize) -> Vec<&'static str> {
    let mut names = Vec::new();
    while names.len() < count {
        let Some((name, order)) = events.recv().await else { break };
        println!("{name} handles order {order}");
        names.push(name);
    }
    names.sort_unstable();
    names
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    let (handled, mut events) = channel(8);
    let _subscribers = [
        mesh.node(subscriber("mail", &handled)).await?,
        mesh.node(subscriber("mail", &handled)).await?,
        mesh.node(subscriber("stock", &handled)).await?,
    ];
    let shop = mesh.node(Node::builder("shop")).await?;
    shop.peers().wait_until(|nodes| nodes.len() == 4).await;

    println!("emitted to {} nodes", shop.peers().emit("orders.created", &7)?);
    assert_eq!(names(&mut events, 2).await, ["mail", "stock"]);

    println!("broadcast to {} nodes", shop.peers().broadcast("orders.created", &8)?);
    assert_eq!(names(&mut events, 3).await, ["mail", "mail", "stock"]);
    Ok(())
}
