//! A typed service: a trait is implemented by one node, and its client calls from another one.
//!
//! `cargo run -p node-sdk --features testing --example typed`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use node_sdk::testing::TestMesh;
use node_sdk::{Caller, Created, Node, Refusal, ServiceCallError};

/// Why the shop refuses an order. Its callers get the variant.
#[derive(Debug, PartialEq, Refusal)]
enum OrderError {
    #[refusal(409, "sold_out", "nothing is left")]
    SoldOut,
    #[refusal(422, "bad_count")]
    BadCount(String),
}

/// What can be ordered.
#[node_sdk::service]
trait Shop {
    /// Returns the number of the order.
    #[route("POST/orders/{good}")]
    async fn order(
        &self,
        #[from_call] caller: Caller,
        good: String,
        #[default(1)] count: u32,
    ) -> Result<Created<u64>, OrderError>;
}

struct Shelf;

impl Shop for Shelf {
    async fn order(&self, caller: Caller, good: String, count: u32) -> Result<Created<u64>, OrderError> {
        println!("{} orders {count} of {good}", caller.name().unwrap_or_default());
        match count {
            0 => Err(OrderError::BadCount("order one or more".to_owned())),
            1..10 => Ok(Created(7)),
            _ => Err(OrderError::SoldOut),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    let _shop = mesh.node(Shelf.offer(Node::builder("shop"))).await?;
    let caller = mesh.node(Node::builder("caller")).await?;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;

    let shop = ShopClient::new(caller.peers()).timeout(Duration::from_secs(1));
    assert_eq!(shop.order("shoes".to_owned(), 2).await?, 7);
    for (count, expected) in [(99, OrderError::SoldOut), (0, OrderError::BadCount("order one or more".to_owned()))] {
        match shop.order("shoes".to_owned(), count).sticky_key("user 3").await {
            Err(ServiceCallError::Refused(error)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
    }
    // Without the client, as from a service in another language. The count has its default.
    assert_eq!(caller.peers().call::<u64>("POST/orders/shoes", &()).await?, 7);
    Ok(())
}
