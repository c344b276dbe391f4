//! Checks whether a running node keeps the protocol. Calls it in every way that the protocol
//! allows, and in some that it forbids; or plays the Distributor with which it registers.
//!
//! The program is `nodeconform`. It speaks bytes, not the SDK, so that a node in any language can
//! be checked; it must not depend on a Distributor.
//!
//! ```sh
//! cargo run -p conformance -- 127.0.0.1:9010 --url GET/goods
//! cargo run -p conformance -- --as-distributor 127.0.0.1:9000
//! ```
#![expect(clippy::print_stdout, reason = "it prints a table")]

mod check;
mod registry;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use protocol::Route;
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::check::Check;
use crate::registry::{Patience, PlayedDistributor, RegistryCheck};
use crate::wire::NodeUnderTest;

/// How often a node that does not answer is called again after a failed check, and the pause before
/// each.
const RETURN_TRIES: u32 = 5;
const RETURN_PAUSE: Duration = Duration::from_millis(300);
/// How long a node may take to register again: the 3 s of docs/PROTOCOL.md, and as much for a try
/// that failed before.
const RECONNECT_TIME: Duration = Duration::from_secs(6);
/// When a node gives up a silent Distributor.
const SILENCE_TIME: Duration = Duration::from_secs(15);

/// Checks whether a running node keeps docs/PROTOCOL.md.
///
/// Prints a line for each check: ok, FAILED or skipped; what is expected; and what was seen. Exit
/// code: 0 if no check failed, 1 if one did, 2 if the arguments are wrong, no process accepts
/// connections, or the address to listen on is taken.
#[derive(Debug, Parser)]
#[command(name = "nodeconform")]
struct ConformArgs {
    /// Where the node is, host:port: calls it.
    #[arg(required_unless_present = "as_distributor")]
    address: Option<String>,
    /// Plays the Distributor at this address, host:port, and checks the registry half. Start the
    /// node with this address for its Distributor. Port 0 takes any that is free; the first line
    /// says which.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["address", "version"])]
    as_distributor: Option<SocketAddr>,
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
    #[arg(long, value_name = "CHECK", value_parser = any_check())]
    only: Vec<AnyCheck>,
}

/// A check of either half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnyCheck {
    Call(Check),
    Registry(RegistryCheck),
}

fn any_check() -> impl TypedValueParser<Value = AnyCheck> {
    let calls = Check::value_variants().iter().filter_map(Check::to_possible_value);
    let registry = RegistryCheck::value_variants().iter().filter_map(RegistryCheck::to_possible_value);
    let names: Vec<PossibleValue> = calls.chain(registry).collect();
    PossibleValuesParser::new(names).try_map(|name| {
        let call = Check::from_str(&name, false).map(AnyCheck::Call);
        call.or_else(|_| RegistryCheck::from_str(&name, false).map(AnyCheck::Registry))
    })
}

/// Runs the checks that its arguments name, and prints a line for each.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let args = ConformArgs::parse();
    match (&args.address, args.as_distributor) {
        (Some(address), _) => {
            let Some(address) = find(address).await else {
                eprintln!("no process accepts connections at {address}");
                return ExitCode::from(2);
            };
            check_calls(&args, address).await
        }
        (None, Some(address)) => {
            let within = Duration::from_millis(args.within);
            let patience = Patience { within, return_time: RECONNECT_TIME, silence: SILENCE_TIME };
            match PlayedDistributor::bind(address, patience).await {
                Ok(distributor) => check_registry(&args, distributor).await,
                Err(error) => {
                    eprintln!("cannot listen on {address}: {error}");
                    ExitCode::from(2)
                }
            }
        }
        (None, None) => ExitCode::from(2),
    }
}

/// What has become of the checks so far.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Prints the line of a check.
    fn print(&mut self, verdict: &str, check: &impl ValueEnum, column: &str, seen: &str) {
        match verdict {
            "ok" => self.passed += 1,
            "FAILED" => self.failed += 1,
            _ => self.skipped += 1,
        }
        let value = check.to_possible_value().expect("no check is hidden");
        let expected = value.get_help().map(ToString::to_string).unwrap_or_default();
        println!("{verdict:8} {:18} {column}{expected}; {seen}", value.get_name());
    }

    fn end(&self, column: &str) -> ExitCode {
        println!("total: {} ok, {} FAILED, {} skipped{column}", self.passed, self.failed, self.skipped);
        ExitCode::from(u8::from(self.failed > 0))
    }
}

/// Checks what a node registers, and what it does with what a Distributor says.
async fn check_registry(args: &ConformArgs, mut distributor: PlayedDistributor) -> ExitCode {
    println!("listening {}; start the node with this address for its Distributor", distributor.address);
    println!("registered: {}", distributor.wait_for_node().await);
    let (mut tally, mut is_gone) = (Tally::default(), false);
    for check in RegistryCheck::value_variants() {
        let is_named = args.only.contains(&AnyCheck::Registry(*check));
        if !args.only.is_empty() && !is_named {
            continue;
        }
        if is_gone {
            tally.print("skipped", check, "", "not tried, the node has not come back");
        } else if check.is_slow() && !is_named {
            tally.print("skipped", check, "", "not tried, it takes long; name it with --only");
        } else {
            match check.run(&mut distributor).await {
                Ok(seen) => tally.print("ok", check, "", &format!("seen: {seen}")),
                Err(seen) => {
                    is_gone = !distributor.has_node().await;
                    tally.print("FAILED", check, "", &format!("seen: {seen}"));
                }
            }
        }
    }
    tally.end("")
}

/// Calls a node in every way.
async fn check_calls(args: &ConformArgs, address: SocketAddr) -> ExitCode {
    let node = NodeUnderTest {
        address,
        method: args.url.method().to_owned(),
        uri: args.url.path().to_owned(),
        params: args.params.clone(),
        within: Duration::from_millis(args.within),
    };
    let (mut tally, mut coped, mut is_gone) = (Tally::default(), 0, false);
    let is_old = args.version == 1;
    let column = |text: &str| if is_old { format!("{text:15}") } else { String::new() };
    let mut checks: Vec<_> = Check::value_variants().to_vec();
    // The sort is stable: the others stay in their order.
    checks.sort_by_key(|check| !(is_old && check.is_deadly()));
    for check in checks {
        if !args.only.is_empty() && !args.only.contains(&AnyCheck::Call(check)) {
            continue;
        }
        if is_gone {
            tally.print("skipped", &check, &column(""), "not tried, the node does not answer");
        } else if check.is_of_version_2() && is_old {
            tally.print("skipped", &check, &column(""), "not tried, it is of version 2");
        } else if check.is_only_when_asked() && is_old && args.only.is_empty() {
            let why = "not tried, the node might carry it out as a POST; name it with --only";
            tally.print("skipped", &check, &column(""), why);
        } else {
            match check.run(&node).await {
                Ok(seen) => tally.print("ok", &check, &column(""), &format!("seen: {seen}")),
                Err(seen) => {
                    is_gone = !is_back(&node).await;
                    let after = if is_gone { "; after that the node does not answer" } else { "" };
                    let copes = check.does_the_mesh_cope();
                    coped += usize::from(copes);
                    let copes = column(if copes { "the mesh copes" } else { "calls fail" });
                    tally.print("FAILED", &check, &copes, &format!("seen: {seen}{after}"));
                }
            }
        }
    }
    let end = if is_old { format!("; the mesh copes with {coped} of the failures") } else { String::new() };
    tally.end(&end)
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
