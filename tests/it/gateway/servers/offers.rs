//! HTTP servers that the SDK offers, such as one of axum: gateways pass requests on to them.

use node_sdk::{HttpAdvert, Node, ServiceError, StartError};
use tests::{Cluster, echo_server, eventually, request};

fn advert(prefix: &str) -> HttpAdvert {
    HttpAdvert { prefixes: vec![prefix.to_owned()], strip: true }
}

async fn hello() -> Result<&'static str, ServiceError> {
    Ok("hello")
}

#[tokio::test]
async fn m8_a_gateway_passes_requests_to_a_server_until_it_leaves() {
    let cluster = Cluster::start();
    let _node = cluster.node(Node::builder("greeter").route("GET/hello", hello)).await;
    let gateway = cluster.gateway().await;
    let offer = Node::builder("web").distributor(cluster.address.to_string());
    let offer = offer.offer_http(echo_server().await, advert("/web")).unwrap();
    let answer = Cluster::wait_routed(gateway, "/web/a?b").await;
    assert!(answer.status == 200 && answer.body.starts_with("GET /a?b HTTP/1.1\r\n"), "{answer:?}");
    // The server can call nodes.
    assert_eq!(offer.peers().call::<String>("GET/hello", &()).await.unwrap(), "hello");
    offer.leave().await;
    assert_eq!(request(gateway, "GET", "/web/a", "").await.status, 503, "the gateway has been told");
    // Dropping it leaves, too.
    let offer = Node::builder("web").distributor(cluster.address.to_string());
    let offer = offer.offer_http(echo_server().await, advert("/web")).unwrap();
    Cluster::wait_routed(gateway, "/web/a").await;
    drop(offer);
    eventually("it has left", async || request(gateway, "GET", "/web/a", "").await.status == 503).await;
}

#[tokio::test]
async fn m8_what_gateways_would_ignore_is_refused() {
    let check = |node: node_sdk::NodeBuilder, prefix: &str, expected: &str| {
        let error = node.offer_http(([127, 0, 0, 1], 1).into(), advert(prefix)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let node = || Node::builder("web");
    check(node(), "web", "'web' is not a prefix of paths: a prefix begins with /");
    let handlers = StartError::HandlersOfHttp.to_string();
    check(node().route("GET/hello", hello), "/web", &handlers);
    check(node().on_stop(async |_, _| Ok::<_, ServiceError>(())), "/web", &handlers);
    let nowhere = "'nowhere' is not the address of a Distributor: it has no port";
    let error = node().distributor("nowhere").offer_http(([127, 0, 0, 1], 1).into(), advert("/web")).unwrap_err();
    assert!(error.to_string().starts_with(nowhere), "{error}");
}
