//! A service as its operator runs it: settings and log from the environment, hooks, and work beside
//! the node. It prints what it does.
#![expect(clippy::print_stdout, reason = "the test that started it reads it")]

use node_sdk::{Node, Peers, ServiceError, StartError, Stop, init_log};

async fn who() -> Result<&'static str, ServiceError> {
    Ok("kit")
}

/// Fails if the variable `FAIL` has this word.
fn fails(word: &str) -> Result<(), String> {
    let is_meant = std::env::var("FAIL").is_ok_and(|what| what == word);
    if is_meant { Err(format!("{word} fails on purpose")) } else { Ok(()) }
}

async fn open(peers: Peers, _stop: Stop) -> Result<(), String> {
    println!("opened, and sees {} nodes", peers.nodes().len());
    fails("start")
}

async fn close(_peers: Peers, stop: Stop) -> Result<(), String> {
    println!("closed; asked to stop: {}", stop.is_requested());
    fails("stop")
}

async fn work(_peers: Peers, stop: Stop) -> Result<(), String> {
    println!("works");
    fails("work")?;
    stop.requested().await;
    println!("ends its work");
    fails("late work")
}

#[tokio::main]
async fn main() -> Result<(), StartError> {
    let _log = init_log()?;
    let node = Node::builder("kit").environment().route("GET/who", who).public();
    node.on_start(open).on_stop(close).serve_with(work).await
}
