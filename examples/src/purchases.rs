//! The service `purchases`: who has bought what. It calls the other two services directly, by the
//! routes that they offer.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use node_sdk::{CallError, Created, Node, NodeBuilder, Params, Peers, ServiceError, State};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

use crate::database::Database;
use crate::goods::Good;
use crate::members::Member;

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS purchases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    member INTEGER NOT NULL,
    good INTEGER NOT NULL,
    price INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

/// A good that a member bought.
#[derive(Debug, Serialize, Deserialize)]
pub struct Purchase {
    /// The number that the database has given it.
    pub id: i64,
    /// Who bought.
    pub member: i64,
    /// The good that was bought.
    pub good: i64,
    /// The price of the good then.
    pub price: u32,
    /// When, in UTC.
    pub at: String,
}

/// The service, ready to be told where to listen.
pub fn node(database: Database) -> NodeBuilder {
    Node::builder("purchases")
        .interests(["members", "goods"])
        .state(database)
        .public_routes()
        .route("POST/purchases", buy)
        .route("GET/purchases", list)
        .route("GET/purchases/report", report)
}

#[derive(Deserialize)]
struct Order {
    member: i64,
    good: i64,
}

#[derive(Deserialize)]
struct PurchaseFilter {
    member: Option<i64>,
}

async fn buy(
    Params(order): Params<Order>,
    peers: Peers,
    database: State<Database>,
) -> Result<Created<Purchase>, ServiceError> {
    let member: Member = peers
        .call(&format!("GET/members/{}", order.member), &())
        .await
        .map_err(|error| unknown(error, "unknown_member", "member", order.member))?;
    let good: Good = peers
        .call(&format!("GET/goods/{}", order.good), &())
        .await
        .map_err(|error| unknown(error, "unknown_good", "good", order.good))?;
    let made = database
        .run(move |db| {
            let insert = "INSERT INTO purchases (member, good, price) VALUES (?1, ?2, ?3) RETURNING *";
            Ok(db.query_row(insert, params![member.id, good.id, good.price], purchase)?)
        })
        .await?;
    // An event without subscribers is not an error.
    peers.emit("purchases.made", &made)?;
    Ok(Created(made))
}

/// The earnings of each category.
async fn report(peers: Peers, database: State<Database>) -> Result<BTreeMap<String, i64>, ServiceError> {
    let earned: HashMap<i64, i64> = database
        .run(|db| {
            let mut query = db.prepare("SELECT good, SUM(price) FROM purchases GROUP BY good")?;
            let earned = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            Ok(earned)
        })
        .await?;
    let mut report = BTreeMap::new();
    let mut goods = peers.stream::<Good>("GET/goods/export", &()).await?;
    while let Some(Good { id, category, .. }) = goods.try_next().await? {
        *report.entry(category).or_default() += earned.get(&id).copied().unwrap_or_default();
    }
    Ok(report)
}

async fn list(
    Params(filter): Params<PurchaseFilter>,
    database: State<Database>,
) -> Result<Vec<Purchase>, ServiceError> {
    database
        .run(move |db| {
            let mut query =
                db.prepare("SELECT * FROM purchases WHERE ?1 IS NULL OR member = ?1 ORDER BY id DESC LIMIT 100")?;
            let purchases = query.query_map([filter.member], purchase)?.collect::<Result<_, _>>()?;
            Ok(purchases)
        })
        .await
}

/// A member or good that does not exist is the caller's fault. A service that cannot be reached is
/// not.
fn unknown(error: CallError, reason: &'static str, what: &str, id: i64) -> ServiceError {
    match error {
        CallError::Refused { status: 404, .. } => {
            ServiceError::new(422, reason, format!("the order names {what} {id}, which does not exist"))
        }
        other => other.into(),
    }
}

fn purchase(row: &Row<'_>) -> rusqlite::Result<Purchase> {
    Ok(Purchase {
        id: row.get("id")?,
        member: row.get("member")?,
        good: row.get("good")?,
        price: row.get("price")?,
        at: row.get("at")?,
    })
}
