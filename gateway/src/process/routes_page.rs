//! The page that tells operators which requests go where, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::Peers;
use node_sdk::gateway::GatewayPeers;
use protocol::{EVENT_PREFIX, Node, Route, Unreachable};
use tokio::time::Instant;

use crate::upstream::WorkerShared;
use crate::upstream::table::UpstreamTable;

/// The offers of nodes that are called with packets, by route.
type Offers = BTreeMap<String, Offer>;

#[derive(Default)]
struct Offer {
    /// The names of its services.
    services: BTreeSet<String>,
    /// A line for each node.
    nodes: Vec<String>,
}

/// Writes the whole page.
pub(super) fn routes_page(peers: &Peers, upstreams: &[Arc<UpstreamTable>], shared: &WorkerShared) -> String {
    let mut out = String::new();
    let [offers, internal] = [false, true].map(|is_internal| offers(peers, is_internal));
    write_nodes(&mut out, &offers);
    write_servers(&mut out, upstreams, shared);
    let _ = writeln!(out, "Otherwise it is answered by 503 if a node has offered its route before, and else by 404.");
    write_internal(&mut out, &internal);
    write_events(&mut out, &offers);
    write_blocked_nodes(&mut out, peers);
    out
}

/// The offers for clients, or the internal ones.
fn offers(peers: &Peers, is_internal: bool) -> Offers {
    let mut offers = Offers::new();
    for node in peers.nodes() {
        let at = SocketAddr::new(node.host, node.port);
        let is_http = node.advert.as_ref().is_some_and(|advert| advert.http.is_some());
        if is_http || peers.blocked_reason(at).is_some() {
            continue;
        }
        let name = escaped(&node.name, MAX_ESCAPED_BYTES).to_string();
        let (state, malformed) = (state(peers, at, &node), malformed(peers, at));
        let routes = node.stated_routes().filter(|(route, advert)| peers.is_internal(route, *advert) == is_internal);
        for (route, _) in routes {
            let mark = match peers.is_refused(at, route) {
                true => ", not called: too many similar routes have parameters at other positions",
                false => "",
            };
            // A route has no control characters, but may have other special ones.
            let offer = offers.entry(escaped(route, Route::MAX_BYTES).to_string()).or_default();
            offer.services.insert(name.clone());
            offer.nodes.push(format!("{at} {name}{state}{mark}{malformed}"));
        }
    }
    offers
}

/// Why a node gets no calls, or fewer; empty if it gets its share.
fn state(peers: &Peers, at: SocketAddr, node: &Node) -> String {
    let unreachable = peers.unreachable_reason(at).map(Unreachable::describe);
    match (&node.advert, unreachable) {
        (Some(advert), _) if advert.draining => ", draining".to_owned(),
        (_, Some(why)) => format!(", cannot be reached: {why}"),
        _ if node.suspect || !peers.is_healthy(at) => ", gives no sign of life".to_owned(),
        _ => String::new(),
    }
}

fn malformed(peers: &Peers, at: SocketAddr) -> String {
    peers.malformed_responses(at).map_or_else(String::new, |responses| {
        let (count, ago, why) = (responses.count, responses.ago.as_secs(), responses.why);
        format!(", {count} malformed answers, the last {ago} s ago: {why}")
    })
}

fn write_nodes(out: &mut String, offers: &Offers) {
    let _ =
        writeln!(out, "A request goes to the nodes that register exactly its route, which are called with packets:");
    for (route, Offer { services, nodes }) in offers.iter().filter(|(route, _)| !route.starts_with(EVENT_PREFIX)) {
        let mark = match services.len() {
            0 | 1 => String::new(),
            count => format!("  ({count} services offer it: calls go to any)"),
        };
        let _ = writeln!(out, "  {route}{mark}");
        write_lines(out, nodes);
    }
}

fn write_internal(out: &mut String, offers: &Offers) {
    if !offers.is_empty() {
        let _ = writeln!(out, "Internal routes, which the gateway does not call for clients:");
    }
    for (route, Offer { nodes, .. }) in offers {
        let _ = writeln!(out, "  {route}");
        write_lines(out, nodes);
    }
}

fn write_lines(out: &mut String, nodes: &[String]) {
    for node in nodes {
        let _ = writeln!(out, "      {node}");
    }
}

fn write_servers(out: &mut String, upstreams: &[Arc<UpstreamTable>], shared: &WorkerShared) {
    let _ = writeln!(out, "Otherwise it goes to the servers of the longest prefix of its path, over HTTP:");
    let mut prefixes = BTreeMap::new();
    upstreams.iter().for_each(|upstreams| upstreams.status(&mut prefixes, Instant::now()));
    for (prefix, servers) in &prefixes {
        let _ = writeln!(out, "  {prefix}");
        if servers.is_empty() {
            let _ = writeln!(out, "      no server now: 503 at once");
        }
        for (address, server) in servers {
            let _ = writeln!(out, "      {address} {server}");
        }
    }
    for (server, why) in shared.names.unknown() {
        let _ = writeln!(out, "  {server} has no address now: {why}");
    }
}

fn write_events(out: &mut String, offers: &Offers) {
    let events = || offers.iter().filter_map(|(route, offer)| Some((route.strip_prefix(EVENT_PREFIX)?, offer)));
    if events().next().is_some() {
        let _ = writeln!(out, "No request: events, which go to one node of each service that subscribes:");
    }
    for (event, Offer { nodes, .. }) in events() {
        let _ = writeln!(out, "  {event}");
        write_lines(out, nodes);
    }
}

fn write_blocked_nodes(out: &mut String, peers: &Peers) {
    let nodes = peers.nodes();
    let blocked = nodes.iter().filter_map(|node| {
        let at = SocketAddr::new(node.host, node.port);
        Some((at, peers.blocked_reason(at)?, &node.name))
    });
    let mut blocked = blocked.peekable();
    if blocked.peek().is_some() {
        let _ = writeln!(out, "These nodes are never called:");
    }
    for (at, why, name) in blocked {
        let _ = writeln!(out, "      {at} {}: {why}", escaped(name, MAX_ESCAPED_BYTES));
    }
}
