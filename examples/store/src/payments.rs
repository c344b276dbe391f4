//! The service `payments`: the payments of orders. The bank tells later, by a signed webhook, that
//! the money has come.

use node_sdk::{Headers, NodeBuilder, Params, Path, Peers, RawBody, ServiceError, State};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;

use crate::breakpoint;
use crate::database::{Database, Failure};
use crate::orders::{PAYMENT_SETTLED, Pay};
use crate::signing::Key;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS payments (
    id TEXT PRIMARY KEY, amount INTEGER NOT NULL, state TEXT NOT NULL
)";

/// Cards with this beginning are declined.
const DECLINED: &str = "4000";

pub(crate) fn add_routes(node: NodeBuilder) -> Result<NodeBuilder, String> {
    Ok(node
        .state(Database::open("payments", TABLES)?)
        .route("PUT/payments/{order}", pay)
        .to_the_end()
        .route("DELETE/payments/{order}", refund)
        .to_the_end()
        .route("GET/payments/{order}", payment)
        .route("POST/payments/webhook", webhook)
        .public()
        .headers(["x-bank-signature"]))
}

/// Takes the money of an order. Doing it twice does it once; after a refund it is refused.
async fn pay(
    Path(order): Path<String>,
    Params(wanted): Params<Pay>,
    database: State<Database>,
) -> Result<(), ServiceError> {
    breakpoint::pass("pay.before").await;
    database
        .run(move |db| match state_of(db, &order)?.as_deref() {
            Some("paid" | "settled") => Ok(()),
            Some(_) => Err(ServiceError::conflict("refunded", "this order has been refunded").into()),
            None if wanted.card.starts_with(DECLINED) => {
                Err(ServiceError::new(402, "declined", "the card is declined").into())
            }
            None => {
                db.execute("INSERT INTO payments VALUES (?1, ?2, 'paid')", params![order, wanted.amount])?;
                Ok(())
            }
        })
        .await?;
    breakpoint::pass("pay.after").await;
    Ok(())
}

/// Gives the money of an order back. An order that is not known cannot be paid any more.
async fn refund(Path(order): Path<String>, database: State<Database>) -> Result<(), ServiceError> {
    breakpoint::pass("refund.before").await;
    let upsert = "INSERT INTO payments VALUES (?1, 0, 'refunded') ON CONFLICT (id) DO UPDATE SET state = 'refunded'";
    database.run(move |db| Ok(db.execute(upsert, [order])?)).await?;
    breakpoint::pass("refund.after").await;
    Ok(())
}

/// `paid`, `settled` or `refunded`; nothing of an order that is not known.
async fn payment(Path(order): Path<String>, database: State<Database>) -> Result<Option<String>, ServiceError> {
    database.run(move |db| state_of(db, &order)).await
}

fn state_of(db: &Connection, order: &str) -> Result<Option<String>, Failure> {
    Ok(db.query_row("SELECT state FROM payments WHERE id = ?1", [order], |row| row.get(0)).optional()?)
}

/// What the bank says.
#[derive(Deserialize)]
struct Message {
    order: String,
}

/// The money of an order has come. The bank signs the bytes of the body: they are checked before
/// they are read.
async fn webhook(
    headers: Headers,
    RawBody(body): RawBody,
    key: State<Key>,
    database: State<Database>,
    peers: Peers,
) -> Result<(), ServiceError> {
    if !headers.get("x-bank-signature").is_some_and(|signature| key.is_signature(signature, &body)) {
        return Err(ServiceError::new(401, "bad_signature", "x-bank-signature is not that of this body"));
    }
    let message: Message = serde_json::from_slice(&body)
        .map_err(|error| ServiceError::bad_request("bad_message", format!("the message cannot be read: {error}")))?;
    let order = message.order.clone();
    let settle = "UPDATE payments SET state = 'settled' WHERE id = ?1 AND state IN ('paid', 'settled')";
    let is_known = database.run(move |db| Ok(db.execute(settle, [order])? == 1)).await?;
    if !is_known {
        return Err(ServiceError::not_found("no_payment", "this order is not paid"));
    }
    // The bank may say it again: all that hear of it do the same again.
    peers.emit(PAYMENT_SETTLED, &message.order)?;
    Ok(())
}
