//! Tests meet no process that happens to run on the same machine.

use std::process::{Command, Output};

use tests::{Cluster, pick_port};
use tokio::net::TcpStream;

/// Where [`connects`] connects to, and whether through a program.
const PORT: &str = "TEST_CONNECTS_TO";

/// Runs [`connects`] in a run of its own that watches the port.
fn run(watched: u16, port: u16) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hermetic::connects", "--ignored"]);
    command.env("WATCH_PORTS", watched.to_string()).env(PORT, port.to_string()).output().unwrap()
}

#[tokio::test]
async fn a_test_that_connects_to_a_watched_port_ends_the_run() {
    let (watched, other) = (pick_port(), pick_port());
    assert!(run(watched, other).status.success());
    let ended = run(watched, watched);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(101), "{said}");
    assert!(said.contains(&format!("a test connects to the watched port {watched}: ")), "{said}");
    // A port at which another process listens cannot be watched.
    let taken = std::net::TcpListener::bind(("127.0.0.1", watched)).unwrap();
    let failed = run(watched, other);
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stdout).contains("cannot watch port"));
    drop(taken);
}

#[tokio::test]
#[ignore = "the test above runs it"]
async fn connects() {
    let Ok(port) = std::env::var(PORT) else { return };
    let _cluster = Cluster::start();
    let socket = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).await;
    if let Ok(socket) = socket {
        // Until the run ends.
        socket.readable().await.unwrap();
    }
}
