//! The gateway as a process: TLS, its configuration file, and what signals do to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use rustls::ProtocolVersion;
use tests::{
    Cluster, GatewayFiles, HttpClient, PATIENCE, Process, RawStream, Server, ask_tls, connect_tls, echo_server,
    eventually, pick_address, request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::programs::GATEWAY;

async fn start(file: &Path) -> Process {
    let gateway = Process::start(GATEWAY, &["--config", file.to_str().unwrap(), "--admin", "off"]);
    gateway.line("listening").await;
    gateway
}

#[tokio::test]
async fn tls_shows_each_name_its_certificate_and_replaces_them_without_loss() {
    let (files, server) = (GatewayFiles::new(), echo_server().await);
    let (plain, secure) = (pick_address(), pick_address());
    let a = files.certificate("a", &["a.test", "*.wild.test"]);
    let b = files.certificate("b", &["b.test"]);
    let text = format!(
        "listen = \"{plain}\"\nredirect = true\n[tls]\nlisten = \"{secure}\"\ncertificates = [{a}, {b}]\n\
         [[route]]\nprefix = \"/\"\nservers = [\"{server}\"]\n"
    );
    let file = files.write(&text);
    let gateway = start(&file).await;
    let client = files.client(&["http/1.1"]);
    for name in ["a.test", "b.test", "x.wild.test"] {
        let mut stream = connect_tls(&client, secure, name).await.unwrap();
        let seen = ask_tls(&mut stream, "/x", name).await;
        assert!(seen.contains("x-forwarded-proto: https\r\n") && seen.contains("proto=https\r\n"), "{seen}");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    // There is no certificate for that name. The first one is shown, and the client refuses it.
    let error = connect_tls(&client, secure, "c.test").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    // A session can be resumed.
    let mut again = connect_tls(&client, secure, "a.test").await.unwrap();
    ask_tls(&mut again, "/", "a.test").await;
    assert_eq!(again.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));

    // A new certificate for another name; connected clients stay.
    let c = files.certificate("c", &["c.test"]);
    files.write(&text.replace(&b, &c));
    gateway.signal(Signal::HUP);
    gateway.line("the configuration has been reloaded").await;
    eventually("the new certificate is shown", async || connect_tls(&client, secure, "c.test").await.is_ok()).await;
    // A client with a session may come back without being shown a certificate.
    assert!(connect_tls(&files.client(&[]), secure, "b.test").await.is_err());
    assert!(ask_tls(&mut again, "/still", "a.test").await.contains("GET /still HTTP/1.1"));

    // Mistakes are reported, and change nothing.
    std::fs::write(files.path("c.key"), "no key").unwrap();
    gateway.signal(Signal::HUP);
    let line = gateway.line("the earlier configuration stays in use").await;
    assert!(line.contains("c.key: it contains no PRIVATE KEY in PEM form"), "{line}");
    assert!(connect_tls(&client, secure, "c.test").await.is_ok());

    let moved = request(plain, "GET", "/a?b", "").await;
    let port = secure.port();
    assert_eq!((moved.status, moved.header("location")), (308, Some(format!("https://test:{port}/a?b").as_str())));
    for trick in ["../../secret?x=1", "%2e%2e/%2e%2e/secret?x=1", "./../../secret?x=1"] {
        let moved = request(plain, "GET", &format!("/.well-known/acme-challenge/{trick}"), "").await;
        let to = moved.header("location").unwrap_or_default();
        assert!(moved.status == 308 && to.ends_with("/secret?x=1"), "gh31 {trick}: {moved:?}");
    }
    let challenge = request(plain, "GET", "/.well-known/acme-challenge/x", "").await;
    assert_eq!(challenge.status, 200, "for certificate authorities");
    assert_eq!(
        request(secure, "GET", "/", "").await.problem(),
        "tls_wanted",
        "an answer for clients that forgot the s"
    );
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn ta10_an_unusable_certificate_is_reported_at_the_start() {
    let files = GatewayFiles::new();
    let (a, b) = (files.certificate("a", &["a.test"]), files.certificate("b", &["b.test"]));
    let check = async |certificate: &str, why: &str| {
        let text = format!("[tls]\nlisten = \"{}\"\ncertificates = [{certificate}]\n", pick_address());
        let file = files.write(&text);
        let mut check = Process::start(GATEWAY, &["check", file.to_str().unwrap()]);
        assert_eq!(check.ended().await.code(), Some(2));
        check.line(why).await;
        let mut started =
            Process::start(GATEWAY, &["--config", file.to_str().unwrap(), "--listen", &pick_address().to_string()]);
        assert_ne!(started.ended().await.code(), Some(0));
        started.line(why).await;
    };
    check(&a.replace("a.key", "b.key"), "b.key: the key does not belong to the certificate in").await;
    check(&b.replace("b.pem", "none.pem"), "none.pem: No such file").await;
    std::fs::write(
        files.path("a.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    check(&a, "a.key: the key is encrypted; store it decrypted").await;
    std::fs::write(files.path("b.pem"), "hello").unwrap();
    check(&b, "b.pem: it contains no CERTIFICATE in PEM form").await;
}

#[tokio::test]
async fn ta4_a_stalled_handshake_is_ended() {
    let (files, secure) = (GatewayFiles::new(), pick_address());
    let a = files.certificate("a", &["a.test"]);
    let file = files.write(&format!(
        "listen = \"{}\"\nhandshake_timeout = \"200ms\"\nheader_timeout = \"300ms\"\n[tls]\nlisten = \"{secure}\"\ncertificates = [{a}]\n",
        pick_address()
    ));
    let gateway = start(&file).await;
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(secure).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the end");
    }
    gateway.line("a client could not begin with TLS").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn oe10_a_new_configuration_costs_nothing_and_a_bad_one_changes_nothing() {
    let files = GatewayFiles::new();
    let (one, two) = (echo_server().await, echo_server().await);
    let at = pick_address();
    let text = |prefix: &str, server: SocketAddr, more: &str| {
        format!("listen = \"{at}\"\n{more}\n[[route]]\nprefix = \"{prefix}\"\nservers = [\"{server}\"]\n")
    };
    let file = files.write(&text("/one", one, ""));
    let gateway = start(&file).await;
    let mut kept = HttpClient::connect(at).await;
    assert_eq!(kept.request("GET", "/one", "").await.unwrap().status, 200);
    assert_eq!(kept.request("GET", "/two", "").await.unwrap().status, 404);
    files.write(&text("/two", two, "max_body_bytes = 3"));
    gateway.signal(Signal::HUP);
    gateway.line("has been reloaded").await;
    eventually("the new route", async || request(at, "GET", "/two", "").await.status == 200).await;
    assert_eq!(kept.request("GET", "/two", "").await.unwrap().status, 200, "over an earlier connection");
    assert_eq!(kept.request("GET", "/one", "").await.unwrap().problem(), "no_route");
    files.write(&text("/three", one, "max_body = 3"));
    gateway.signal(Signal::HUP);
    let line = gateway.line("the earlier configuration stays in use").await;
    assert!(line.contains("gateway.toml:2:1: unknown key `max_body`; did you mean `max_body_bytes`?"), "{line}");
    assert_eq!(request(at, "GET", "/two", "").await.status, 200);
    files.write(&text("/two", two, "workers = 7"));
    gateway.signal(Signal::HUP);
    gateway.line("workers has changed, which takes effect only in a new process").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn oe10_a_file_that_is_not_read_to_its_end_is_told_of_and_read_again() {
    let files = GatewayFiles::new();
    let (server, at) = (echo_server().await, pick_address());
    let text =
        |prefix: &str| format!("listen = \"{at}\"\n[[route]]\nprefix = \"{prefix}\"\nservers = [\"{server}\"]\n");
    let file = files.write(&text("/one"));
    let gateway = start(&file).await;
    let status = async |path: &str| request(at, "GET", path, "").await.status;
    // Nothing is written into this pipe, as with a disk that does not answer.
    let pipe = file.with_extension("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::remove_file(&file).unwrap();
    std::fs::hard_link(&pipe, &file).unwrap();
    gateway.signal(Signal::HUP);
    gateway.line("the file has not been read for").await;
    assert_eq!((status("/one").await, status("/two").await), (200, 404));
    // A second SIGHUP is not forgotten meanwhile.
    std::fs::remove_file(&file).unwrap();
    files.write(&text("/two"));
    gateway.signal(Signal::HUP);
    let first = text("/first");
    tokio::task::spawn_blocking(move || std::fs::write(pipe, first).unwrap()).await.unwrap();
    eventually("the present file counts", async || status("/two").await == 200).await;
    assert_eq!((status("/one").await, status("/first").await), (404, 404));
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

/// Sends requests, with a connection for every few, until told to stop. Counts the answered ones,
/// and keeps the failures.
async fn load(at: SocketAddr, path: &'static str, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(at).await else {
            failed.push("refused".to_owned());
            continue;
        };
        let mut client = HttpClient::over(stream);
        for _ in 0..20 {
            match client.request("GET", path, "").await {
                Some(response) if response.status == 200 => {
                    count.fetch_add(1, Ordering::Relaxed);
                    if response.header("connection") == Some("close") {
                        break;
                    }
                }
                other => {
                    failed.push(format!("{other:?}"));
                    break;
                }
            }
        }
    }
    failed
}

#[tokio::test]
async fn a9_a22_a_client_over_tls_is_answered_when_it_has_said_all_and_missed_when_it_is_gone() {
    let (cluster, files) = (Cluster::start(), GatewayFiles::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (plain, secure, server) = (pick_address(), pick_address(), listener.local_addr().unwrap());
    let certificate = files.certificate("a", &["a.test"]);
    let file = files.write(&format!(
        "listen = \"{plain}\"\ndistributor = \"{}\"\n[tls]\nlisten = \"{secure}\"\ncertificates = [{certificate}]\n\
         [[route]]\nprefix = \"/\"\nservers = [\"{server}\"]\n",
        cluster.address
    ));
    let _gateway = start(&file).await;
    let client = files.client(&["http/1.1"]);
    let open = async || {
        let mut stream = connect_tls(&client, secure, "a.test").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut behind = RawStream(timeout(PATIENCE, listener.accept()).await.expect("a connection").unwrap().0);
        behind.head().await;
        (stream, behind)
    };
    let (mut stream, mut behind) = open().await;
    stream.shutdown().await.unwrap();
    let mut first = [0; 1];
    timeout(PATIENCE, stream.read_exact(&mut first)).await.expect("it is asked").unwrap();
    behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    let mut told = first.to_vec();
    while !told.ends_with(b"\r\n\r\nok") {
        let read = timeout(PATIENCE, stream.read_buf(&mut told)).await.expect("an answer").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&told));
    }
    assert!(told.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&told));
    let (stream, mut behind) = open().await;
    drop(stream);
    assert_eq!(behind.rest().await, "", "before the head");
    let (mut stream, mut behind) = open().await;
    behind.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"x\r\n") {
        timeout(PATIENCE, stream.read_buf(&mut seen)).await.expect("a chunk").unwrap();
    }
    drop(stream);
    assert_eq!(behind.rest().await, "", "in a stream");
}

#[tokio::test]
async fn up6_a_new_process_takes_over_and_no_request_is_lost() {
    let cluster = Cluster::start();
    let files = GatewayFiles::new();
    let server = Server::join(&cluster, &["/ws"]).await;
    let (at, http) = (pick_address(), echo_server().await);
    let file = files.write(&format!(
        "listen = \"{at}\"\ndistributor = \"{}\"\nworkers = 2\ndrain_timeout = \"2s\"\n[[route]]\nprefix = \"/http\"\nservers = [\"{http}\"]\n",
        cluster.address
    ));
    let gateway = start(&file).await;
    Cluster::wait_routed(at, "/http").await;
    // A WebSocket, which belongs to the old process.
    let (mut client, mut behind) = loop {
        let mut client = RawStream::to(at).await;
        client.send("GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        tokio::select! {
            behind = server.accept() => break (client, behind),
            // The gateway has not been told of the server yet.
            head = client.head() => assert!(head.starts_with("HTTP/1.1 404 "), "{head}"),
        }
    };
    behind.head().await;
    behind.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));

    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let loads: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(at, "/http", Arc::clone(&stop), Arc::clone(&count)))).collect();
    let more = async || {
        let before = count.load(Ordering::Relaxed);
        eventually("requests are answered", async || count.load(Ordering::Relaxed) > before + 200).await;
    };
    more().await;
    gateway.signal(Signal::USR2);
    let line = gateway.line("the new process is ready").await;
    let pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let successor = rustix::process::Pid::from_raw(pid).unwrap();
    client.send("still").await;
    assert_eq!(behind.read_to("still").await, "still", "a tunnel continues while its process drains");
    more().await;
    let mut gateway = gateway;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(client.rest().await, "", "and is cut when the drain times out");
    more().await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert_eq!(load.await.unwrap(), Vec::<String>::new());
    }
    rustix::process::kill_process(successor, Signal::TERM).unwrap();
    eventually("the new process has ended", async || TcpStream::connect(at).await.is_err()).await;
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let (files, server, at) = (GatewayFiles::new(), echo_server().await, pick_address());
    let file = files.write(&format!("listen = \"{at}\"\n[[route]]\nprefix = \"/\"\nservers = [\"{server}\"]\n"));
    let gateway = start(&file).await;
    files.write("lissen = 1");
    gateway.signal(Signal::USR2);
    gateway.line("did you mean `listen`?").await;
    gateway.line("the new process ended before it was ready; its log says why; this process goes on").await;
    assert_eq!(request(at, "GET", "/", "").await.status, 200);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn rs3_a_second_signal_ends_it_at_once() {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/slow"]).await;
    let at = pick_address();
    let mut gateway = Process::start(
        GATEWAY,
        &["--listen", &at.to_string(), "--distributor", &cluster.address.to_string(), "--admin", "off"],
    );
    gateway.line("listening").await;
    let mut client = RawStream::to(at).await;
    eventually("the route", async || {
        client = RawStream::to(at).await;
        client.send("GET /slow HTTP/1.1\r\nHost: g\r\n\r\n").await;
        timeout(Duration::from_millis(100), server.listener.accept()).await.is_ok()
    })
    .await;
    gateway.signal(Signal::TERM);
    gateway.line("a second signal stops at once").await;
    sleep(Duration::from_millis(100)).await;
    assert!(gateway.is_running(), "a request is under way");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().await.code(), Some(130));
}

#[tokio::test]
async fn rs17_nodes_and_servers_notice_the_death_of_a_gateway() {
    let cluster = Cluster::start();
    let server = Server::join(&cluster, &["/ws"]).await;
    let at = pick_address();
    let gateway = Process::start(
        GATEWAY,
        &["--listen", &at.to_string(), "--distributor", &cluster.address.to_string(), "--admin", "off"],
    );
    gateway.line("listening").await;
    let upgrade = "GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = RawStream::to(at).await;
    client.send(upgrade).await;
    while client.head().await.starts_with("HTTP/1.1 404") {
        client = RawStream::to(at).await;
        client.send(upgrade).await;
    }
    let mut behind = server.accept().await;
    behind.head().await;
    behind.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    gateway.kill().await;
    assert_eq!(behind.rest().await, "");
    client.rest().await;
}

#[tokio::test]
async fn oe9_oe12_missing_resources_are_reported() {
    let at = pick_address().to_string();
    let limited = format!("ulimit -n 400; exec {GATEWAY} --listen {at} --admin off");
    let gateway = Process::start("bash", &["-c", &limited]);
    let line = gateway.line("too few descriptors").await;
    assert!(line.contains("clients=150"), "{line}");
    gateway.line("listening").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
    for (address, why, code) in
        [("192.0.2.1:80", "this machine has no such address", 4), ("nowhere.invalid:80", "nowhere.invalid", 2)]
    {
        let mut gateway = Process::start(GATEWAY, &["--listen", address, "--admin", "off"]);
        assert_eq!(gateway.ended().await.code(), Some(code), "{address}");
        gateway.line(why).await;
    }
}

#[tokio::test]
async fn cr13_cr14_cr15_a_log_that_cannot_be_written_ends_nothing() {
    let (server, folder) = (echo_server().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, format!("access_log = \"text\"\n[[route]]\nprefix = \"/\"\nservers = [\"{server}\"]\n"))
        .unwrap();
    let log = folder.path().join("log");
    // A disk that is full, a reader that has gone, and a file that may not grow.
    for redirection in [
        "exec \"$@\" > /dev/full 2>&1".to_owned(),
        "exec \"$@\" > >(exec true) 2>&1".to_owned(),
        format!("ulimit -f 1; exec \"$@\" > {} 2>&1", log.display()),
    ] {
        let at = pick_address();
        let (listen, config) = (at.to_string(), file.to_str().unwrap());
        let arguments = [
            "-c",
            &redirection,
            "bash",
            GATEWAY,
            "--listen",
            &listen,
            "--config",
            config,
            "--admin",
            "off",
            "--log-level",
            "debug",
        ];
        let mut gateway = Process::start("bash", &arguments);
        eventually("it listens", async || TcpStream::connect(at).await.is_ok()).await;
        let mut client = HttpClient::connect(at).await;
        for _ in 0..200 {
            assert_eq!(client.request("GET", "/", "").await.unwrap().status, 200, "{redirection}");
        }
        assert!(gateway.is_running());
        assert_eq!(gateway.terminate().await.code(), Some(0), "{redirection}");
    }
}

#[tokio::test]
async fn operators_see_the_routes() {
    let cluster = Cluster::start();
    let _server = Server::join(&cluster, &["/api"]).await;
    async fn hello() -> Result<&'static str, node_sdk::ServiceError> {
        Ok("hi")
    }
    let _node = cluster.node(node_sdk::Node::builder("hello").public_routes().route("GET/hello", hello)).await;
    let (at, admin) = (pick_address().to_string(), pick_address().to_string());
    let gateway =
        Process::start(GATEWAY, &["--listen", &at, "--distributor", &cluster.address.to_string(), "--admin", &admin]);
    gateway.line("listening").await;
    Cluster::wait_routed(at.parse().unwrap(), "/hello").await;
    let mut routes = Process::start(GATEWAY, &["routes", "--admin", &admin]);
    assert_eq!(routes.ended().await.code(), Some(0));
    for line in ["  GET/hello", " hello", "  /api", " server weight 100: up, 0 in flight"] {
        routes.line(line).await;
    }
    assert_eq!(gateway.terminate().await.code(), Some(0));
    let mut unanswered = Process::start(GATEWAY, &["routes", "--admin", &admin]);
    assert_eq!(unanswered.ended().await.code(), Some(1));
    unanswered.line("name its address with --admin").await;
}
