//! Checks whether a running node keeps the protocol: calls it in every way that callers may, and in
//! some that they should not.
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

use crate::check::Check;
use crate::wire::Target;

/// Runs the checks of docs/PROTOCOL.md against a node that is called with packets.
///
/// Prints a line for each: ok, FAILED or skipped, what is expected, and what was seen. Exit code: 0
/// nothing failed; 1 something did; 2 wrong use, or no process accepts connections.
#[derive(Debug, Parser)]
#[command(name = "nodeconform")]
struct ConformArgs {
    /// Where the node is: host:port.
    address: String,
    /// What to call, some hundred times. A route that the node does not offer will do, but shows
    /// less.
    #[arg(long, default_value = "GET/nodeconform", value_parser = Route::parse)]
    url: Route,
    /// Arguments of each call: a JSON object.
    #[arg(long, default_value = "{}", value_parser = parse_object)]
    params: Map<String, Value>,
    /// The version that the node is to keep; with 1, checks of version 2 are skipped.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    version: u8,
    /// How long an answer may take, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    within: u64,
    /// Only this check; may be given several times.
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
    let target = Target {
        address,
        method: args.url.method().to_owned(),
        uri: args.url.path().to_owned(),
        params: args.params,
        within: Duration::from_millis(args.within),
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut is_gone = false;
    for check in Check::value_variants() {
        if !args.only.is_empty() && !args.only.contains(check) {
            continue;
        }
        let (verdict, seen) = if is_gone {
            skipped += 1;
            ("skipped", "not tried, the node is gone".to_owned())
        } else if check.is_of_version_2() && args.version == 1 {
            skipped += 1;
            ("skipped", "not tried, it is of version 2".to_owned())
        } else {
            match check.run(&target).await {
                Ok(seen) => {
                    passed += 1;
                    ("ok", format!("seen: {seen}"))
                }
                Err(seen) => {
                    failed += 1;
                    is_gone = target.answer_to_a_fresh_call().await.is_err();
                    let after = if is_gone { "; after that the node does not answer" } else { "" };
                    ("FAILED", format!("seen: {seen}{after}"))
                }
            }
        };
        println!("{verdict:8} {:18} {}; {seen}", check.name(), check.expected());
    }
    println!("in all: {passed} ok, {failed} FAILED, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

fn parse_object(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

/// The first address of that name at which a process accepts connections.
async fn find(address: &str) -> Option<SocketAddr> {
    for address in tokio::net::lookup_host(address).await.ok()? {
        if wire::Wire::connect(address).await.is_ok() {
            return Some(address);
        }
    }
    None
}
