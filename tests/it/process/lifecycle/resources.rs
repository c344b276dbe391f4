//! When the system runs short.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tests::{Cluster, Peer, Process, can_run, eventually, pick_port, request, tool_is_installed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::programs::{DISTRIBUTOR, GATEWAY, NODE};

async fn peer(process: &Process) -> Peer {
    Peer::connect(format!("127.0.0.1:{}", process.port().await).parse().unwrap()).await
}

#[tokio::test]
async fn cr1_with_60_descriptors_connected_peers_are_served_and_others_refused() {
    let limited = format!("ulimit -n 60 && exec {DISTRIBUTOR} --listen 127.0.0.1:0");
    let process = Process::start("sh", &["-c", &limited]);
    let mut inside = peer(&process).await;
    inside.register("inside", 1).await;
    inside.list_with("inside").await;
    process.line("the limit of open files is 60").await;
    let mut others = Vec::new();
    for number in 0..120 {
        let mut other = peer(&process).await;
        // Connections without a registration would be evicted by the next ones.
        other.register(&format!("n{number}"), 1).await;
        if other.next().await.is_some() {
            others.push(other);
        }
    }
    assert!((20..60).contains(&others.len()), "{} were let in", others.len());
    process.line("--max-connections").await;
    inside.ask(1).await;
    drop(others);
    eventually("there is room again", async || {
        let mut next = peer(&process).await;
        next.next().await.is_some()
    })
    .await;
    assert!(process.output().matches("--max-connections").count() <= 2, "a line per cause, not per connection");
}

/// The library that makes accept fail, built once per test.
fn shim(folder: &Path) -> PathBuf {
    let library = folder.join("accept_fails.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/accept_fails.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

/// While accept fails with `errno` the loop must not spin, and it must continue when accept works
/// again.
async fn check_accept(errno: i32, tries: std::ops::RangeInclusive<usize>) {
    if !tool_is_installed("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (library, fails) = (shim(folder.path()), folder.path().join("fails"));
    let count = folder.path().join("fails.count");
    let environment = [("LD_PRELOAD", library.to_str().unwrap()), ("ACCEPT_FAILS", fails.to_str().unwrap())];
    let process = Process::start_with(DISTRIBUTOR, &["--listen", "127.0.0.1:0"], &environment);
    let mut before = peer(&process).await;
    before.register("before", 1).await;
    before.list_with("before").await;

    std::fs::write(&fails, errno.to_string()).unwrap();
    // The connection waits in the backlog; the kernel has accepted it.
    let mut waiting = peer(&process).await;
    let failures = || std::fs::read(&count).map_or(0, |bytes| bytes.len());
    eventually("accept fails", async || failures() >= *tries.start()).await;
    before.ask(1).await;
    std::fs::remove_file(&fails).unwrap();
    waiting.next_list().await;
    assert!(tries.contains(&failures()), "{} tries: it spins", failures());
    process.signal(Signal::TERM);
}

#[tokio::test]
async fn cr1_cr2_no_descriptors_or_memory_for_a_connection() {
    for errno in [24, 23, 105, 12] {
        check_accept(errno, 3..=20).await;
    }
}

#[tokio::test]
async fn cr3_connections_that_died_in_the_backlog() {
    for errno in [103, 71] {
        check_accept(errno, 1..=1000).await;
    }
}

#[tokio::test]
async fn cr16_a_flood_of_nonsense_leaves_a_few_lines() {
    let distributor = Process::start(DISTRIBUTOR, &["--listen", "127.0.0.1:0"]);
    let address: SocketAddr = format!("127.0.0.1:{}", distributor.port().await).parse().unwrap();
    let at = format!("127.0.0.1:{}", pick_port());
    let arguments = ["--listen", &at, "--admin", "off", "--distributor", &address.to_string()];
    let gateway = Process::start(GATEWAY, &arguments);
    gateway.line("listening").await;
    let before = [distributor.output(), gateway.output()].map(|output| output.lines().count());
    let flood: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        "{\"uri\":\"/distributes\",\"method\":\"POST\",\"key\":1,\"params\":{\"port\":0}}¶".as_bytes(),
        "nonsense¶{]¶\u{0}¶".as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense",
    ];
    for number in 0..600 {
        for to in [address, at.parse().unwrap()] {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let _ = stream.write_all(flood[number % flood.len()]).await;
            let _ = stream.shutdown().await;
            // Until the signal has been handled.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    }
    for (process, before) in [(&distributor, before[0]), (&gateway, before[1])] {
        let output = process.output();
        assert!(output.lines().count() - before <= 12, "a line per cause now and then, not per connection:\n{output}");
    }
}

/// A file sets the wall clock of programs that are started with this library.
fn clock_shim() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let library = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.exists());
    can_run("faketime", "install it (`.ci/run tools` does)", library.is_some()).then_some(library).flatten()
}

#[tokio::test]
async fn cr17_only_the_log_uses_the_wall_clock() {
    let Some(library) = clock_shim() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let distributor = Process::start_with(DISTRIBUTOR, &["--listen", "127.0.0.1:0"], &environment);
    let address = format!("127.0.0.1:{}", distributor.port().await);
    let at: SocketAddr = format!("127.0.0.1:{}", pick_port()).parse().unwrap();
    let arguments = ["--listen", &at.to_string(), "--admin", "off", "--distributor", &address];
    let gateway = Process::start_with(GATEWAY, &arguments, &environment);
    let today = gateway.line("listening").await;
    let node = Process::start_with(NODE, &[&address], &environment);
    let answered = async || Cluster::wait_routed(at, "/who").await.status == 200;
    assert!(answered().await);
    let mut watcher = peer(&distributor).await;
    watcher.register_v2("watcher", 1, "watcher", None).await;
    watcher.list_with("who").await;
    for (number, day) in (0..).zip(["+86400", "-86400", "+0"]) {
        std::fs::write(&clock, day).unwrap();
        // Longer than the deadline of any sign of life.
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let answer = request(at, "GET", "/who", "").await;
            assert_eq!(answer.status, 200, "{day}: {}", answer.body);
        }
        let name = format!("late{number}");
        let mut late = peer(&distributor).await;
        late.register_v2(&name, 100 + number, &name, None).await;
        watcher.list_with(&name).await;
        watcher.list_with("who").await;
        let line = distributor.line(&format!("name={name}")).await;
        let date = |line: &str| line.split('T').next().unwrap_or_default().to_owned();
        assert_eq!(date(&line) == date(&today), day == "+0", "the clock was moved: {line}");
    }
    let output = distributor.output();
    let gone =
        |line: &&str| line.contains(" left ") && ["name=who", "name=gate"].iter().any(|name| line.contains(name));
    assert_eq!(output.lines().find(gone), None);
    for process in [node, gateway, distributor] {
        assert_eq!(process.terminate().await.code(), Some(0));
    }
}
