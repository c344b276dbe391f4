//! Meshes of nodes in Rust, JavaScript and Python.

use node_sdk::{Node, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, eventually, legacy_peers_can_run, request, tool_is_installed};

use super::js_package::js_node;
use super::python::py_node;

async fn number() -> Result<u32, ServiceError> {
    Ok(7)
}

#[tokio::test]
async fn internal_routes_are_for_nodes_of_all_languages_and_for_no_client() {
    if !legacy_peers_can_run() || !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let rust = Node::builder("rust").route("GET/rust/open", number).public().route("GET/rust/inner", number);
    let rust = cluster.node(rust).await;
    let distributor = cluster.address.to_string();
    let _nodes = (js_node(&distributor).await, py_node("py", cluster.address).await);
    let gateway = cluster.gateway().await;
    let urls = ["GET/rust/inner", "GET/js/pid", "GET/py/events", "POST/js/calls", "POST/py/call"];
    let peers = rust.peers();
    peers.wait_for(&urls).await;

    // Clients have the public routes only.
    for path in ["/rust/open", "/js/x", "/py/who"] {
        assert_eq!(Cluster::wait_routed(gateway, path).await.status, 200, "{path}");
    }
    let internal = [("GET", "/rust/inner"), ("GET", "/js/pid"), ("GET", "/py/events"), ("POST", "/py/call")];
    for (method, path) in internal {
        let answer = request(gateway, method, path, "{}").await;
        assert_eq!((answer.status, answer.json()["type"].as_str()), (404, Some("/problems/no_route")), "{path}");
    }

    // Nodes call all of them, each its own and those of both others.
    for url in &urls[..3] {
        let ours: Value = peers.call(url, &()).await.unwrap();
        let body = json!({ "url": url });
        for relay in ["POST/js/calls", "POST/py/call"] {
            eventually(&format!("{relay} of {url}"), async || {
                peers.call::<Value>(relay, &body).await.is_ok_and(|theirs| theirs == ours)
            })
            .await;
        }
    }

    // A version 1 gateway answers clients with all that it is shown.
    let mut old = cluster.peer().await;
    old.register("gate", 1).await;
    eventually("it is shown the public routes, and no others", async || {
        let entries = old.ask(1).await;
        let shown = entries.iter().filter_map(|entry| entry["urls"].as_array()).flatten();
        let shown: Vec<_> = shown.filter_map(Value::as_str).collect();
        assert!(urls.iter().all(|url| !shown.contains(url)), "{shown:?}");
        ["GET/rust/open", "GET/js/{name}", "GET/py/who"].iter().all(|url| shown.contains(url))
    })
    .await;
}
