//! An online store: five services that need nothing beside the SDK, a database each, and a page.
//!
//! | service | what it does |
//! |---|---|
//! | `members` | people join, sign in with a cookie, and sign out |
//! | `goods` | goods, their images, and the reservations of orders |
//! | `payments` | the payments of orders, and the bank's signed webhook |
//! | `shipping` | the shipments of orders |
//! | `orders` | orders, each of which the other three carry out together; the page |
//!
//! `README.md` beside the code has the commands. Read `orders` first.

mod breakpoint;
mod database;
mod goods;
mod members;
mod orders;
mod payments;
mod shipping;
mod signing;
mod user;

use std::error::Error;
use std::process::ExitCode;

use node_sdk::{Node, NodeBuilder, init_log};

use crate::signing::Key;

/// Runs the service that the first argument names, until a signal.
#[tokio::main]
pub async fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    match serve(&name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: &str) -> Result<(), Box<dyn Error>> {
    let add_routes: fn(NodeBuilder) -> Result<NodeBuilder, String> = match name {
        "members" => members::add_routes,
        "goods" => goods::add_routes,
        "payments" => payments::add_routes,
        "shipping" => shipping::add_routes,
        "orders" => orders::add_routes,
        _ => return Err("say which service: members, goods, payments, shipping or orders".into()),
    };
    let _log = init_log()?;
    let node = Node::builder(name).environment().state(Key::from_environment()?);
    Ok(add_routes(node)?.serve().await?)
}
