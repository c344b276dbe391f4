//! Servers at Unix sockets: the behaviour that they share with servers at TCP, and the faults of
//! their files.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tests::{
    CountingServer, GatewayFiles, HttpClient, PATIENCE, Process, RawStream, can_run, eventually, pick_address, request,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::programs::GATEWAY;

/// A folder for sockets, and a file that names them.
struct Scene {
    files: GatewayFiles,
    folder: tempfile::TempDir,
    at: SocketAddr,
    admin: SocketAddr,
}

impl Scene {
    fn new() -> Self {
        let (files, folder) = (GatewayFiles::new(), tempfile::Builder::new().prefix("소켓").tempdir().unwrap());
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { files, folder, at: pick_address(), admin: pick_address() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As a file names the socket.
    fn named(&self, name: &str) -> String {
        format!("\"unix:{}\"", self.path(name).display())
    }

    /// A file with one route.
    fn write(&self, servers: &[String], rules: &str) -> String {
        let (at, admin, servers) = (self.at, self.admin, servers.join(", "));
        let text = format!(
            "listen = \"{at}\"\nadmin = \"{admin}\"\ndistributor = \"off\"\nworkers = 2\n[[route]]\nprefix = \"/\"\n\
             servers = [{servers}]\n{rules}\n"
        );
        self.files.write(&text).to_str().unwrap().to_owned()
    }

    async fn gateway(&self, servers: &[String], rules: &str) -> Process {
        let file = self.write(servers, rules);
        let gateway = Process::start(GATEWAY, &["--config", &file]);
        gateway.line("listening").await;
        gateway
    }

    /// The output of `gateway routes`.
    async fn routes(&self) -> String {
        let mut routes = Process::start(GATEWAY, &["routes", "--admin", &self.admin.to_string()]);
        routes.line("Otherwise it is answered").await;
        assert_eq!(routes.ended().await.code(), Some(0));
        routes.output()
    }

    async fn get(&self, path: &str) -> tests::HttpResponse {
        request(self.at, "GET", path, "").await
    }

    /// How often each server answers, by the names that they answer with.
    async fn turns(&self, count: usize) -> BTreeMap<String, usize> {
        let (mut client, mut turns) = (HttpClient::connect(self.at).await, BTreeMap::new());
        for _ in 0..count {
            let response = client.request("GET", "/", "").await.unwrap();
            assert_eq!(response.status, 200, "{response:?}");
            *turns.entry(first_line(&response.body)).or_default() += 1;
        }
        turns
    }
}

fn first_line(body: &str) -> String {
    body.lines().next().unwrap_or_default().to_owned()
}

/// A server at a Unix socket, which answers with its name and the head of the request.
struct UnixServer {
    counts: Arc<Counts>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    asked: AtomicUsize,
    /// The status of its answers; 0 stands for 200.
    status: AtomicUsize,
}

impl UnixServer {
    fn start(path: &Path, name: &'static str) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let counts = Arc::<Counts>::default();
        let seen = Arc::clone(&counts);
        let accepting = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                seen.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, name, Open::new(&seen)));
            }
        });
        Self { counts, accepting }
    }

    /// Starts a server beside the one at `path`, and takes that path over, as a deployment does.
    fn replace(path: &Path, name: &'static str) -> Self {
        let beside = path.with_extension("new");
        let server = Self::start(&beside, name);
        std::fs::rename(beside, path).unwrap();
        server
    }

    fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::Relaxed)
    }

    fn answers(&self, status: usize) {
        self.counts.status.store(status, Ordering::Relaxed);
    }

    /// Closes its listener and all connections. The file stays, as after a kill.
    async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }
}

/// A connection that counts as open until this is dropped.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the requests of one connection.
async fn serve(stream: UnixStream, name: &str, open: Open) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        for line in head.lines() {
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = bytes.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        open.0.asked.fetch_add(1, Ordering::Relaxed);
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let said = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = stream.write_all(said.as_bytes()).await;
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            return;
        }
        let status = open.0.status.load(Ordering::Relaxed);
        let status = if status == 0 { 200 } else { status };
        let body = format!("{name}\n{head}{}", String::from_utf8_lossy(&body));
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_server_at_a_unix_socket_is_asked_as_one_over_tcp() {
    let scene = Scene::new();
    let server = UnixServer::start(&scene.path("앱.sock"), "unix");
    let gateway = scene.gateway(&[scene.named("앱.sock")], "").await;
    let mut client = HttpClient::connect(scene.at).await;
    for _ in 0..10 {
        let seen = client.request("POST", "/a?b", "{\"한\":1}").await.unwrap();
        assert_eq!(seen.status, 200);
        let expected = ["unix\nPOST /a?b HTTP/1.1\r\nHost: test\r\n", "x-forwarded-for: 127.0.0.1\r\n", "{\"한\":1}"];
        assert!(expected.iter().all(|part| seen.body.contains(part)), "{}", seen.body);
    }
    assert_eq!(server.counts.accepted.load(Ordering::Relaxed), 1, "one connection is kept alive");
    // A client that names no host.
    let mut old = RawStream::to(scene.at).await;
    old.send("GET /old HTTP/1.0\r\n\r\n").await;
    let seen = old.rest().await;
    assert!(seen.contains("\r\nhost: localhost\r\n"), "{seen}");
    // Large bodies, both ways.
    let large = "x".repeat(1 << 20);
    let seen = client.request("POST", "/large", &large).await.unwrap();
    assert!(seen.status == 200 && seen.body.ends_with(&large));
    // A tunnel.
    let mut tunnel = RawStream::to(scene.at).await;
    tunnel
        .send("GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await;
    assert!(tunnel.head().await.starts_with("HTTP/1.1 101 "));
    tunnel.send("상품").await;
    assert_eq!(tunnel.read_to("상품").await, "상품");
    tunnel.0.shutdown().await.unwrap();
    assert_eq!(tunnel.rest().await, "", "its end goes through, too");
    let routes = scene.routes().await;
    let line = format!("unix:{} fixed weight 100: up, 0 in flight", scene.path("앱.sock").display());
    assert!(routes.contains(&line), "{routes}");
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn servers_of_both_kinds_take_turns_and_keep_their_clients() {
    let scene = Scene::new();
    let (tcp, _unix) = (CountingServer::start().await, UnixServer::start(&scene.path("a.sock"), "unix"));
    let servers = [format!("\"{}\"", tcp.address), scene.named("a.sock")];
    let gateway = scene.gateway(&servers, "").await;
    let tcp = tcp.address.port().to_string();
    assert_eq!(scene.turns(10).await, BTreeMap::from([(tcp.clone(), 5), ("unix".to_owned(), 5)]));
    for balance in ["least_connections", "least_cost"] {
        scene.write(&servers, &format!("balance = \"{balance}\""));
        gateway.signal(Signal::HUP);
        eventually("both are asked", async || scene.turns(10).await.len() == 2).await;
    }
    // A client stays with its server by its address, and by a cookie.
    scene.write(&servers, "balance = \"client\"");
    gateway.signal(Signal::HUP);
    eventually("one is asked", async || scene.turns(20).await.len() == 1).await;
    scene.write(&servers, "balance = \"cookie\"");
    gateway.signal(Signal::HUP);
    eventually("a cookie is set", async || scene.get("/").await.header("set-cookie").is_some()).await;
    let mut owners = BTreeMap::new();
    for _ in 0..8 {
        let first = scene.get("/").await;
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let mut client = HttpClient::connect(scene.at).await;
        for _ in 0..4 {
            let ask = format!("GET / HTTP/1.1\r\nHost: g\r\nCookie: {cookie}\r\n\r\n");
            let next = client.raw(ask.as_bytes()).await.unwrap();
            assert_eq!(first_line(&next.body), first_line(&first.body));
        }
        *owners.entry(first_line(&first.body)).or_insert(0) += 1;
    }
    assert_eq!(owners.len(), 2, "{owners:?}");
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu22_a_missing_file_is_told_once_and_its_server_is_used_when_it_is_there() {
    let scene = Scene::new();
    let tcp = CountingServer::start().await;
    let (alone, mixed) = (Scene::new(), &scene);
    let gateway = alone.gateway(&[alone.named("a.sock")], "").await;
    let both = mixed.gateway(&[mixed.named("a.sock"), format!("\"{}\"", tcp.address)], "").await;
    let why = "there is no file; start the server, or correct the path";
    for gateway in [&gateway, &both] {
        let line = gateway.line(why).await;
        assert!(line.contains("WARN") && line.contains("a.sock"), "{line}");
    }
    assert_eq!(alone.get("/").await.problem(), "no_provider");
    let other = tcp.address.port().to_string();
    assert_eq!(mixed.turns(20).await, BTreeMap::from([(other, 20)]), "the other one has all requests");
    let routes = mixed.routes().await;
    assert!(routes.contains(&format!("cannot be reached ({why})")), "{routes}");
    let _servers = [&alone, mixed].map(|scene| UnixServer::start(&scene.path("a.sock"), "unix"));
    eventually("it is asked", async || alone.get("/").await.status == 200).await;
    eventually("both are asked", async || mixed.turns(4).await.len() == 2).await;
    for gateway in [gateway, both] {
        gateway.line("the socket of a server can be used again").await;
        assert_eq!(gateway.output().matches(why).count(), 1, "told once:\n{}", gateway.output());
        assert_eq!(gateway.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn gu22_a_file_that_nobody_listens_at_is_told_of() {
    let scene = Scene::new();
    std::fs::write(scene.path("a.sock"), "").unwrap();
    let gateway = scene.gateway(&[scene.named("a.sock")], "").await;
    gateway.line("the file is not a socket; remove it and start the server").await;
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    std::fs::remove_file(scene.path("a.sock")).unwrap();
    let server = UnixServer::start(&scene.path("a.sock"), "one");
    eventually("it is asked", async || scene.get("/").await.status == 200).await;
    // The server is killed, and its file stays.
    server.stop().await;
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    gateway.line("no process listens at the socket; start the server").await;
    std::fs::remove_file(scene.path("a.sock")).unwrap();
    // A socket of another kind.
    let datagrams = std::os::unix::net::UnixDatagram::bind(scene.path("a.sock")).unwrap();
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    gateway.line("the socket is not one of streams").await;
    drop(datagrams);
    std::fs::remove_file(scene.path("a.sock")).unwrap();
    let _server = UnixServer::start(&scene.path("a.sock"), "two");
    eventually("it is asked", async || scene.get("/").await.status == 200).await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu22_a_server_that_does_not_accept_is_told_of_and_asked_when_it_does() {
    let scene = Scene::new();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(scene.path("a.sock")).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = UnixStream::connect(scene.path("a.sock")).await {
        held.push(stream);
    }
    let gateway = scene.gateway(&[scene.named("a.sock")], "").await;
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    gateway.line("the server accepts too slowly, and its backlog is full").await;
    // From now on it accepts.
    socket.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).unwrap();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, "unix", Open::new(&Arc::default())));
        }
    });
    assert_eq!(scene.get("/").await.status, 200);
    gateway.line("the socket of a server can be used again").await;
    accepting.abort();
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu23_who_lacks_which_right_is_told() {
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let can = std::process::Command::new("setpriv").args(as_nobody).arg("true").status();
    if !can_run("setpriv", "run it as root, with setpriv", can.is_ok_and(|status| status.success())) {
        return;
    }
    let scene = Scene::new();
    let folder = scene.path("앱");
    std::fs::create_dir(&folder).unwrap();
    let _server = UnixServer::start(&folder.join("a.sock"), "unix");
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&folder, 0o700);
    mode(&folder.join("a.sock"), 0o600);
    // Another user may not see the program where it was built, nor the file.
    let program = scene.path("gateway");
    std::fs::copy(GATEWAY, &program).unwrap();
    let file = scene.path("gateway.toml");
    std::fs::copy(scene.write(&[scene.named("앱/a.sock")], ""), &file).unwrap();
    for path in [&program, &file] {
        mode(path, 0o755);
    }
    let words = [program.to_str().unwrap(), "--config", file.to_str().unwrap()];
    let gateway = Process::start("setpriv", &[&as_nobody[..], &words].concat());
    gateway.line("listening").await;
    let line = gateway.line("user 65534 needs the right to enter the folder").await;
    assert!(line.contains(folder.to_str().unwrap()), "{line}");
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    mode(&folder, 0o755);
    let line = gateway.line("user 65534 needs the right to write to").await;
    assert!(line.contains("a.sock; chmod or chgrp gives it"), "{line}");
    assert_eq!(scene.get("/").await.problem(), "no_provider");
    mode(&folder.join("a.sock"), 0o666);
    eventually("it may connect", async || scene.get("/").await.status == 200).await;
    gateway.line("the socket of a server can be used again").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

/// Sends requests until told to stop, and returns the failures.
async fn ask_until(at: SocketAddr, method: &'static str, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = tokio::net::TcpStream::connect(at).await else {
            wrong.push("refused".to_owned());
            continue;
        };
        let mut client = HttpClient::over(stream);
        for _ in 0..20 {
            let Some(seen) = client.request(method, "/", "").await else {
                wrong.push("no answer".to_owned());
                break;
            };
            if seen.status != 200 {
                wrong.push(format!("{method}: {seen:?}"));
            }
            if seen.header("connection") == Some("close") {
                break;
            }
        }
    }
    wrong
}

#[tokio::test]
async fn gu24_a_server_that_is_replaced_at_its_path_costs_no_request() {
    let scene = Scene::new();
    let mut server = UnixServer::start(&scene.path("a.sock"), "first");
    let gateway = scene.gateway(&[scene.named("a.sock")], "").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = ["GET", "GET", "POST", "POST"]
        .map(|method| tokio::spawn(ask_until(scene.at, method, Arc::clone(&stop))))
        .into();
    for _ in 0..5 {
        eventually("it is asked", async || server.asked() > 100).await;
        let next = UnixServer::replace(&scene.path("a.sock"), "next");
        // The gateway leaves the one before by itself, which then stops.
        eventually("it is left", async || server.counts.open.load(Ordering::Relaxed) == 0).await;
        std::mem::replace(&mut server, next).stop().await;
    }
    // The next request of a client that had been served by the server before goes to the new one,
    // even at once, and even if it cannot be sent again.
    let mut client = HttpClient::connect(scene.at).await;
    client.request("POST", "/", "").await.unwrap();
    let next = UnixServer::replace(&scene.path("a.sock"), "last");
    assert_eq!(first_line(&client.request("POST", "/", "").await.unwrap().body), "last");
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert_eq!(load.await.unwrap(), Vec::<String>::new());
    }
    drop((server, next));
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu25_checks_and_ejection_hold_at_unix_sockets() {
    let scene = Scene::new();
    let servers = ["a", "b"].map(|name| UnixServer::start(&scene.path(&format!("{name}.sock")), name));
    let [a, b] = &servers;
    let named = ["a.sock", "b.sock"].map(|name| scene.named(name));
    let gateway = scene.gateway(&named, "check = \"/health\"\ncheck_every = \"20ms\"").await;
    eventually("both are checked", async || a.asked() > 0 && b.asked() > 0).await;
    a.answers(500);
    let line = gateway.line("a server gets no requests: its health check failed").await;
    assert!(line.contains("a.sock") && line.contains("it answers with an error"), "{line}");
    assert_eq!(scene.turns(10).await, BTreeMap::from([("b".to_owned(), 10)]));
    a.answers(200);
    gateway.line("the server is healthy again").await;
    assert_eq!(scene.turns(10).await.len(), 2);
    // Without checks, a server that lets requests fail is ejected.
    scene.write(&named, "");
    gateway.signal(Signal::HUP);
    gateway.line("has been reloaded").await;
    a.answers(503);
    eventually("it is ejected", async || {
        let mut client = HttpClient::connect(scene.at).await;
        let mut failed = 0;
        for _ in 0..10 {
            failed += usize::from(client.request("GET", "/", "").await.unwrap().status == 503);
        }
        failed == 0
    })
    .await;
    let routes = scene.routes().await;
    assert!(routes.contains("a.sock fixed weight 100: fails requests"), "{routes}");
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu25_a_server_that_is_lost_with_a_request_has_it_asked_elsewhere() {
    let scene = Scene::new();
    let listener = UnixListener::bind(scene.path("a.sock")).unwrap();
    let _other = UnixServer::start(&scene.path("b.sock"), "other");
    let gateway = scene.gateway(&["a.sock", "b.sock"].map(|name| scene.named(name)), "").await;
    let at = scene.at;
    let accept = async || timeout(PATIENCE, listener.accept()).await.expect("a connection").unwrap().0;
    for (method, status) in [("GET", 200), ("POST", 502)] {
        let asked = tokio::spawn(async move {
            // One of two in turn goes to the server that is lost.
            let mut client = HttpClient::connect(at).await;
            let first = client.request(method, "/", "").await.unwrap().status;
            [first, client.request(method, "/", "").await.unwrap().status]
        });
        let mut stream = accept().await;
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        drop(stream);
        let mut seen = asked.await.unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [200, status], "{method}");
    }
    // An early answer to a body that is not read.
    let asked = tokio::spawn(async move {
        let mut client = HttpClient::connect(at).await;
        let large = "x".repeat(900_000);
        let first = client.request("POST", "/", &large).await.unwrap().status;
        let mut client = HttpClient::connect(at).await;
        [first, client.request("POST", "/", &large).await.unwrap().status]
    });
    let mut stream = accept().await;
    let _ = stream.read(&mut [0; 1024]).await.unwrap();
    stream.write_all(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    drop(stream);
    let mut seen = asked.await.unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [200, 413]);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn gu26_a_gateway_is_replaced_and_reloaded_in_front_of_unix_sockets() {
    let scene = Scene::new();
    let _server = UnixServer::start(&scene.path("a.sock"), "a");
    let later = UnixServer::start(&scene.path("b.sock"), "b");
    let gateway = scene.gateway(&[scene.named("a.sock")], "").await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = ["GET", "GET", "POST", "POST"]
        .map(|method| tokio::spawn(ask_until(scene.at, method, Arc::clone(&stop))))
        .into();
    scene.write(&[scene.named("a.sock"), scene.named("b.sock")], "");
    gateway.signal(Signal::HUP);
    eventually("the new server is asked", async || later.asked() > 100).await;
    gateway.signal(Signal::USR2);
    let line = gateway.line("the new process is ready").await;
    let pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let successor = rustix::process::Pid::from_raw(pid).unwrap();
    let mut gateway = gateway;
    assert_eq!(gateway.ended().await.code(), Some(0));
    let before = later.asked();
    eventually("the new process asks", async || later.asked() > before + 100).await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert_eq!(load.await.unwrap(), Vec::<String>::new());
    }
    rustix::process::kill_process(successor, Signal::TERM).unwrap();
    eventually("it has ended", async || tokio::net::TcpStream::connect(scene.at).await.is_err()).await;
}

#[tokio::test]
async fn gu22_a_file_is_checked_before_its_servers_run() {
    let scene = Scene::new();
    std::fs::write(scene.path("file"), "").unwrap();
    let _server = UnixServer::start(&scene.path("a.sock"), "a");
    let servers = ["a.sock", "missing.sock", "file"].map(|name| scene.named(name));
    let mut check = Process::start(GATEWAY, &["check", &scene.write(&servers, "")]);
    assert_eq!(check.ended().await.code(), Some(0));
    let missing = check.line("missing.sock: there is no file").await;
    assert!(missing.starts_with("warning: ") && missing.ends_with("missing.sock gets no requests"), "{missing}");
    check.line("file: the file is not a socket").await;
    check.line("names 3 servers").await;
    assert!(!check.output().contains("a.sock:"), "{}", check.output());
}
