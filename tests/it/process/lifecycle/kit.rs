//! A service that is run with settings from its environment, hooks, and work beside its node.

use tests::{Cluster, Process, eventually, pick_address};

use crate::programs::{HELLO, KIT};

fn start(cluster: &Cluster, environment: &[(&str, &str)]) -> Process {
    let distributor = cluster.address.to_string();
    let own = [("NODE_DISTRIBUTOR", &*distributor)];
    Process::start_with(KIT, &[], &[&own, environment].concat())
}

/// The order of lines in the output of a process that has ended.
#[track_caller]
fn follow(output: &str, texts: &[&str]) {
    let mut rest = output;
    for text in texts {
        let (_, after) = rest.split_once(text).unwrap_or_else(|| panic!("no {text} at its place in\n{output}"));
        rest = after;
    }
}

#[tokio::test]
async fn m7_hooks_and_work_run_around_the_calls() {
    let cluster = Cluster::start();
    let mut process = start(&cluster, &[("NODE_ZONE", "b"), ("NODE_WEIGHT", "50"), ("NODE_LOG_FORMAT", "json")]);
    process.line("works").await;
    let mut observer = cluster.peer().await;
    eventually("it is listed as its environment says", async || {
        observer.ask(1).await.iter().any(|entry| entry["$"]["zone"] == "b" && entry["$"]["weight"] == 50)
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
    process.line("stopped").await;
    process.line("closed").await;
    let output = process.output();
    follow(&output, &["opened, and sees 1 nodes", "works", "ends its work", "closed; asked to stop: true"]);
    assert!(output.contains("{\"timestamp\":") && output.contains("\"message\":\"stopped\""), "{output}");
}

#[tokio::test]
async fn m7_what_fails_beside_the_node_ends_it_with_a_reason() {
    let cluster = Cluster::start();
    // What fails; whether a signal is needed; the lines, and one that must not be there.
    let check = async |fail: &str, by_signal: bool, lines: &[&str], absent: &str| {
        let mut process = start(&cluster, &[("FAIL", fail)]);
        if by_signal {
            process.line("works").await;
            process.signal(rustix::process::Signal::INT);
        }
        assert_eq!(process.ended().await.code(), Some(1), "{fail}");
        for line in lines {
            process.line(line).await;
        }
        let output = process.output();
        assert!(!output.contains(absent), "{absent} in\n{output}");
    };
    let hook = "Error: the start hook kit_process::open has failed: start fails on purpose";
    check("start", false, &["opened", hook], "closed").await;
    check("stop", true, &["Error: the stop hook kit_process::close has failed: stop fails on purpose"], "nothing")
        .await;
    let work = ["the work beside the node has failed; the node stops", "closed", "Error: the work beside the node"];
    check("work", false, &work, "ends its work").await;
    check("late work", true, &["closed", "has failed: late work fails on purpose"], "nothing").await;
}

#[tokio::test]
async fn m7_wrong_settings_are_all_named_at_once() {
    let cluster = Cluster::start();
    let mut process = start(&cluster, &[("NODE_LISTEN", "9010"), ("NODE_WEIGHT", "heavy")]);
    assert_eq!(process.ended().await.code(), Some(1));
    let expected = "Error: wrong settings in the environment: NODE_LISTEN=9010: write an address like 127.0.0.1:9010 or \
                    [::1]:9010; NODE_WEIGHT=heavy: write a whole number from 0 to 1000";
    process.line(expected).await;
    let mut process = start(&cluster, &[("NODE_LOG_LEVEL", "loud")]);
    assert_eq!(process.ended().await.code(), Some(1));
    process.line("NODE_LOG_LEVEL=loud: write off, error").await;
    let process = start(&cluster, &[("NODE_ZON", "b")]);
    process.line("the variable NODE_ZON sets nothing; did you mean NODE_ZONE?").await;
}

#[tokio::test]
async fn m8_the_first_warning_that_nobody_listens_to_is_printed() {
    let nowhere = pick_address().to_string();
    let process = Process::start(HELLO, &[&nowhere, "start"]);
    let line = process.line("WARN").await;
    assert!(line.contains(&format!("cannot connect to the Distributor at {nowhere}")), "{line}");
    process.line("(This program has no log. Call node_sdk::init_log").await;
    assert_eq!(process.output().lines().count(), 2, "{}", process.output());
}
