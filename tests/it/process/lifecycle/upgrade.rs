//! A gateway that is replaced, and events that may come in between.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use tests::{Process, can_run, eventually, pick_port};
use tokio::net::TcpStream;

use crate::programs::GATEWAY;

/// A gateway without a Distributor: its successor waits for one for five seconds, and is not ready
/// before that.
struct ReplaceableGateway {
    process: Process,
    at: SocketAddr,
    /// The program, which may be replaced.
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl ReplaceableGateway {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gateway");
        symlink(GATEWAY, &program).unwrap();
        let [at, nobody] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], pick_port())));
        let (listen, distributor) = (at.to_string(), nobody.to_string());
        let process = Process::start(&program, &["--listen", &listen, "--distributor", &distributor, "--admin", "off"]);
        process.line("listening").await;
        Self { process, at, program, _folder: folder }
    }

    /// Replaces the program by a script.
    fn becomes(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;

        let new = self.program.with_extension("new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, &self.program).unwrap();
    }

    async fn successor_has_started(&self) {
        let listens_twice = || self.process.output().matches(" listening ").count() == 2;
        eventually("the successor has started", async || listens_twice()).await;
    }

    /// Waits until no process has the port.
    async fn is_gone(&self) {
        eventually("the port is free", async || TcpListener::bind(self.at).is_ok()).await;
    }
}

#[tokio::test]
async fn up7_sigterm_while_the_program_is_replaced_stops_both() {
    for waits_for_successor in [false, true] {
        let mut gateway = ReplaceableGateway::start().await;
        gateway.process.signal(Signal::USR2);
        if waits_for_successor {
            gateway.successor_has_started().await;
        }
        gateway.process.signal(Signal::TERM);
        assert_eq!(gateway.process.ended().await.code(), Some(0));
        gateway.is_gone().await;
    }
}

#[tokio::test]
async fn up7_a_successor_that_hangs_ends_with_its_predecessor() {
    let mut gateway = ReplaceableGateway::start().await;
    gateway.becomes("echo hanging; exec sleep 1000");
    gateway.process.signal(Signal::USR2);
    gateway.process.line("hanging").await;
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.ended().await.code(), Some(0));
    gateway.is_gone().await;
}

#[tokio::test]
async fn up7_a_successor_whose_predecessor_is_killed_ends() {
    let gateway = ReplaceableGateway::start().await;
    gateway.process.signal(Signal::USR2);
    gateway.successor_has_started().await;
    gateway.process.signal(Signal::KILL);
    gateway.process.line("this one ends too").await;
    gateway.is_gone().await;
}

#[tokio::test]
async fn up9_a4_the_first_process_of_a_container_is_not_replaced() {
    let can = std::process::Command::new("unshare").args(["-pf", "--mount-proc", "true"]).output();
    if !can_run("namespaces", "run it as root, with unshare", can.is_ok_and(|out| out.status.success())) {
        return;
    }
    let at = SocketAddr::from(([127, 0, 0, 1], pick_port()));
    let (listen, distributor) = (at.to_string(), format!("127.0.0.1:{}", pick_port()));
    let arguments = ["-pf", "--kill-child", "--mount-proc", GATEWAY, "--admin", "off"];
    let arguments: Vec<&str> =
        arguments.into_iter().chain(["--listen", &listen, "--distributor", &distributor]).collect();
    let mut process = Process::start("unshare", &arguments);
    process.line("listening").await;
    let unshare = process.pid().as_raw_pid();
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    let first = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    kill_process(first, Signal::USR2).unwrap();
    process.line("this is the first process of its container").await;
    assert!(TcpStream::connect(at).await.is_ok(), "it continues to serve");
    kill_process(first, Signal::TERM).unwrap();
    assert_eq!(process.ended().await.code(), Some(0));
}
