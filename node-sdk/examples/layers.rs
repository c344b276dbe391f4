//! Guards and layers: a guard decides whether a call goes on, and a layer stands around a handler.
//!
//! `cargo run -p node-sdk --features testing --example layers`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Caller, Next, NoContent, Node, Outcome, Path, Route, ServiceError};
use tokio::time::Instant;

async fn list() -> Result<Vec<u64>, ServiceError> {
    Ok(vec![7])
}

async fn delete(Path(id): Path<u64>) -> Result<NoContent, ServiceError> {
    println!("deleted {id}");
    Ok(NoContent)
}

/// A layer: it sees the call before the handler does, and the outcome after it.
async fn timed(route: Route, next: Next) -> Result<Outcome, ServiceError> {
    let start = Instant::now();
    let outcome = next.run().await;
    let status = outcome.as_ref().map_or_else(|error| error.status, Outcome::status);
    println!("{route}: {status} after {:?}", start.elapsed());
    outcome
}

/// A guard: its error is the response, and the handler does not run.
async fn admins(caller: Caller) -> Result<(), ServiceError> {
    match caller.name().as_deref() {
        Some("admin") => Ok(()),
        _ => Err(ServiceError::new(403, "admins_only", "this is for admins")),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mesh = TestMesh::start();
    // The layer is around all routes, the guard only before those of its group.
    let goods = Node::builder("goods")
        .layer(timed)
        .route("GET/goods", list)
        .group(|group| group.guard(admins).route("DELETE/goods/{id}", delete));
    let _goods = mesh.node(goods).await?;
    let admin = mesh.node(Node::builder("admin")).await?;
    let guest = mesh.node(Node::builder("guest")).await?;
    for node in [&admin, &guest] {
        node.peers().wait_until(|nodes| nodes.len() == 3).await;
    }
    assert_eq!(guest.peers().call::<Vec<u64>>("GET/goods", &()).await?, [7]);
    let refused = guest.peers().call::<()>("DELETE/goods/7", &()).await;
    assert!(matches!(refused, Err(CallError::Refused { status: 403, .. })), "{refused:?}");
    admin.peers().call::<()>("DELETE/goods/7", &()).await?;
    Ok(())
}
