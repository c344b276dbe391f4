//! The scene of a large mesh, whose nodes are told what they use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use node_sdk::gateway::{GatewayPeers, NodeDescription};
use node_sdk::{Node, Path, Peers, ServiceError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::daemon_process::Daemon;
use crate::registry::swarm::{join, join_with};
use crate::report::{mb, ms, percentiles, row, title};

/// Urls that the node uses.
const USED: usize = 10;
/// Urls that are called for the first time, and calls of one that is known.
const FIRST_CALLS: usize = 200;
const CALLS: usize = 5000;
/// Nodes that join at once, and the pause after them, so that none is turned away.
const GROUP: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs a node that offers `GET/first/<number>/{id}`, each of them a url.
pub(crate) async fn serve(distributor: String) {
    async fn number(Path(id): Path<usize>) -> Result<usize, ServiceError> {
        Ok(id)
    }
    let routes = (0..=FIRST_CALLS).map(|number| format!("GET/first/{number}/{{id}}"));
    let node = Node::builder("server").distributor(distributor).silent();
    let node = routes.fold(node, |node, route| node.route(&route, number));
    let node = node.start().await.unwrap();
    println!("{}", node.address());
    std::future::pending::<()>().await;
}

/// Runs a node that only follows the registry. It has a partial view if it uses urls.
pub(crate) async fn follow(distributor: String, known: usize, urls: &[String]) {
    let description = NodeDescription { asks: !urls.is_empty(), ..NodeDescription::new("follower", 1, Vec::new()) };
    let peers = Peers::join(description, distributor, CancellationToken::new());
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    peers.wait_for(&urls).await;
    peers.wait_until(|nodes| nodes.len() >= known).await;
    println!("127.0.0.1:1");
    std::future::pending::<()>().await;
}

/// Measures what a node costs that is told what it uses, and its first calls.
pub(crate) async fn partial_view(nodes: usize, seconds: u64) {
    title(&format!("a node that uses {USED} urls, in a mesh of {nodes} nodes; 100 changes a second for {seconds} s"));
    let empty = Daemon::distributor(0, &[]).await;
    let base = Daemon::server(&["partial-view-node", &empty.address.to_string(), "1"]).await;
    let daemon = Daemon::distributor(0, &["--tell-all-up-to", "0"]).await;
    let address = daemon.address.to_string();
    let mut others = Vec::new();
    for number in 0..nodes {
        let urls = format!(r#"["GET/n{number}"]"#);
        others.push(join_with(daemon.address, &format!("n{number:05}"), number, &urls).await);
        if number % GROUP == 0 {
            sleep(PAUSE).await;
        }
    }
    let all = Daemon::server(&["partial-view-node", &address, &nodes.to_string()]).await;
    let urls: Vec<String> = (0..USED).map(|at| format!("GET/n{}", at * nodes / USED)).collect();
    let used = USED.to_string();
    let arguments = ["partial-view-node", &address, &used].into_iter().chain(urls.iter().map(String::as_str));
    let part = Daemon::server(&arguments.collect::<Vec<_>>()).await;
    first_calls(&address).await;
    sleep(Duration::from_secs(5)).await;
    let (begin, cpu_of_all, cpu_of_part) = (Instant::now(), all.cpu(), part.cpu());
    let (mut joined, mut changes) = (VecDeque::new(), 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        while changes * 10 < begin.elapsed().as_millis() {
            // Changes are joins and leaves in turn.
            if changes % 2 == 0 {
                let number = nodes + usize::try_from(changes).unwrap();
                joined.push_back(join(daemon.address, &format!("c{number:06}"), number).await);
            } else {
                joined.pop_front();
            }
            changes += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let (cpu_of_all, cpu_of_part) = (all.cpu() - cpu_of_all, part.cpu() - cpu_of_part);
    let beyond = |node: &Daemon| node.rss_bytes().saturating_sub(base.rss_bytes());
    row("a node in an empty mesh", &format!("{:.1} MB", mb(base.rss_bytes())));
    for (what, node, cpu) in [("told of all", &all, cpu_of_all), ("told what it uses", &part, cpu_of_part)] {
        row(
            &format!("a node that is {what}"),
            &format!(
                "{:8.2} MB beyond that ({:5.2} %)   {:7.0} ms CPU ({:5.2} %)",
                mb(beyond(node)),
                beyond(node) as f64 / beyond(&all) as f64 * 100.0,
                ms(cpu),
                cpu.as_secs_f64() / cpu_of_all.as_secs_f64() * 100.0
            ),
        );
    }
}

/// Measures the first calls of urls, beside calls of one that is known.
async fn first_calls(distributor: &str) {
    let _server = Daemon::server(&["partial-view-server", distributor]).await;
    let caller = Node::builder("caller").distributor(distributor).silent().start().await.unwrap();
    let url = |number: usize, id: usize| format!("GET/first/{number}/{id}");
    let timed = async |number: usize, id: usize| {
        let begin = Instant::now();
        let answer: usize = caller.peers().call(&url(number, id), &()).await.unwrap();
        assert_eq!(answer, id);
        begin.elapsed()
    };
    timed(FIRST_CALLS, 0).await;
    let mut known = Vec::new();
    for id in 0..CALLS {
        known.push(timed(FIRST_CALLS, id).await);
    }
    let mut first = Vec::new();
    for number in 0..FIRST_CALLS {
        first.push(timed(number, number).await);
        // Within the pace of questions.
        sleep(PAUSE).await;
    }
    for (what, times) in [("known", &mut known), ("not called before", &mut first)] {
        let (p50, p99) = percentiles(times);
        row(&format!("a call of a url that is {what}"), &format!("p50 {:7.3} ms   p99 {:7.3} ms", ms(p50), ms(p99)));
    }
}
