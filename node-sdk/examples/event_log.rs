//! A log of events: what is published while no subscriber is there comes when one is back.
//!
//! `cargo run -p node-sdk --features event-log,testing --example event_log`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use node_sdk::testing::TestMesh;
use node_sdk::{Event, Node, NodeBuilder, Params, ServiceError, State};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Writes bills for orders. A bill has the id of its event: if the event comes twice, there is one
/// bill all the same.
async fn bill(event: Event, Params(order): Params<u64>, bills: State<Sender<String>>) -> Result<(), ServiceError> {
    let bill = format!("{} for order {order}", event.id().unwrap_or_default());
    // Its reader may have gone.
    let _ = bills.send(bill).await;
    Ok(())
}

fn accounting(bills: &Sender<String>) -> NodeBuilder {
    Node::builder("accounting").subscribe_durably("orders.*", "bill", bill).state(bills.clone())
}

async fn next(bills: &mut Receiver<String>) -> String {
    let bill = bills.recv().await.unwrap_or_default();
    println!("bill {bill}");
    bill
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (mesh, folder) = (TestMesh::start(), tempfile::tempdir()?);
    let shop = mesh.node(Node::builder("shop").event_log(folder.path().join("events.db"))).await?;
    let (bills, mut written) = channel(8);

    println!("stored at {}", shop.peers().publish("orders.created", &7).id("bill-7").await?);
    let first = mesh.node(accounting(&bills)).await?;
    assert_eq!(next(&mut written).await, "bill-7 for order 7");

    first.stop().await;
    for order in [8, 9] {
        let published = shop.peers().publish("orders.created", &order).id(format!("bill-{order}")).key("member-1");
        println!("stored at {}, while accounting is away", published.await?);
    }
    let _second = mesh.node(accounting(&bills)).await?;
    assert_eq!(next(&mut written).await, "bill-8 for order 8");
    assert_eq!(next(&mut written).await, "bill-9 for order 9");
    Ok(())
}
