//! What clients can ask for, as an OpenAPI document for operators and their tools, and a page that
//! shows it.
//!
//! It must not call routes for clients: it asks nodes for their schemas, and nothing else.

mod document;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use net::{MAX_ESCAPED_BYTES, escaped};
use node_sdk::Peers;
use node_sdk::gateway::GatewayPeers;
use protocol::{EVENT_METHOD, Node, Route};
use tracing::debug;

use self::document::Document;
use self::schemas::ServiceSchemas;

/// The page that shows the document, without anything from other servers.
pub(super) const PAGE: &str = include_str!("page.html");

/// How long a node has to tell its schemas: an operator waits for the slowest.
const SCHEMAS_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of nodes that are asked at a time, and whose answers are held unread.
const MAX_ASKED_AT_ONCE: usize = 16;
/// Maximum bytes of the schemas of a service. Large services have some hundred routes of a few kB.
const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// Maximum number of services whose schemas are asked for. With the limit of bytes for each, this
/// bounds the document.
const MAX_SERVICES: usize = 256;

/// A route that clients can call.
struct PublicRoute {
    /// The names of the services that offer it.
    services: BTreeSet<String>,
    /// Whether a node takes the body as it was sent, of any media type.
    takes_raw_body: bool,
}

/// Writes the document of what is registered and public now. Asks one node of each service for its
/// schemas; one that does not answer in time has none. Cancel safe.
pub(super) async fn openapi(peers: &Peers) -> String {
    let nodes = peers.nodes();
    let public = public_routes(peers, nodes.iter().map(|node| &**node));
    let mut tellers = BTreeMap::new();
    for node in &nodes {
        let at = SocketAddr::new(node.host, node.port);
        let route = format!("GET/$schema/{}", node.name);
        let tells = node.routes.iter().any(|offered| offered.as_str() == route);
        if tells && !node.suspect && peers.blocked_reason(at).is_none() && tellers.len() < MAX_SERVICES {
            tellers.entry(node.name.clone()).or_insert((at, route));
        }
    }
    let asked = iter(tellers).map(async |(name, (at, route))| (schemas(peers, at, &route).await, name));
    let known: Vec<_> = asked.buffer_unordered(MAX_ASKED_AT_ONCE).collect().await;
    let known = known.into_iter().filter_map(|(schemas, name)| Some((name, schemas?))).collect();
    Document::new(&public, known).write()
}

/// The routes that clients can call, by their text.
fn public_routes<'a>(peers: &Peers, nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<Route, PublicRoute> {
    let mut public = BTreeMap::<_, PublicRoute>::new();
    for node in nodes {
        let at = SocketAddr::new(node.host, node.port);
        let is_http = node.advert.as_ref().is_some_and(|advert| advert.http.is_some());
        if is_http || peers.blocked_reason(at).is_some() {
            continue;
        }
        for (route, advert) in node.stated_routes() {
            if route.method() == EVENT_METHOD || peers.is_internal(route, advert) || peers.is_refused(at, route) {
                continue;
            }
            let offered = public
                .entry(route.clone())
                .or_insert_with(|| PublicRoute { services: BTreeSet::new(), takes_raw_body: false });
            offered.services.insert(node.name.clone());
            offered.takes_raw_body |= advert.is_some_and(|advert| advert.raw_body);
        }
    }
    public
}

/// The schemas that the node at an address tells; `None` if it tells none that can be read.
async fn schemas(peers: &Peers, at: SocketAddr, url: &str) -> Option<ServiceSchemas> {
    let why = match peers.probe(url, at).timeout(SCHEMAS_TIMEOUT).await {
        Ok(answer) if answer.packet().len() > MAX_SCHEMA_BYTES => format!("it has more than {MAX_SCHEMA_BYTES} bytes"),
        Ok(answer) => match answer.result().map(serde_json::from_slice::<ServiceSchemas>) {
            Some(Ok(schemas)) => return Some(schemas),
            Some(Err(error)) => error.to_string(),
            None => "it is no result".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    let why = escaped(why, MAX_ESCAPED_BYTES);
    debug!(node = %at, %url, ?why, "a node tells no schemas: its routes are shown without");
    None
}
