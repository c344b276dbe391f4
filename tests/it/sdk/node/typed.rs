//! A service that is described as a trait, and its client.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{
    BoxStreaming, CallError, Caller, Created, Items, NoContent, Node, OrRefuse, Peers, Refusal, ServiceCallError,
    ServiceError, Streaming,
};

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Product {
    id: u64,
    name: String,
}

#[derive(Debug, PartialEq, Refusal)]
pub(crate) enum GoodsError {
    #[refusal(404, "no_good", "there is no such good")]
    NoGood,
    #[refusal(409, "sold_out")]
    SoldOut(String),
    #[refusal(other)]
    Other(ServiceError),
}

/// Something that can be bought.
#[node_sdk::service]
pub(crate) trait Goods {
    #[route("GET/goods/{id}")]
    async fn find(&self, id: u64) -> Result<Product, GoodsError>;

    #[route("GET/goods", public)]
    async fn list(
        &self,
        #[default(2)] limit: usize,
        prefix: Option<String>,
        #[default] reverse: bool,
    ) -> Result<Vec<String>, ServiceError>;

    #[route("PUT/goods/{shelf}/{name}")]
    async fn put(&self, shelf: String, name: String, id: u64) -> Result<Created<Product>, GoodsError>;

    #[route("DELETE/goods/{id}", to_the_end, max_concurrency(0))]
    async fn remove(&self, id: u64) -> Result<NoContent, ServiceError>;

    /// Asks another service, which it finds by the call.
    #[route("POST/relay")]
    async fn relay(
        &self,
        #[from_call] caller: Caller,
        #[from_call] peers: Peers,
        id: u64,
    ) -> Result<String, GoodsError>;

    #[route("GET/hang")]
    async fn hang(&self) -> Result<(), ServiceError>;

    #[route("GET/ticks/{from}")]
    async fn ticks(&self, from: u64) -> Result<BoxStreaming<u64, GoodsError>, ServiceError>;

    #[route("POST/sum")]
    async fn sum(&self, #[from_call] items: Items<u64>, start: u64) -> Result<u64, GoodsError>;
}

struct Shelf;

impl Goods for Shelf {
    async fn find(&self, id: u64) -> Result<Product, GoodsError> {
        match id {
            7 => Ok(Product { id, name: "shoes".to_owned() }),
            8 => Err(GoodsError::SoldOut("until May".to_owned())),
            9 => Err(ServiceError::new(418, "teapot", "short and stout").into()),
            _ => Err(GoodsError::NoGood),
        }
    }

    async fn list(&self, limit: usize, prefix: Option<String>, reverse: bool) -> Result<Vec<String>, ServiceError> {
        let prefix = prefix.unwrap_or_default();
        let all = (0..9).map(|number| format!("{prefix}{}", if reverse { 9 - number } else { number }));
        Ok(all.take(limit).collect())
    }

    async fn put(&self, shelf: String, name: String, id: u64) -> Result<Created<Product>, GoodsError> {
        Ok(Created(Product { id, name: format!("{name} on {shelf}") }))
    }

    async fn remove(&self, _id: u64) -> Result<NoContent, ServiceError> {
        Ok(NoContent)
    }

    async fn relay(&self, caller: Caller, peers: Peers, id: u64) -> Result<String, GoodsError> {
        let found = GoodsClient::new(&peers).find(id).await;
        let found = match id {
            1 => found?,
            2 => found.or_pass()?,
            _ => found.or_refuse(409, "sold_out", "the inner text is replaced")?,
        };
        Ok(format!("{} for {}", found.name, caller.name().unwrap_or_default()))
    }

    async fn hang(&self) -> Result<(), ServiceError> {
        std::future::pending().await
    }

    async fn ticks(&self, from: u64) -> Result<BoxStreaming<u64, GoodsError>, ServiceError> {
        let parts = [Ok(from), Ok(from + 1), Err(GoodsError::SoldOut("of ticks".to_owned()))];
        Ok(Streaming::boxed(stream::iter(parts)))
    }

    async fn sum(&self, items: Items<u64>, start: u64) -> Result<u64, GoodsError> {
        let sum = items.try_fold(start, async |sum, item| Ok(sum + item)).await?;
        if sum > 100 { Err(GoodsError::NoGood) } else { Ok(sum) }
    }
}

/// A node that offers the service, and one that calls it.
async fn mesh() -> (TestMesh, TestNode, TestNode) {
    let mesh = TestMesh::start();
    let goods = mesh.node(Shelf.offer(Node::builder("goods"))).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    goods.peers().wait_until(|nodes| nodes.len() == 2).await;
    (mesh, goods, caller)
}

#[tokio::test(start_paused = true)]
async fn one_trait_is_both_sides() {
    let (_mesh, _goods, caller) = mesh().await;
    let goods = GoodsClient::new(caller.peers());
    assert_eq!(goods.list(1, Some("a".to_owned()), true).await.unwrap(), ["a9"]);
    let put = goods.put("위 1/2".to_owned(), "사과".to_owned(), u64::MAX).await.unwrap();
    assert_eq!(put, Product { id: u64::MAX, name: "사과 on 위 1/2".to_owned() });
    let refused = goods.remove(7).await;
    assert!(matches!(refused, Err(CallError::Refused { status: 503, .. })), "the setting holds: {refused:?}");
    let nameless = goods.put(String::new(), "사과".to_owned(), 1).await;
    assert!(matches!(nameless, Err(ServiceCallError::Failed(CallError::BadUrl { .. }))), "{nameless:?}");
    let nodes = caller.peers().nodes();
    let stated = nodes.iter().flat_map(|node| node.stated_routes());
    let public: Vec<_> = stated.filter(|(_, advert)| advert.unwrap().public).map(|(route, _)| route.as_str()).collect();
    assert_eq!(public, ["GET/goods"]);
    // On the wire, it is a service like any other. What is not sent has its default.
    assert_eq!(caller.peers().call::<Vec<String>>("GET/goods", &()).await.unwrap(), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_a_service_are_read_back() {
    let (_mesh, _goods, caller) = mesh().await;
    let goods = GoodsClient::new(caller.peers());
    assert_eq!(goods.find(7).await.unwrap().name, "shoes");
    #[track_caller]
    fn check(seen: &Result<Product, ServiceCallError<GoodsError>>, expected: &GoodsError) {
        assert!(matches!(seen, Err(ServiceCallError::Refused(error)) if error == expected), "{seen:?}");
    }
    check(&goods.find(1).await, &GoodsError::NoGood);
    check(&goods.find(8).await, &GoodsError::SoldOut("until May".to_owned()));
    let other = goods.find(9).await;
    assert!(matches!(other, Err(ServiceCallError::Failed(CallError::Refused { status: 418, .. }))), "{other:?}");
}

#[tokio::test(start_paused = true)]
async fn a_method_takes_what_a_handler_takes_and_tells_no_inner_error() {
    let (_mesh, _goods, caller) = mesh().await;
    let goods = GoodsClient::new(caller.peers());
    let relay = async |id: u64| goods.relay(id).await.map_err(CallError::from);
    assert_eq!(relay(7).await.unwrap(), "shoes for caller");
    let told = |error: Result<String, CallError>| match error {
        Err(CallError::Refused { status, reason, message, .. }) => (status, reason, message),
        other => panic!("{other:?}"),
    };
    let failed = "a service that this one needs has failed";
    assert_eq!(told(relay(1).await), (502, "inner_call".to_owned(), failed.to_owned()));
    assert_eq!(told(relay(2).await), (404, "no_good".to_owned(), "there is no such good".to_owned()));
    assert_eq!(told(relay(8).await), (409, "sold_out".to_owned(), "the inner text is replaced".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn settings_are_of_a_call_or_of_all_calls_of_a_client() {
    let (mesh, goods, caller) = mesh().await;
    let second = mesh.node(Shelf.offer(Node::builder("goods"))).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 3).await;
    #[track_caller]
    fn check(seen: &Result<(), CallError>, expected: Duration) {
        assert!(matches!(seen, Err(CallError::Deadline { within, .. }) if *within == expected), "{seen:?}");
    }
    let (short, shorter) = (Duration::from_secs(2), Duration::from_secs(1));
    let client = GoodsClient::new(caller.peers()).timeout(short);
    check(&client.hang().await, short);
    check(&client.hang().timeout(shorter).await, shorter);
    let nobody = client.to_instance("nobody").find(7).await;
    assert!(matches!(nobody, Err(ServiceCallError::Failed(CallError::NoProvider { .. }))), "{nobody:?}");
    // A key goes to one of the two nodes: when that one has gone, to the other.
    let sticky = client.sticky_key("user");
    assert_eq!(sticky.find(7).idempotent().hedge(shorter).await.unwrap().id, 7);
    goods.stop().await;
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    assert_eq!(sticky.find(7).await.unwrap().id, 7);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn answers_and_requests_come_in_parts() {
    let (_mesh, _goods, caller) = mesh().await;
    let goods = GoodsClient::new(caller.peers());
    let mut ticks = goods.ticks(5).timeout(Duration::from_secs(1)).await.unwrap();
    assert_eq!(ticks.try_next().await.unwrap(), Some(5));
    assert_eq!(ticks.try_next().await.unwrap(), Some(6));
    let end = ticks.next().await.unwrap();
    assert!(matches!(&end, Err(CallError::Refused { status: 409, .. })), "{end:?}");

    for (parts, expected) in [(vec![1, 2, 3], Some(16)), (vec![], Some(10)), (vec![99], None)] {
        let sum = goods.sum(10).await.unwrap();
        let sender = sum.sender();
        for part in &parts {
            sender.send(part).await.unwrap();
        }
        let answer = sum.answer().await;
        match expected {
            Some(sum) => assert_eq!(answer.unwrap(), sum),
            None => assert!(matches!(answer, Err(ServiceCallError::Refused(GoodsError::NoGood))), "{answer:?}"),
        }
    }
}
