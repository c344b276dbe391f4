//! Meshes of nodes in Rust, JavaScript and Python.

use node_sdk::{CallError, Node, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, HttpClient, eventually, legacy_peers_can_run, request, tool_is_installed};

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

#[tokio::test]
async fn handlers_of_both_packages_read_requests_and_answer_with_fields() {
    if !legacy_peers_can_run() || !tool_is_installed("python3") {
        return;
    }
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    let _nodes = (js_node(&distributor).await, py_node("py", cluster.address).await);
    let gateway = cluster.gateway().await;
    let rust = cluster.node(Node::builder("rust")).await;
    rust.peers().wait_for(&["GET/js/me/now", "GET/py/me/now"]).await;
    for language in ["js", "py"] {
        Cluster::wait_routed(gateway, &format!("/{language}/me/now")).await;
        let signed_in = request(gateway, "POST", &format!("/{language}/sign-in"), r#"{"user":"kim"}"#).await;
        let place = format!("/{language}/me/now");
        assert_eq!((signed_in.status, signed_in.header("location")), (303, Some(&*place)), "{signed_in:?}");
        let cookie = "sid=kim; Path=/; SameSite=Lax; HttpOnly";
        assert_eq!((signed_in.header("set-cookie"), &*signed_in.body), (Some(cookie), ""));

        let mut client = HttpClient::connect(gateway).await;
        let fields = "Host: a\r\nCookie: sid=kim\r\nX-A: 1\r\nX-B: 2\r\n\r\n";
        let me = client.raw(format!("GET {place}?q=%20 HTTP/1.1\r\n{fields}").as_bytes()).await.unwrap();
        assert_eq!((me.status, &*me.body), (200, &*format!("kim 1 GET {place}?q=%20")), "{me:?}");
        assert_eq!((me.header("content-type"), me.header("etag")), (Some("text/plain; charset=utf-8"), Some("\"1\"")));
        let stranger = request(gateway, "GET", &place, "").await;
        assert_eq!((stranger.status, &*stranger.problem()), (401, "sign_in"));
        let forgets = "sid=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly";
        assert_eq!(stranger.header("set-cookie"), Some(forgets));
        let lost = request(gateway, "GET", &format!("/{language}/lost/page"), "").await;
        assert_eq!((lost.status, &*lost.body), (404, "<h1>¶</h1>"));

        let refused = rust.peers().call::<Value>(&format!("GET{place}"), &()).await.unwrap_err();
        assert!(
            matches!(&refused, CallError::Refused { status: 400, reason, .. } if reason == "not_http"),
            "{refused}"
        );
    }
}
