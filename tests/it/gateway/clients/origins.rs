//! Scheme, host, path and cookies of a request: decided in one place, and the same for redirects,
//! cookies, and what servers are told.

use std::net::SocketAddr;

use gateway::{Config, FixedServer, RouteConfig, Sticky};
use tests::http2::{ask, connect, head};
use tests::{Cluster, CountingServer, HttpClient, HttpResponse, RawStream, request};

fn route(prefix: &str, servers: &[&CountingServer]) -> RouteConfig {
    let servers = servers.iter().map(|server| FixedServer { address: server.address.into(), weight: 100 }).collect();
    RouteConfig { servers, ..RouteConfig::new(vec![prefix.to_owned()]) }
}

/// A `GET` with more fields, each with its line end.
async fn get(gateway: SocketAddr, target: &str, fields: &str) -> HttpResponse {
    let text = format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    HttpClient::connect(gateway).await.raw(text.as_bytes()).await.unwrap()
}

/// The request that the server saw: its port, and the target.
fn seen(response: &HttpResponse) -> (u16, String) {
    let mut lines = response.body.lines();
    let port = lines.next().unwrap().parse().unwrap_or_else(|_| panic!("{response:?}"));
    (port, lines.next().unwrap().split(' ').nth(1).unwrap().to_owned())
}

/// A client that keeps cookies as a browser does that knows no paths.
#[derive(Default)]
struct Jar(std::collections::BTreeMap<String, String>);

impl Jar {
    async fn get(&mut self, gateway: SocketAddr, target: &str) -> HttpResponse {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) };
        let response = get(gateway, target, &cookies).await;
        for (_, cookie) in response.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), value.to_owned());
        }
        response
    }
}

#[tokio::test]
async fn a5_a_client_stays_with_a_server_of_each_route() {
    let cluster = Cluster::start();
    let servers = [(); 6].map(|()| CountingServer::start());
    let [a, b, c, d, e, f] = futures::future::join_all(servers).await.try_into().unwrap();
    let sticky = |route| RouteConfig { sticky: Some(Sticky::Cookie), ..route };
    let named = RouteConfig { cookie: Some("backend".to_owned()), ..sticky(route("/named", &[&e, &f])) };
    let routes = vec![sticky(route("/", &[&a, &b])), sticky(route("/api", &[&c, &d])), named];
    let gateway = cluster.gateway_with(Config { routes, ..Config::default() }).await;
    for _ in 0..4 {
        let mut jar = Jar::default();
        let mut first = Vec::new();
        for path in ["/", "/api/x", "/named"] {
            first.push(seen(&jar.get(gateway, path).await).0);
        }
        for _ in 0..3 {
            for (path, port) in ["/x", "/api", "/named/y"].into_iter().zip(&first) {
                let next = jar.get(gateway, path).await;
                assert_eq!((seen(&next).0, next.header("set-cookie")), (*port, None), "{path} {:?}", jar.0);
            }
        }
        assert!(
            jar.0.len() == 3 && jar.0.contains_key("backend") && jar.0.contains_key("gateway_server"),
            "{:?}",
            jar.0
        );
        // Several of one name: any good one counts.
        let good = &jar.0["backend"];
        let several = format!("Cookie: backend=x; backend={good}; backend=y\r\nCookie: backend=z\r\n");
        let next = get(gateway, "/named", &several).await;
        assert_eq!((seen(&next).0, next.header("set-cookie")), (first[2], None));
    }
}

#[tokio::test]
async fn a6_a7_the_scheme_that_a_trusted_proxy_says_is_the_scheme() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let sticky = || RouteConfig { sticky: Some(Sticky::Cookie), ..route("/", &[&server]) };
    let config = |trusted: bool| {
        let trusted = if trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        Config { routes: vec![sticky()], redirect: Some(8443), h2c: true, trusted, ..Config::default() }
    };
    let gateway = cluster.gateway_with(config(true)).await;
    for https in
        ["X-Forwarded-Proto: https\r\n", "X-Forwarded-Proto: HTTPS\r\n", "Forwarded: for=192.0.2.1;proto=https\r\n"]
    {
        let response = get(gateway, "/x", https).await;
        assert_eq!(response.status, 200, "{https}");
        assert!(response.body.contains("x-forwarded-proto: https\r\n"), "{}", response.body);
        assert!(response.body.contains("proto=https\r\n"), "{}", response.body);
        let cookie = response.header("set-cookie").unwrap();
        assert!(cookie.ends_with("; Secure"), "{cookie}");
    }
    let check = async |gateway, fields: &str, target: &str, location: &str| {
        let response = get(gateway, target, fields).await;
        assert_eq!((response.status, response.header("location")), (308, Some(location)), "{fields}");
    };
    // TLS is the proxy's, and so is its port.
    check(gateway, "", "/x?y", "https://shop.test/x?y").await;
    check(gateway, "X-Forwarded-Proto: http\r\n", "/x", "https://shop.test/x").await;
    check(gateway, "X-Forwarded-Host: outer.test:8080\r\n", "/", "https://outer.test/").await;
    check(gateway, "Forwarded: proto=http;host=outer.test\r\n", "/", "https://outer.test/").await;
    assert_eq!(get(gateway, "/.well-known/acme-challenge/x", "").await.status, 200);
    let mut client = connect(gateway).await;
    let (status, fields, ..) = ask(&mut client, head("GET", "/a").body(()).unwrap(), &[]).await.unwrap();
    assert_eq!((status, fields["location"].to_str().unwrap()), (308, "https://g.test/a"));
    // Any other client cannot say how it came.
    let gateway = cluster.gateway_with(config(false)).await;
    check(gateway, "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n", "/x", "https://shop.test:8443/x")
        .await;
    let untouched = Config { routes: vec![sticky()], ..Config::default() };
    let gateway = cluster.gateway_with(untouched).await;
    let response = get(gateway, "/x", "X-Forwarded-Proto: https\r\n").await;
    assert!(response.body.contains("x-forwarded-proto: http\r\n"), "{}", response.body);
    assert!(!response.header("set-cookie").unwrap().contains("Secure"));
}

#[tokio::test]
async fn a8_a_route_may_pass_the_path_on_as_it_was_sent() {
    let cluster = Cluster::start();
    let (usual, raw) = (CountingServer::start().await, CountingServer::start().await);
    let as_sent = |prefix: &str, strip| RouteConfig { raw_path: true, strip, ..route(prefix, &[&raw]) };
    let routes = vec![route("/", &[&usual]), as_sent("/raw", false), as_sent("/cut/it", true)];
    let gateway = cluster.gateway_with(Config { routes, ..Config::default() }).await;
    let check = async |path: &str, expected: Result<(&CountingServer, &str), u16>| {
        let response = get(gateway, path, "").await;
        let seen = if response.status == 200 { Ok(seen(&response)) } else { Err(response.status) };
        assert_eq!(seen, expected.map(|(server, path)| (server.address.port(), path.to_owned())), "{path}");
    };
    for rest in [
        "/queues/%2F/q",
        "/@scope%2fname",
        "/caf%E9",
        "/a//b",
        "/proxy/http://x/y",
        "/./a?b=//c",
        "/%61",
        "/a%00",
        "/%",
    ] {
        check(&format!("/raw{rest}"), Ok((&raw, &format!("/raw{rest}")))).await;
        check(&format!("//%63ut/./it{rest}"), Ok((&raw, rest))).await;
    }
    check("/cut/it", Ok((&raw, "/"))).await;
    // Where nothing is said, a path has its normal form.
    for (path, seen) in [("/a//b", "/a/b"), ("/proxy/http://x/y", "/proxy/http:/x/y"), ("/./a", "/a"), ("/%61", "/a")] {
        check(path, Ok((&usual, seen))).await;
    }
    check("/raw/../x", Ok((&usual, "/x"))).await;
    for path in ["/queues/%2F/q", "/@scope%2fname", "/caf%E9", "/rawest%2F"] {
        check(path, Err(400)).await;
    }
    // Nothing climbs out, in any reading.
    for path in ["/raw/a/%2e%2e/b", "/raw/..%2fx", "/raw/a%5c..%5cb", "/raw/..;/x", "/raw/a/..", "/x/../raw/a"] {
        check(path, Err(400)).await;
    }
}

#[tokio::test]
async fn a16_servers_are_told_the_prefix_and_their_redirections_stay_below_it() {
    let cluster = Cluster::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let servers = vec![FixedServer { address: server.into(), weight: 100 }];
    let stripped = |prefix: &str| RouteConfig {
        servers: servers.clone(),
        strip: true,
        ..RouteConfig::new(vec![prefix.to_owned()])
    };
    let routes = vec![
        RouteConfig { rewrite_location: true, rewrite_cookies: true, ..stripped("/api") },
        stripped("/plain"),
        RouteConfig { servers: servers.clone(), ..RouteConfig::new(vec!["/".to_owned()]) },
    ];
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    let gateway = cluster.gateway_with(Config { routes, trusted, h2c: true, ..Config::default() }).await;
    let check = async |path: &str, fields: &str, prefix: Option<&str>, location: &str, expected: &str| {
        let mut client = RawStream::to(gateway).await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: g.test\r\n{fields}\r\n")).await;
        let mut behind = RawStream(listener.accept().await.unwrap().0);
        let asked = behind.head().await;
        let seen = asked.lines().find_map(|line| line.strip_prefix("x-forwarded-prefix: "));
        assert_eq!(seen, prefix, "{asked}");
        behind
            .send(&format!(
                "HTTP/1.1 302 Found\r\nConnection: close\r\nSet-Cookie: a=b; Path={location}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        let answer = client.head().await;
        let seen = answer.lines().find_map(|line| line.strip_prefix("Location: "));
        assert_eq!(seen, Some(expected), "{answer}");
        if location.starts_with('/') {
            assert!(answer.contains(&format!("Set-Cookie: a=b; Path={expected}\r\n")), "{answer}");
        }
    };
    check("/api/dir", "", Some("/api"), "/dir/", "/api/dir/").await;
    check("/api/dir", "", Some("/api"), "http://g.test/dir/", "http://g.test/api/dir/").await;
    check("/api/dir", "", Some("/api"), &format!("http://{server}/dir/"), "/api/dir/").await;
    check("/api/dir", "", Some("/api"), "/api/dir/", "/api/dir/").await;
    check("/api/dir", "", Some("/api"), "dir/", "dir/").await;
    check("/api/dir", "", Some("/api"), "https://elsewhere.test/", "https://elsewhere.test/").await;
    check("/api/dir", "X-Forwarded-Prefix: /shop/\r\n", Some("/shop/api"), "/dir/", "/api/dir/").await;
    check("/plain/dir", "", Some("/plain"), "/dir/", "/dir/").await;
    check("/dir", "", None, "/dir/", "/dir/").await;
    check("/dir", "X-Forwarded-Prefix: /shop\r\n", Some("/shop"), "/dir/", "/dir/").await;
    let mut client = connect(gateway).await;
    let request = head("GET", "/api/dir").body(()).unwrap();
    let answers = async {
        let mut behind = RawStream(listener.accept().await.unwrap().0);
        behind.head().await;
        behind
            .send("HTTP/1.1 201 Created\r\nLocation: /dir/\r\nContent-Location: /x\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
            .await;
        behind
    };
    let (answer, _behind) = tokio::join!(ask(&mut client, request, &[]), answers);
    let (_, fields, ..) = answer.unwrap();
    assert_eq!(
        (&fields["location"], &fields["content-location"]),
        (&"/api/dir/".parse().unwrap(), &"/api/x".parse().unwrap())
    );
    assert_eq!(fields["set-cookie"], "a=b; Path=/api");
}

#[tokio::test]
async fn a16_a_client_cannot_say_a_prefix() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let gateway = cluster.gateway_with(Config { routes: vec![route("/", &[&server])], ..Config::default() }).await;
    let response = get(gateway, "/", "X-Forwarded-Prefix: /evil\r\n").await;
    assert!(!response.body.to_lowercase().contains("prefix"), "{}", response.body);
}

#[tokio::test]
async fn a23_fields_with_underscores_reach_servers_that_want_them() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let routes = vec![route("/", &[&server]), RouteConfig { underscores: true, ..route("/old", &[&server]) }];
    let gateway = cluster.gateway_with(Config { routes, ..Config::default() }).await;
    let fields = "api_key: k\r\nX_Forwarded_For: 6.6.6.6\r\n";
    for (path, expected) in [("/", 0), ("/old", 1)] {
        let response = get(gateway, path, fields).await;
        assert_eq!(response.body.matches("api_key: k\r\n").count(), expected, "{}", response.body);
        assert!(!response.body.contains("6.6.6.6"), "{}", response.body);
    }
}

#[tokio::test]
async fn a24_the_host_in_a_target_may_have_the_port_that_it_has_anyway() {
    let cluster = Cluster::start();
    let server = CountingServer::start().await;
    let config = Config { routes: vec![route("/", &[&server])], h2c: true, ..Config::default() };
    let gateway = cluster.gateway_with(config).await;
    for (target, path) in [
        ("http://shop.test:80/x", "/x"),
        ("http://SHOP.test/x", "/x"),
        ("https://shop.test:443/x?y", "/x?y"),
        ("http://shop.test", "/"),
        ("http://shop.test?x=/y", "/?x=/y"),
    ] {
        let response = get(gateway, target, "").await;
        assert_eq!(seen(&response).1, path, "{target}");
        assert!(response.body.contains("Host: shop.test\r\n"), "{}", response.body);
    }
    for target in ["http://shop.test:81/x", "http://other.test/x", "http:///x", "http://shop.test#x"] {
        assert_eq!(get(gateway, target, "").await.status, 400, "{target}");
    }
    for target in ["*", "http://g.test", "http://test"] {
        let response = request(gateway, "OPTIONS", target, "").await;
        assert_eq!(
            (response.status, &*response.body),
            if target == "http://g.test" { (400, &*response.body) } else { (200, "") }
        );
    }
    let mut client = connect(gateway).await;
    for (host, expected) in [("g.test", 200), ("g.test:80", 200), ("g.test:81", 400)] {
        let request = head("GET", "/x").header("host", host).body(()).unwrap();
        assert_eq!(ask(&mut client, request, &[]).await.unwrap().0, expected, "{host}");
    }
}
