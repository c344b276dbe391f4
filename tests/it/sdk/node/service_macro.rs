//! A service that is described as a trait.

use node_sdk::testing::TestMesh;
use node_sdk::{CallError, Node, ServiceError};

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Product {
    id: u64,
    name: String,
}

node_sdk::service! {
    /// Something that can be bought.
    pub(crate) trait Goods, client GoodsClient {
        "GET/goods/{id}" => fn find(id: u64) -> Product;
        "GET/goods".public() => fn list() -> Vec<Product>;
        "PUT/goods/{shelf}/{name}" => fn put(shelf: String, name: String, id: u64) -> Product;
        "DELETE/goods/{id}".to_the_end().max_concurrency(0) => fn remove(id: u64) -> ();
    }
}

/// An empty one.
struct Shelf;

impl Goods for Shelf {
    async fn find(&self, id: u64) -> Result<Product, ServiceError> {
        Err(ServiceError::not_found("no_good", format!("there is no {id}")))
    }

    async fn list(&self) -> Result<Vec<Product>, ServiceError> {
        Ok(Vec::new())
    }

    async fn put(&self, shelf: String, name: String, id: u64) -> Result<Product, ServiceError> {
        Ok(Product { id, name: format!("{name} on {shelf}") })
    }

    async fn remove(&self, _id: u64) -> Result<(), ServiceError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn one_trait_is_both_sides() {
    let mesh = TestMesh::start();
    let _goods = mesh.node(Shelf.offer(Node::builder("goods"))).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let goods = GoodsClient(caller.peers());
    assert_eq!(goods.list().await.unwrap(), []);
    let put = goods.put("위 1/2".to_owned(), "사과".to_owned(), u64::MAX).await.unwrap();
    assert_eq!(put, Product { id: u64::MAX, name: "사과 on 위 1/2".to_owned() });
    let refused = goods.find(7).await;
    assert!(
        matches!(&refused, Err(CallError::Refused { status: 404, reason, .. }) if reason == "no_good"),
        "{refused:?}"
    );
    let refused = goods.remove(7).await;
    assert!(matches!(refused, Err(CallError::Refused { status: 503, .. })), "the setting holds: {refused:?}");
    let nodes = caller.peers().nodes();
    let stated = nodes.iter().flat_map(|node| node.stated_routes());
    let public: Vec<_> = stated.filter(|(_, advert)| advert.unwrap().public).map(|(route, _)| route.as_str()).collect();
    assert_eq!(public, ["GET/goods"]);
    // On the wire, it is a service like any other.
    assert_eq!(caller.peers().call::<Vec<Product>>("GET/goods", &()).await.unwrap(), []);
}
