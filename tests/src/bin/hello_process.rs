//! The service of the README, with the usual log on standard output, for tests that close its
//! output, or with none.

use node_sdk::{Node, Params, ServiceError};

#[derive(serde::Deserialize)]
struct Who {
    name: String,
}

async fn hello(Params(who): Params<Who>) -> Result<String, ServiceError> {
    Ok(format!("Hello, {}!", who.name))
}

/// Arguments: where the Distributor is; `plain` for no log, `silent` for no lines at all, or
/// `start` for a node that the program starts itself; where it listens.
#[tokio::main]
async fn main() -> Result<(), node_sdk::StartError> {
    let mut arguments = std::env::args().skip(1);
    let (distributor, how) = (arguments.next().unwrap_or_default(), arguments.next());
    let node = Node::builder("hello").public_routes().distributor(distributor).route("GET/hello", hello);
    let node = match arguments.next() {
        Some(address) => node.listen(address),
        None => node,
    };
    match how.as_deref() {
        Some("silent") => node.silent().serve().await,
        Some("start") => {
            let _node = node.start().await?;
            std::future::pending().await
        }
        Some(_) => node.serve().await,
        None => {
            tracing_subscriber::fmt().init();
            node.serve().await
        }
    }
}
