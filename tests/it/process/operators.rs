//! Texts for operators, and what no peer may put into them.

use std::time::Duration;

use futures::{Stream, stream};
use node_sdk::{Node, ServiceError, Streaming};
use rustix::process::Signal;
use serde_json::json;
use tests::streams::HandlerResult;
use tests::{
    Cluster, HttpClient, HttpResponse, Peer, Process, RawStream, Server, eventually, http2, pick_port, request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::programs::{DISTRIBUTOR, GATEWAY};

/// Characters that would set a terminal's title, clear its screen, begin a line, and reverse the
/// text.
const NAME: &str = "\x1b]0;pwned\x07\x1b[2J\nfake \u{9b}31m\u{202e}line\u{2028}";

/// A gateway with an address for operators.
struct GatewayWithAdmin {
    process: Process,
    at: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl GatewayWithAdmin {
    async fn start(cluster: &Cluster) -> Self {
        Self::start_with(cluster, &[]).await
    }

    async fn start_with(cluster: &Cluster, more: &[&str]) -> Self {
        let [at, admin] = [(); 2].map(|()| std::net::SocketAddr::from(([127, 0, 0, 1], pick_port())));
        let (listen, operators, distributor) = (at.to_string(), admin.to_string(), cluster.address.to_string());
        let arguments = ["--listen", &listen, "--admin", &operators, "--distributor", &distributor, "--workers", "2"];
        let process = Process::start(GATEWAY, &[&arguments, more].concat());
        process.line("listening").await;
        Self { process, at, admin }
    }

    /// The value of a metric without labels.
    async fn metric(&self, name: &str) -> u64 {
        let metrics = request(self.admin, "GET", "/metrics", "").await.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
    }

    async fn routes(&self) -> String {
        let response = request(self.admin, "GET", "/routes", "").await;
        assert_eq!(response.status, 200);
        response.body
    }

    /// The answer to `GET path`, once the worker that is asked knows the route: `/routes` may tell
    /// of it a moment earlier.
    async fn known(&self, path: &str) -> HttpResponse {
        let mut response = None;
        eventually("the worker knows the route", async || {
            response = Some(request(self.at, "GET", path, "").await);
            response.as_ref().is_some_and(|response| response.status != 404)
        })
        .await;
        response.unwrap()
    }

    async fn routes_with(&self, text: &str) -> String {
        let mut routes = String::new();
        eventually(text, async || {
            routes = self.routes().await;
            routes.contains(text)
        })
        .await;
        routes
    }
}

#[track_caller]
fn check_plain(text: &str) {
    let is_bad = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{202e}' | '\u{2028}');
    assert_eq!(text.chars().find(is_bad), None, "{text}");
    assert!(!text.lines().any(|line| line.starts_with("fake")), "{text}");
}

async fn register(cluster: &Cluster, registration: serde_json::Value) -> Peer {
    let mut peer = cluster.peer().await;
    peer.register_with(registration).await;
    peer
}

#[tokio::test]
async fn ov11_many_downloads_at_once_wait_for_their_turns() {
    const TURNS: u64 = 100;
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/big"]).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.listener.accept().await {
            tokio::spawn(async move {
                let mut asked = RawStream(stream);
                asked.head().await;
                asked.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
                while asked.0.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
            });
        }
    });
    let gateway = GatewayWithAdmin::start_with(&cluster, &["--h2c"]).await;
    gateway.routes_with("/big").await;
    for version in [1, 2] {
        let download = async |at| {
            if version == 1 {
                let mut client = RawStream(TcpStream::connect(at).await.unwrap());
                client.send("GET /big HTTP/1.1\r\nHost: g\r\n\r\n").await;
                let mut part = vec![0; 64 * 1024];
                while client.0.read(&mut part).await.is_ok_and(|bytes| bytes > 0) {}
            } else {
                let mut client = http2::connect(at).await;
                let (response, _) = client.send_request(http2::head("GET", "/big").body(()).unwrap(), true).unwrap();
                let mut body = response.await.unwrap().into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
            }
        };
        let before = gateway.metric("gateway_turn_waits_total").await;
        let downloads = futures::future::join_all((0..16).map(|_| download(gateway.at)));
        let waits = eventually("they wait for their turns", async || {
            gateway.metric("gateway_turn_waits_total").await > before + TURNS
        });
        tokio::select! {
            () = waits => {}
            _ = downloads => unreachable!("they have no end"),
        }
        assert_eq!(request(gateway.at, "GET", "/nothing", "").await.status, 404, "another client is answered");
        eventually("they have gone", async || gateway.metric("gateway_connections").await == 0).await;
    }
}

#[tokio::test]
async fn names_of_nodes_are_escaped_for_terminals() {
    let cluster = Cluster::start();
    let _evil = register(&cluster, json!({ "port": 7, "name": NAME, "urls": ["GET/evil"] })).await;
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let routes = gateway.routes_with("GET/evil").await;
    check_plain(&routes);
    assert!(routes.contains(r"\u{1b}]0;pwned\u{7}"), "{routes}");
    let distributor = cluster.address.to_string();
    for more in [&[][..], &["--json"]] {
        let all: Vec<&str> = ["why", NAME, "--at", &distributor].into_iter().chain(more.iter().copied()).collect();
        let mut why = Process::start(DISTRIBUTOR, &all);
        assert_eq!(why.ended().await.code(), Some(0));
        check_plain(&why.line("joined").await);
        check_plain(&why.output());
    }
    let mut routes = Process::start(GATEWAY, &["routes", "--admin", &gateway.admin.to_string()]);
    assert_eq!(routes.ended().await.code(), Some(0));
    routes.line("GET/evil").await;
    check_plain(&routes.output());
    check_plain(&gateway.process.output());
}

#[tokio::test]
async fn no_entry_makes_a_gateway_call_itself() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let mut peers = Vec::new();
    for (port, prefix, id) in [(gateway.admin.port(), "/admin", "a"), (gateway.at.port(), "/round", "b")] {
        let http = json!({ "prefixes": [prefix], "strip": true });
        let advert = json!({ "v": 2, "id": id, "http": http });
        peers.push(register(&cluster, json!({ "port": port, "name": "evil", "urls": [], "$": advert })).await);
        let urls = [format!("GET/calls{prefix}")];
        peers.push(register(&cluster, json!({ "port": port, "name": "evil", "urls": urls })).await);
    }
    let routes = gateway.routes_with("evil: this process listens there itself").await;
    assert!(routes.contains("These nodes are never called"), "{routes}");
    for path in ["/admin/metrics", "/admin/health", "/round/admin", "/calls/admin", "/calls/round"] {
        let response = request(gateway.at, "GET", path, "").await;
        assert_eq!(response.status, 404, "{path}: {}", response.body);
    }
    gateway.process.line("a node is not called: this process listens there itself").await;
}

#[tokio::test]
async fn oe17_idle_operators_do_not_block_others() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let begins = [
        "GET /health HTTP/1.1\r\nHost: g\r\n\r\n",
        "GET /hea",
        "",
        "POST /health HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\n",
    ];
    let mut all = Vec::new();
    for at in 0..4 * 64 {
        let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
        stream.write_all(begins[at % begins.len()].as_bytes()).await.unwrap();
        all.push(stream);
    }
    for _ in 0..3 {
        let answer = timeout(Duration::from_secs(5), request(gateway.admin, "GET", "/health", "")).await;
        assert_eq!(answer.expect("in time").status, 200);
    }
}

#[tokio::test]
async fn oe16_a_lost_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], pick_port()));
    // No server listens there: 502 or 503, and not 404.
    let whole = format!(
        "listen = \"{at}\"\nadmin = \"off\"\n[[route]]\nprefix = \"/\"\nservers = [\"127.0.0.1:{}\"]\n",
        pick_port()
    );
    std::fs::write(&file, &whole).unwrap();
    let gateway = Process::start(GATEWAY, &["--config", file.to_str().unwrap()]);
    gateway.line("listening").await;
    for (text, line) in [
        ("", "it says nothing"),
        ("# nothing\n", "it says nothing"),
        (whole.split("[[route]]").next().unwrap(), "the file no longer has any [[route]], and had 1"),
    ] {
        std::fs::write(&file, text).unwrap();
        let before = gateway.output().matches("the earlier configuration stays in use").count();
        gateway.signal(Signal::HUP);
        let refused = || gateway.output().matches("the earlier configuration stays in use").count() > before;
        eventually("it is refused", async || refused()).await;
        gateway.line(line).await;
        assert!(request(at, "GET", "/x", "").await.status >= 500);
    }
    std::fs::write(&file, whole.replace("prefix = \"/\"", "prefix = \"/y\"")).unwrap();
    gateway.signal(Signal::HUP);
    gateway.line("the configuration has been reloaded").await;
    std::fs::write(&file, "").unwrap();
    let mut check = Process::start(GATEWAY, &["check", file.to_str().unwrap()]);
    assert_eq!(check.ended().await.code(), Some(2));
}

#[tokio::test]
async fn bad_prefixes_are_reported_once() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let bad: Vec<String> = (0..200).map(|number| format!("bad\u{202e}{number}")).collect();
    let mut peer = cluster.peer().await;
    for weight in 1..=8 {
        let advert = json!({ "v": 2, "id": "bad", "weight": weight, "http": { "prefixes": bad, "strip": false } });
        peer.register_with(json!({ "port": 7, "name": "bad", "urls": [], "$": advert })).await;
    }
    let advert = json!({ "v": 2, "id": "good", "http": { "prefixes": ["/good"], "strip": false } });
    let _good = register(&cluster, json!({ "port": 8, "name": "good", "urls": [], "$": advert })).await;
    gateway.routes_with("/good").await;
    let line = gateway.process.line("prefixes are ignored").await;
    assert!(line.contains("ignored=200") && line.contains("bad\\u{202e}0"), "{line}");
    let output = gateway.process.output();
    assert_eq!(output.matches("prefixes are ignored").count(), 1, "{output}");
}

#[tokio::test]
async fn a14_a_malformed_response_is_told_of_with_the_server_and_the_reason() {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/odd"]).await;
    let address = server.listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let mut asked = server.accept().await;
            let head = asked.head().await;
            asked
                .send(match head.split(' ').nth(1) {
                    Some("/odd/twice") => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
                    Some("/odd/noise") => "\x1b[2Jnoise\r\n\r\n",
                    Some("/odd/cut") => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
                    Some("/odd/chunk") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                })
                .await;
        }
    });
    let gateway = GatewayWithAdmin::start(&cluster).await;
    eventually("it is known", async || request(gateway.at, "GET", "/odd", "").await.status == 200).await;
    assert_eq!(request(gateway.at, "GET", "/odd/twice", "").await.problem(), "bad_answer");
    let line = gateway.process.line("a server's response is malformed, or was cut").await;
    assert!(line.contains("WARN") && line.contains(&address.to_string()) && line.contains("two values"), "{line}");
    assert_eq!(request(gateway.at, "GET", "/odd/noise", "").await.problem(), "bad_answer");
    for path in ["/odd/cut", "/odd/chunk"] {
        let text = format!("GET {path} HTTP/1.1\r\nHost: g\r\n\r\n");
        assert_eq!(HttpClient::connect(gateway.at).await.raw(text.as_bytes()).await, None);
    }
    let routes = gateway.routes_with("4 malformed or cut responses, the last ").await;
    assert!(routes.contains(" s ago: a chunk's size must be 1 to 15 hexadecimal digits"), "{routes}");
    check_plain(&routes);
    let metrics = request(gateway.admin, "GET", "/metrics", "").await.body;
    assert!(metrics.contains("gateway_malformed_responses_total 4\n"), "{metrics}");
    // One line in ten seconds.
    let lines = gateway.process.output();
    assert_eq!(lines.matches("a server's response is malformed").count(), 1, "{lines}");
}

/// The answer of `distributor why` about a node.
async fn why(cluster: &Cluster, node: &str) -> String {
    let why = Command::new(DISTRIBUTOR).args(["why", node, "--at", &cluster.address.to_string()]).output().await;
    String::from_utf8(why.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn gu1_a14_a_node_that_cannot_be_called_is_told_to_those_who_can_mend_it() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    // It registers, and listens nowhere.
    let (port, advert) = (pick_port(), json!({ "v": 2, "id": "lost" }));
    let registration = json!({ "port": port, "name": "lost", "urls": ["GET/lost"], "$": advert });
    let mut node = register(&cluster, registration).await;
    let address = format!("127.0.0.1:{port}");
    gateway.routes_with("GET/lost").await;
    assert_eq!(gateway.known("/lost").await.status, 503);
    let line = gateway.process.line("a listed node cannot be called").await;
    assert!(line.contains(&address) && line.contains("refused") && line.contains("lost"), "{line}");
    let routes = gateway.routes().await;
    assert!(routes.contains(&format!("{address} lost, cannot be reached: nothing listens there")), "{routes}");
    let notice = loop {
        let packet = node.next().await.expect("a notice");
        if packet["$"]["r"] == "unreachable" {
            break packet;
        }
        if packet["uri"] == "$ping" {
            node.pong().await;
        }
    };
    assert!(notice["$"]["m"].as_str().unwrap().contains("gate at 127.0.0.1"), "{notice}");
    let told = why(&cluster, "lost").await;
    assert!(told.contains("unreachable") && told.contains("gate at") && told.contains("refused"), "{told}");
    // Once is enough.
    for _ in 0..5 {
        assert_eq!(gateway.known("/lost").await.status, 503);
    }
    assert_eq!(gateway.process.output().matches("cannot be called").count(), 1);
    // Once it listens, it is called, and the mark is gone.
    let listener = tests::Listener::bind_at(([127, 0, 0, 1], port).into()).await;
    tokio::spawn(async move {
        let mut caller = listener.accept().await;
        while let Some(call) = caller.next().await {
            if call["uri"] != "$hello" {
                caller.send_packet(&json!({ "key": call["key"], "$": {}, "params": 7 })).await;
            }
        }
    });
    eventually("it is called", async || request(gateway.at, "GET", "/lost", "").await.status == 200).await;
    assert!(!gateway.routes().await.contains("cannot be reached"));
}

#[tokio::test]
async fn gu1_a14_nor_can_a_server_that_registers_be_lost_in_silence() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let advert = json!({ "v": 2, "id": "lost", "http": { "prefixes": ["/lost"] } });
    let (port, urls): (u16, [&str; 0]) = (pick_port(), []);
    let _node = register(&cluster, json!({ "port": port, "name": "lost", "urls": urls, "$": advert })).await;
    gateway.routes_with("/lost").await;
    assert_eq!(gateway.known("/lost").await.status, 503);
    let line = gateway.process.line("a listed node cannot be called").await;
    assert!(line.contains(&format!("127.0.0.1:{port}")) && line.contains("refused"), "{line}");
    eventually("why says so", async || why(&cluster, "lost").await.contains("gate at 127.0.0.1")).await;
    let server = tests::CountingServer::start_at(([127, 0, 0, 1], port).into()).await;
    eventually("it is asked", async || request(gateway.at, "GET", "/lost", "").await.status == 200).await;
    assert!(server.asked() > 0);
}

#[tokio::test]
async fn a14_a_node_that_answers_no_json_is_told_of_with_the_reason() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let listener = tests::Listener::bind().await;
    let (port, advert) = (listener.port(), json!({ "v": 2, "id": "odd" }));
    let _node = register(&cluster, json!({ "port": port, "name": "odd", "urls": ["GET/odd"], "$": advert })).await;
    // Each worker has a connection of its own.
    tokio::spawn(async move {
        loop {
            let mut caller = listener.accept().await;
            tokio::spawn(async move {
                while let Some(call) = caller.next().await {
                    if call["uri"] != "$hello" {
                        caller.send(format!(r#"{{"key":{},"$":{{}},"params":<html>}}¶"#, call["key"])).await;
                    }
                }
            });
        }
    });
    gateway.routes_with("GET/odd").await;
    for _ in 0..2 {
        assert_eq!(gateway.known("/odd").await.problem(), "bad_answer");
    }
    let line = gateway.process.line("a response of a node is malformed").await;
    assert!(line.contains("WARN") && line.contains(&format!("127.0.0.1:{port}")) && line.contains("odd"), "{line}");
    let routes = gateway.routes().await;
    assert!(routes.contains("2 malformed answers, the last 0 s ago: the service answered with something"), "{routes}");
    let metrics = request(gateway.admin, "GET", "/metrics", "").await.body;
    assert!(metrics.contains("gateway_malformed_responses_total 2\n"), "{metrics}");
    let lines = gateway.process.output();
    assert_eq!(lines.matches("a response of a node is malformed").count(), 1, "{lines}");
}

#[tokio::test]
async fn a14_a_stream_that_is_cut_and_a_request_that_is_not_served_are_told_of() {
    async fn ticks() -> HandlerResult<Streaming<impl Stream<Item = HandlerResult<u8>>>> {
        let broken = ServiceError::new(500, "broken", "the source is gone");
        Ok(Streaming(stream::iter([Ok(1), Err(broken)])))
    }
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let node = cluster.node(Node::builder("ticks").public_routes().route("GET/ticks", ticks)).await;
    gateway.routes_with("GET/ticks").await;
    let text = "GET /ticks HTTP/1.1\r\nHost: g\r\nAccept: application/x-ndjson\r\n\r\n";
    assert_eq!(HttpClient::connect(gateway.at).await.raw(text.as_bytes()).await, None);
    let line = gateway.process.line("a node's stream was cut before its last part").await;
    assert!(line.contains(&node.address().to_string()) && line.contains("the source is gone"), "{line}");
    node.stop().await;
    eventually("it has left", async || request(gateway.at, "GET", "/ticks", "").await.status == 503).await;
    let line = gateway.process.line("a request is not served").await;
    assert!(line.contains("WARN") && line.contains("no_provider") && line.contains("path=/ticks"), "{line}");
    let metrics = request(gateway.admin, "GET", "/metrics", "").await.body;
    for reason in ["cut_stream", "no_provider"] {
        assert!(metrics.contains(&format!("gateway_warnings_total{{reason=\"{reason}\"}} 1\n")), "{metrics}");
    }
    // A client that asks for what is not there is told, and nobody else.
    assert_eq!(request(gateway.at, "GET", "/nothing", "").await.status, 404);
    assert!(!gateway.process.output().contains("/nothing"));
}

#[tokio::test]
async fn a_route_whose_only_node_drains_is_not_gone() {
    async fn hello() -> HandlerResult<&'static str> {
        Ok("hello")
    }
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let node = cluster.node(Node::builder("hello").public_routes().route("GET/hello", hello)).await;
    let is_answered = async |status: u16| request(gateway.at, "GET", "/hello", "").await.status == status;
    eventually("it is called", async || is_answered(200).await).await;
    node.set_draining(true);
    eventually("it takes no calls", async || is_answered(503).await).await;
    assert_eq!(request(gateway.at, "GET", "/hello", "").await.problem(), "no_provider");
    gateway.routes_with("hello, draining").await;
    node.set_draining(false);
    eventually("it is called again", async || is_answered(200).await).await;
}

#[tokio::test]
async fn a23_a_field_that_is_left_out_is_told_of() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], pick_port()));
    let server = tests::CountingServer::start_at(at).await;
    let (urls, advert): ([&str; 0], _) = ([], json!({ "v": 2, "id": "a", "http": { "prefixes": ["/a"] } }));
    let _node = register(&cluster, json!({ "port": at.port(), "name": "a", "urls": urls, "$": advert })).await;
    gateway.routes_with("/a").await;
    let text = "GET /a HTTP/1.1\r\nHost: g\r\napi_key: secret\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(HttpClient::connect(gateway.at).await.raw(text.as_bytes()).await.unwrap().status, 200);
    }
    assert_eq!(server.asked(), 2);
    let line = gateway.process.line("a field of a request is left out").await;
    assert!(line.contains("WARN") && line.contains("field=api_key") && line.contains("underscores"), "{line}");
    let lines = gateway.process.output();
    assert!(lines.matches("is left out").count() == 1 && !lines.contains("secret"), "{lines}");
    let metrics = request(gateway.admin, "GET", "/metrics", "").await.body;
    assert!(metrics.contains("gateway_fields_left_out_total 2\n"), "{metrics}");
}

#[tokio::test]
async fn gh33_a_balancer_without_its_header_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], pick_port()));
    let text = format!("listen = \"{at}\"\nadmin = \"off\"\nproxy_protocol = [\"127.0.0.1\"]\n");
    std::fs::write(&file, text).unwrap();
    let gateway = Process::start(GATEWAY, &["--config", file.to_str().unwrap()]);
    gateway.line("listening").await;
    assert_eq!(HttpClient::connect(at).await.raw(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n").await, None);
    let line = gateway.line("a connection of this balancer is closed: no PROXY header").await;
    assert!(line.contains("WARN") && line.contains("127.0.0.1") && line.contains("proxy_protocol"), "{line}");
}

#[tokio::test]
async fn c7_one_url_under_two_names_is_told() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let node = |port: u16, name: &str, urls: &[&str]| json!({ "port": port, "name": name, "urls": urls });
    let _one = register(&cluster, node(1, "goods", &["GET/goods", "EVENT/sold"])).await;
    let _same = register(&cluster, node(2, "goods", &["GET/goods", "EVENT/sold"])).await;
    let _event = register(&cluster, node(3, "mails", &["EVENT/sold"])).await;
    gateway.routes_with("127.0.0.1:2").await;
    assert!(!gateway.routes().await.contains("services offer it"));
    let _other = register(&cluster, node(4, "tour", &["GET/goods", "GET/tour"])).await;
    gateway.routes_with("GET/goods  (2 services offer it: calls go to any)").await;
    let told = why(&cluster, "tour").await;
    assert!(told.contains("shares") && told.contains("GET/goods is offered by goods too"), "{told}");
    assert!(!why(&cluster, "mails").await.contains("shares"));
}

#[tokio::test]
async fn c16_of_an_unknown_node_why_says_so_by_its_exit_code() {
    let cluster = Cluster::start();
    let _one = register(&cluster, json!({ "port": 1, "name": "goods", "urls": [] })).await;
    let distributor = cluster.address.to_string();
    for (name, more, code) in [("goods", &[][..], 0), ("nobody", &[], 1), ("nobody", &["--json"], 1)] {
        let mut why = Process::start(DISTRIBUTOR, &[&["why", name, "--at", &distributor], more].concat());
        assert_eq!(why.ended().await.code(), Some(code), "{name} {more:?}");
    }
}

#[tokio::test]
async fn c16_routes_show_events_apart_and_addresses_in_brackets() {
    let cluster = Cluster::start();
    let gateway = GatewayWithAdmin::start(&cluster).await;
    let advertise = json!({ "advertise": "[2001:db8::7]:80" });
    let node = json!({ "port": 1, "name": "goods", "urls": ["GET/goods", "EVENT/sold"], "$": advertise });
    let _one = register(&cluster, node).await;
    let routes = gateway.routes_with("GET/goods").await;
    let (requests, events) = routes.split_once("No request: events").unwrap();
    assert!(requests.contains("  GET/goods\n") && !requests.contains("sold"), "{routes}");
    assert!(events.contains("  sold\n      [2001:db8::7]:80 goods"), "{routes}");
    assert!(why(&cluster, "goods").await.contains(" [2001:db8::7]:80 "));
}
