//! What one hostile peer of the Distributor can do to all others: nothing that they notice.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tests::{Flood, Peer, Process, eventually};
use tokio::time::timeout;

const DISTRIBUTOR: &str = env!("CARGO_BIN_EXE_distributor_process");
/// Far beyond what a change takes, and far below what it took when one peer could keep all others waiting.
const SOON: Duration = Duration::from_secs(3);

/// A Distributor in a process of its own, so that its memory and its thread are its own.
async fn distributor(arguments: &[&str]) -> (Process, SocketAddr) {
    let process = Process::start(DISTRIBUTOR, &[&["--listen", "127.0.0.1:0"], arguments].concat());
    let address = format!("127.0.0.1:{}", process.port().await).parse().unwrap();
    (process, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn fr14_others_are_told_and_asked_whatever_one_connection_says_without_a_pause() {
    let pad = |bytes: usize| "1,".repeat(bytes / 2) + "1";
    let old_name = "\u{200b}".repeat(20_000);
    let old: String = (1..=64)
        .map(|port| {
            let params = format!(r#"{{"port":{port},"name":"{port}{old_name}","urls":[]}}"#);
            format!(r#"{{"uri":"/distributes","method":"POST","key":0,"params":{params}}}¶"#)
        })
        .collect();
    let floods = [
        ("registrations with long names of version 1", old),
        ("unknown packets of 60 kB", format!(r#"{{"uri":"/x","method":"GET","params":[{}]}}¶"#, pad(60_000))),
        (
            "large registrations of version 2",
            format!(
                r#"{{"uri":"/distributes","method":"POST","params":{{"port":1,"name":"big","$":{{"meta":[{}]}}}},"$":{{}}}}¶"#,
                pad(60_000)
            ),
        ),
        ("questions for the list", r#"{"uri":"/distributes","method":"GET","key":7}¶"#.repeat(500)),
        (
            "joins and leaves",
            r#"{"uri":"/distributes","method":"POST","params":{"port":1,"name":"a","$":{"id":"x"}},"$":{}}¶{"uri":"/distributes","method":"DELETE","$":{}}¶"#.repeat(100),
        ),
    ];
    let (process, address) = distributor(&[]).await;
    for (what, packets) in floods {
        let mut watcher = Peer::connect(address).await;
        watcher.register_v2("watcher", 9000, "watcher", None).await;
        watcher.list_with("watcher").await;
        let flood = Flood::start(address, b"", packets.as_bytes());
        eventually("the flood has begun", async || flood.bytes() > 1 << 16).await;
        for round in 0..5 {
            let mut node = Peer::connect(address).await;
            let name = format!("n{round}");
            node.register_v2(&name, 9001, &name, None).await;
            let told = timeout(SOON, watcher.list_with(&name)).await;
            assert!(told.is_ok(), "{what}: not told of a join\n{}", tail(&process));
            node.send_packet(&json!({ "uri": "/distributes", "method": "DELETE", "$": {} })).await;
            let told = timeout(SOON, watcher.list_without(&name)).await;
            assert!(told.is_ok(), "{what}: not told of a leave\n{}", tail(&process));
        }
    }
}

/// The last lines of what a process has printed.
fn tail(process: &Process) -> String {
    let output = process.output();
    let lines: Vec<_> = output.lines().rev().take(10).map(|line| line.chars().take(200).collect::<String>()).collect();
    lines.join("\n")
}
