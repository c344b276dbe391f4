//! Streams: one that a node sends, and one to which both sides send.
//!
//! `cargo run -p node-sdk --features testing --example streams`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use futures::{Stream, TryStreamExt, stream};
use node_sdk::testing::TestMesh;
use node_sdk::{Items, Node, Params, ServiceError, Streaming};

/// Sends the numbers up to `to`. The next one is made when the caller has read the earlier ones.
async fn count(
    Params(to): Params<u64>,
) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::iter((1..=to).map(Ok))))
}

/// Answers each number that the caller sends with the sum so far.
async fn sums(items: Items<u64>) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::try_unfold((items, 0), |(mut items, sum)| async move {
        let Some(number) = items.try_next().await? else { return Ok(None) };
        let sum = sum + number;
        Ok(Some((sum, (items, sum))))
    })))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    let _counter = mesh.node(Node::builder("counter").route("GET/count", count).route("POST/sums", sums)).await?;
    let caller = mesh.node(Node::builder("caller")).await?;
    let peers = caller.peers();
    peers.wait_for(&["GET/count", "POST/sums"]).await;

    let numbers: Vec<u64> = peers.stream::<u64>("GET/count", &5).await?.try_collect().await?;
    println!("counted: {numbers:?}");
    assert_eq!(numbers, [1, 2, 3, 4, 5]);

    // Both sides send at the same time.
    let mut sums = peers.stream::<u64>("POST/sums", &()).await?;
    let sender = sums.sender();
    for (number, expected) in [(1, 1), (2, 3), (3, 6)] {
        sender.send(&number).await?;
        let sum = sums.try_next().await?;
        println!("sent {number}, the sum is {sum:?}");
        assert_eq!(sum, Some(expected));
    }
    sender.finish();
    assert_eq!(sums.try_next().await?, None);
    Ok(())
}
