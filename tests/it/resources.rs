//! When the system runs short.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tests::{Peer, Process, eventually, tool_is_there};

const DISTRIBUTOR: &str = env!("CARGO_BIN_EXE_distributor_process");

async fn peer(process: &Process) -> Peer {
    Peer::connect(format!("127.0.0.1:{}", process.port().await).parse().unwrap()).await
}

#[tokio::test]
async fn cr1_with_60_descriptors_those_inside_are_served_and_the_others_told_to_go() {
    let limited = format!("ulimit -n 60 && exec {DISTRIBUTOR} --listen 127.0.0.1:0");
    let process = Process::start("sh", &["-c", &limited]);
    let mut inside = peer(&process).await;
    inside.register("inside", 1).await;
    inside.list_with("inside").await;
    process.line("only 60 open files are allowed").await;
    let mut others = Vec::new();
    for _ in 0..120 {
        let mut other = peer(&process).await;
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

/// While accept fails with `errno` the loop must not spin, and must go on when it no longer does.
async fn check_accept(errno: i32, tries: std::ops::RangeInclusive<usize>) {
    if !tool_is_there("cc") {
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
    // It waits in the backlog; the kernel has accepted it.
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
