//! Checks whether a running node keeps the protocol. Calls it in every way that the protocol
//! allows, and in some that it forbids.
//!
//! The program is `nodeconform`. It speaks bytes, not the SDK, so that a node in any language can
//! be checked; it must not depend on a Distributor.
//!
//! ```sh
//! cargo run -p conformance -- 127.0.0.1:9010 --url GET/goods
//! ```
#![expect(clippy::print_stdout, reason = "it prints a table")]

mod check;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use protocol::Route;
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::check::Check;
use crate::wire::NodeUnderTest;

/// After a failed check, how often a node that does not answer is called again, and the pause
/// before each.
const RETURN_TRIES: u32 = 5;
const RETURN_PAUSE: Duration = Duration::from_millis(300);

/// Checks whether a running node keeps docs/PROTOCOL.md.
///
/// Prints a line for each check: ok, FAILED or skipped; what is expected; and what was seen. Exit
/// code: 0 if no check failed, 1 if one did, 2 if the arguments are wrong or no process accepts
/// connections.
#[derive(Debug, Parser)]
#[command(name = "nodeconform")]
struct ConformArgs {
    /// Where the node is: host:port.
    address: String,
    /// The route to call, a few hundred times. A route that the node does not offer also works, but
    /// shows less.
    #[arg(long, default_value = "GET/nodeconform", value_parser = Route::parse)]
    url: Route,
    /// Arguments of each call: a JSON object.
    #[arg(long, default_value = "{}", value_parser = parse_object)]
    params: Map<String, Value>,
    /// The version of the protocol that the node should keep. With 1: checks of version 2 are
    /// skipped. A column says of each failure whether the mesh copes with it. missing-params comes
    /// first, because it crashes most version 1 nodes. old-log runs only if --only names it,
    /// because a version 1 service may carry it out as a POST.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    version: u8,
    /// How long an answer may take, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    within: u64,
    /// Runs only this check. May be given several times.
    #[arg(long, value_name = "CHECK")]
    only: Vec<Check>,
}

/// Runs the checks that its arguments name, and prints a line for each.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let args = ConformArgs::parse();
    let Some(address) = find(&args.address).await else {
        eprintln!("no process accepts connections at {}", args.address);
        return ExitCode::from(2);
    };
    let node = NodeUnderTest {
        address,
        method: args.url.method().to_owned(),
        uri: args.url.path().to_owned(),
        params: args.params,
        within: Duration::from_millis(args.within),
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let (mut coped, mut is_gone) = (0, false);
    let is_old = args.version == 1;
    let mut checks: Vec<_> = Check::value_variants().to_vec();
    // The sort is stable: the others stay in their order.
    checks.sort_by_key(|check| !(is_old && check.is_deadly()));
    for check in checks {
        if !args.only.is_empty() && !args.only.contains(&check) {
            continue;
        }
        let mut copes = "";
        let (verdict, seen) = if is_gone {
            skipped += 1;
            ("skipped", "not tried, the node does not answer".to_owned())
        } else if check.is_of_version_2() && is_old {
            skipped += 1;
            ("skipped", "not tried, it is of version 2".to_owned())
        } else if check.is_only_when_asked() && is_old && args.only.is_empty() {
            skipped += 1;
            ("skipped", "not tried, the node might carry it out as a POST; name it with --only".to_owned())
        } else {
            match check.run(&node).await {
                Ok(seen) => {
                    passed += 1;
                    ("ok", format!("seen: {seen}"))
                }
                Err(seen) => {
                    failed += 1;
                    is_gone = !is_back(&node).await;
                    let after = if is_gone { "; after that the node does not answer" } else { "" };
                    if is_old {
                        coped += usize::from(check.does_the_mesh_cope());
                        copes = if check.does_the_mesh_cope() { "the mesh copes" } else { "calls fail" };
                    }
                    ("FAILED", format!("seen: {seen}{after}"))
                }
            }
        };
        let column = if is_old { format!("{copes:15}") } else { String::new() };
        println!("{verdict:8} {:18} {column}{}; {seen}", check.name(), check.expected());
    }
    let column = if is_old { format!("; the mesh copes with {coped} of the failures") } else { String::new() };
    println!("total: {passed} ok, {failed} FAILED, {skipped} skipped{column}");
    ExitCode::from(u8::from(failed > 0))
}

/// Whether the node answers after a check that failed. A node that has crashed may be started again
/// by its supervisor.
async fn is_back(node: &NodeUnderTest) -> bool {
    for _ in 0..RETURN_TRIES {
        if node.answer_to_a_fresh_call().await.is_ok() {
            return true;
        }
        sleep(RETURN_PAUSE).await;
    }
    false
}

fn parse_object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

/// The first address of the name at which a process accepts connections.
async fn find(address: &str) -> Option<SocketAddr> {
    for address in tokio::net::lookup_host(address).await.ok()? {
        if wire::Wire::connect(address).await.is_ok() {
            return Some(address);
        }
    }
    None
}
