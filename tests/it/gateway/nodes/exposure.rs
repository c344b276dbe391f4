//! Which routes of nodes clients have: public ones, and those of nodes that cannot say.

use std::future::Future;
use std::net::SocketAddr;

use gateway::{Config, FixedServer, OldNodesPublic, RequestPattern, RouteAccess, RouteConfig};
use node_sdk::gateway::UnstatedRoutes;
use node_sdk::{Node, Route, ServiceError};
use serde_json::{Value, json};
use tests::{Cluster, CountingServer, Peer, eventually, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a node states of its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stated {
    /// Nothing: it is of version 1.
    Version1,
    /// Nothing: it is of version 2, of before routes could be internal.
    Nothing,
    /// The first so many are public.
    Public(usize),
    /// Something that cannot be read.
    Nonsense,
}

/// A node whose registration the test writes by hand.
struct StatingNode {
    node: Node,
    registered: Peer,
    name: &'static str,
    urls: &'static [&'static str],
}

impl StatingNode {
    async fn join(cluster: &Cluster, name: &'static str, urls: &'static [&'static str], stated: Stated) -> Self {
        // Answers with its name and the route that was called; nobody is told of this registration.
        let answer = move |route: Route| async move { Ok::<_, ServiceError>(format!("{name} {route}")) };
        let silent = Node::builder(name).distributor("127.0.0.1:1");
        let node = urls.iter().fold(silent, |node, url| node.route(url, answer)).start().await.unwrap();
        let mut this = Self { node, registered: cluster.peer().await, name, urls };
        this.state(stated, json!({})).await;
        this
    }

    /// Registers, or registers again.
    async fn state(&mut self, stated: Stated, mut advert: Value) {
        let mut params = json!({ "port": self.node.address().port(), "name": self.name, "urls": self.urls });
        advert["v"] = json!(2);
        match stated {
            Stated::Version1 => advert = Value::Null,
            Stated::Nothing => {}
            Stated::Public(count) => {
                advert["routes"] = json!([{ "at": (0..count).collect::<Vec<_>>(), "public": true }]);
            }
            Stated::Nonsense => advert["routes"] = json!({ "at": [0], "public": true }),
        }
        if !advert.is_null() {
            params["$"] = advert;
        }
        self.registered.register_with(params).await;
        self.registered.list_with(self.name).await;
    }
}

/// A mesh, its gateway, and one that no node has ever joined.
struct Scene {
    cluster: Cluster,
    gateway: SocketAddr,
    _lonely: Cluster,
    nothing: SocketAddr,
}

impl Scene {
    async fn start(config: Config) -> Self {
        let (cluster, lonely) = (Cluster::start(), Cluster::start());
        let gateway = cluster.gateway_with(config.clone()).await;
        let nothing = lonely.gateway_with(config).await;
        Self { cluster, gateway, _lonely: lonely, nothing }
    }

    async fn join(&self, name: &'static str, urls: &'static [&'static str], stated: Stated) -> StatingNode {
        StatingNode::join(&self.cluster, name, urls, stated).await
    }

    /// Waits until the gateway knows all that has been registered so far.
    async fn settle(&self) {
        let canary = self.join("canary", &["GET/canary"], Stated::Public(1)).await;
        eventually("the gateway knows all", async || request(self.gateway, "GET", "/canary", "").await.status == 200)
            .await;
        drop(canary);
        eventually("the canary has gone", async || request(self.gateway, "GET", "/canary", "").await.status == 503)
            .await;
    }

    /// What answers a request: the text of a node, or else a status.
    async fn answer(&self, method: &str, path: &str) -> String {
        let answer = request(self.gateway, method, path, "").await;
        match answer.status {
            200 if answer.body.starts_with('{') => answer.json()["results"].as_str().unwrap().to_owned(),
            200 => answer.body.trim_matches('"').to_owned(),
            status => status.to_string(),
        }
    }

    /// Who answers these requests; `no` means that the answer is, byte for byte, that of a gateway
    /// that has never heard of any node.
    #[track_caller]
    fn check(&self, expected: &[(&str, &str, &str)]) -> impl Future<Output = ()> {
        let location = std::panic::Location::caller();
        async move {
            for (method, path, expected) in expected {
                if *expected == "no" {
                    let [seen, unknown] = [self.gateway, self.nothing].map(|at| raw(at, method, path));
                    assert_eq!(seen.await, unknown.await, "{method} {path} ({location})");
                } else {
                    assert_eq!(self.answer(method, path).await, *expected, "{method} {path} ({location})");
                }
            }
        }
    }
}

/// A whole answer, but for the time and the id of the request.
async fn raw(at: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
        .lines()
        .filter(|line| !["date: ", "x-request-id: "].iter().any(|name| line.starts_with(name)))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn an_internal_route_is_to_clients_as_if_it_were_not_there() {
    let scene = Scene::start(Config::default()).await;
    let urls =
        &["GET/goods/{id}", "GET/goods", "GET/a/b", "GET/goods/export", "POST/payments", "GET/a/{x}", "PUT/goods"];
    let _shop = scene.join("shop", urls, Stated::Public(3)).await;
    scene.settle().await;
    scene
        .check(&[
            ("GET", "/goods", "shop GET/goods"),
            ("GET", "/goods/7", "shop GET/goods/{id}"),
            ("GET", "/a/b", "shop GET/a/b"),
            ("POST", "/payments", "no"),
            ("GET", "/payments", "no"),
            ("OPTIONS", "/payments", "no"),
            ("GET", "/a/c", "no"),
            // A node that offers both would run the internal one.
            ("GET", "/goods/export", "no"),
            ("GET", "//goods/./export", "no"),
            ("GET", "/goods/%65xport", "no"),
            ("HEAD", "/goods/export", "no"),
        ])
        .await;
    assert!(raw(scene.gateway, "HEAD", "/goods").await.starts_with("HTTP/1.1 200 OK"));
    let refused = request(scene.gateway, "PUT", "/goods", "{}").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let options = request(scene.gateway, "OPTIONS", "/goods", "").await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
    // Nodes call all of them.
    let caller = scene.cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["POST/payments"]).await;
    for url in ["POST/payments", "GET/goods/export", "GET/a/c"] {
        caller.peers().call::<String>(url, &()).await.unwrap();
    }
}

#[tokio::test]
async fn clients_get_the_nodes_for_which_a_route_is_public() {
    let scene = Scene::start(Config::default()).await;
    let public = scene.join("public", &["GET/m"], Stated::Public(1)).await;
    let _internal = scene.join("internal", &["GET/m"], Stated::Public(0)).await;
    let alone = scene.join("alone", &["GET/alone"], Stated::Public(1)).await;
    let hidden = scene.join("hidden", &["GET/hidden"], Stated::Public(0)).await;
    scene.settle().await;
    for _ in 0..10 {
        scene
            .check(&[("GET", "/m", "public GET/m"), ("GET", "/alone", "alone GET/alone"), ("GET", "/hidden", "no")])
            .await;
    }
    drop((public, alone, hidden));
    eventually("they have gone", async || scene.answer("GET", "/m").await == "404").await;
    // Only what was public has ever been there.
    scene.check(&[("GET", "/m", "no"), ("GET", "/alone", "503"), ("GET", "/hidden", "no")]).await;
}

#[tokio::test]
async fn a_node_may_change_what_it_states() {
    let scene = Scene::start(Config::default()).await;
    let mut node = scene.join("node", &["GET/a", "GET/b"], Stated::Public(1)).await;
    scene.settle().await;
    scene.check(&[("GET", "/a", "node GET/a"), ("GET", "/b", "no")]).await;
    node.state(Stated::Public(2), json!({})).await;
    eventually("it is public", async || scene.answer("GET", "/b").await == "node GET/b").await;
    node.state(Stated::Public(0), json!({})).await;
    eventually("it is internal", async || scene.answer("GET", "/b").await == "404").await;
    scene.check(&[("GET", "/a", "no"), ("GET", "/b", "no")]).await;
    // While a node takes no calls, clients are told so of its public routes alone.
    node.state(Stated::Public(1), json!({ "draining": true })).await;
    eventually("it drains", async || scene.answer("GET", "/a").await == "503").await;
    scene.check(&[("GET", "/b", "no")]).await;
    node.state(Stated::Nonsense, json!({})).await;
    eventually("it is back, and internal", async || scene.answer("GET", "/a").await == "404").await;
    scene.check(&[("GET", "/a", "no"), ("GET", "/b", "no")]).await;
}

#[tokio::test]
async fn nodes_that_cannot_say_are_public_unless_the_gateway_is_told_otherwise() {
    #[track_caller]
    fn check(unstated: UnstatedRoutes, is_public: [bool; 3]) -> impl Future<Output = ()> {
        let location = std::panic::Location::caller();
        async move {
            let config = Config { old_nodes_public: OldNodesPublic(unstated), ..Config::default() };
            let scene = Scene::start(config).await;
            let _old = scene.join("old", &["GET/old/{id}", "GET/log"], Stated::Version1).await;
            let _before = scene.join("before", &["GET/before"], Stated::Nothing).await;
            let _new = scene.join("new", &["GET/new", "GET/inner"], Stated::Public(1)).await;
            scene.settle().await;
            let answers = [("/old/7", "old GET/old/{id}"), ("/log", "old GET/log"), ("/before", "before GET/before")];
            for ((path, answer), is_public) in answers.into_iter().zip(is_public) {
                let expected = if is_public { answer } else { "404" };
                assert_eq!(scene.answer("GET", path).await, expected, "{path} ({location})");
            }
            scene.check(&[("GET", "/new", "new GET/new"), ("GET", "/inner", "no")]).await;
        }
    }
    let only = ["GET/old/{number}", "GET/before", "GET/inner"].map(|route| Route::parse(route).unwrap());
    check(UnstatedRoutes::Public, [true, true, true]).await;
    check(UnstatedRoutes::Internal, [false, false, false]).await;
    check(UnstatedRoutes::Only(only.into()), [true, false, true]).await;
}

#[tokio::test]
async fn servers_answer_what_is_internal_to_nodes() {
    let server = CountingServer::start().await;
    let servers = vec![FixedServer { address: server.address.into(), weight: 100 }];
    let routes = vec![RouteConfig { servers, ..RouteConfig::new(vec!["/web".to_owned()]) }];
    let scene = Scene::start(Config { routes, ..Config::default() }).await;
    let _node = scene.join("node", &["GET/web/public", "GET/web/internal"], Stated::Public(1)).await;
    scene.settle().await;
    scene.check(&[("GET", "/web/public", "node GET/web/public")]).await;
    assert_eq!(server.asked(), 0);
    assert_eq!(request(scene.gateway, "GET", "/web/internal", "").await.status, 200);
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn an_operator_closes_what_is_public_and_opens_nothing() {
    let server = CountingServer::start().await;
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<RequestPattern>>();
    let route = |prefix: &str, allow: Option<&[&str]>, deny: &[&str]| RouteConfig {
        access: Some(RouteAccess::new(allow.map(patterns), patterns(deny)).unwrap()),
        ..RouteConfig::new(vec![prefix.to_owned()])
    };
    let deny = &["DELETE", "POST/payments", "GET/goods/export", "GET/상품"];
    let servers = vec![FixedServer { address: server.address.into(), weight: 100 }];
    let routes = vec![
        route("/", None, deny),
        route("/old", Some(&["GET", "POST/old/orders"]), &[]),
        RouteConfig { servers, ..route("/web", None, &["GET/web/secret", "POST"]) },
    ];
    let scene = Scene::start(Config { routes, ..Config::default() }).await;
    let urls = &[
        "GET/goods/{id}",
        "GET/goods/export",
        "DELETE/goods/{id}",
        "POST/payments",
        "GET/상품",
        "GET/old/{page}",
        "POST/old/orders",
        "PUT/old/orders",
        "GET/inner",
    ];
    let _node = scene.join("node", urls, Stated::Public(8)).await;
    scene.settle().await;
    scene
        .check(&[
            ("GET", "/goods/7", "node GET/goods/{id}"),
            // The path counts, whichever route it belongs to.
            ("GET", "/goods/export", "no"),
            ("HEAD", "/goods/%65xport", "no"),
            ("POST", "/payments", "no"),
            ("OPTIONS", "/payments", "no"),
            ("GET", "/%EC%83%81%ED%92%88", "no"),
            ("GET", "/old/7", "node GET/old/{page}"),
            ("POST", "/old/orders", "node POST/old/orders"),
            ("GET", "/inner", "no"),
        ])
        .await;
    for (method, path, status, allow) in [
        ("DELETE", "/goods/7", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/goods/7", 204, "GET, HEAD, OPTIONS"),
        ("PUT", "/old/orders", 405, "GET, HEAD, POST, OPTIONS"),
    ] {
        let answer = request(scene.gateway, method, path, "").await;
        assert_eq!((answer.status, answer.header("allow")), (status, Some(allow)), "{method} {path}");
    }
    for (method, path) in [("GET", "/web/secret"), ("POST", "/web/x"), ("DELETE", "/x")] {
        assert_eq!(request(scene.gateway, method, path, "").await.problem(), "no_route", "{method} {path}");
    }
    assert_eq!(server.asked(), 0);
    assert_eq!(request(scene.gateway, "GET", "/web/x", "").await.status, 200);
}

#[tokio::test]
async fn gh19_what_an_operator_closes_is_closed_in_all_spellings() {
    let server = CountingServer::start().await;
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<RequestPattern>>();
    let route = |prefix: &str, allow: Option<&[&str]>, deny: &[&str]| RouteConfig {
        servers: vec![FixedServer { address: server.address.into(), weight: 100 }],
        access: Some(RouteAccess::new(allow.map(patterns), patterns(deny)).unwrap()),
        ..RouteConfig::new(vec![prefix.to_owned()])
    };
    let routes = vec![
        route("/", None, &["GET/admin/{page}", "GET/orders:all"]),
        route("/closed", Some(&[]), &[]),
        RouteConfig { raw_path: true, ..route("/raw", None, &["GET/raw/admin/{page}"]) },
    ];
    let scene = Scene::start(Config { routes, ..Config::default() }).await;
    for path in [
        "/admin/x",
        "/%61dmin//x",
        "/admin/x/",
        "/admin;a=b/x",
        "/;/admin/x",
        "/admin%3B/x",
        "/orders:all",
        "/orders%3Aall",
        "/closed/x",
        "/closed;a=b/x",
        "/closed%3b/x",
        "/raw/admin%2Fx",
        "/raw/./admin%5cx",
    ] {
        assert_eq!(request(scene.gateway, "GET", path, "").await.problem(), "no_route", "{path}");
    }
    assert_eq!(server.asked(), 0);
    let open = ["/admin", "/admin/x/y", "/orders;all", "/closed2", "/raw/a%2Fb"];
    for path in open {
        assert_eq!(request(scene.gateway, "GET", path, "").await.status, 200, "{path}");
    }
    assert_eq!(server.asked(), open.len());
}
