//! The service `shipping`: the shipments of orders.

use node_sdk::{NodeBuilder, Params, Path, ServiceError, State};
use rusqlite::{Connection, OptionalExtension, params};

use crate::breakpoint;
use crate::database::{Database, Failure};
use crate::orders::Ship;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS shipments (
    id TEXT PRIMARY KEY, address TEXT NOT NULL, state TEXT NOT NULL
)";

/// Nothing can be sent to this address.
const NOWHERE: &str = "nowhere";

pub(crate) fn add_routes(node: NodeBuilder) -> Result<NodeBuilder, String> {
    Ok(node
        .state(Database::open("shipping", TABLES)?)
        .route("PUT/shipments/{order}", ship)
        .to_the_end()
        .route("DELETE/shipments/{order}", recall)
        .to_the_end()
        .route("GET/shipments/{order}", shipment))
}

/// Sends the goods of an order. Doing it twice does it once; after a recall it is refused.
async fn ship(
    Path(order): Path<String>,
    Params(wanted): Params<Ship>,
    database: State<Database>,
) -> Result<(), ServiceError> {
    breakpoint::pass("ship.before").await;
    database
        .run(move |db| match state_of(db, &order)?.as_deref() {
            Some("shipped") => Ok(()),
            Some(_) => Err(ServiceError::conflict("recalled", "this shipment has been recalled").into()),
            None if wanted.address == NOWHERE => {
                Err(ServiceError::new(422, "no_such_address", "nothing can be sent to this address").into())
            }
            None => {
                db.execute("INSERT INTO shipments VALUES (?1, ?2, 'shipped')", params![order, wanted.address])?;
                Ok(())
            }
        })
        .await?;
    breakpoint::pass("ship.after").await;
    Ok(())
}

/// Calls a shipment back. An order that is not known cannot be shipped any more.
async fn recall(Path(order): Path<String>, database: State<Database>) -> Result<(), ServiceError> {
    breakpoint::pass("recall.before").await;
    let upsert = "INSERT INTO shipments VALUES (?1, '', 'recalled') ON CONFLICT (id) DO UPDATE SET state = 'recalled'";
    database.run(move |db| Ok(db.execute(upsert, [order])?)).await?;
    breakpoint::pass("recall.after").await;
    Ok(())
}

/// `shipped` or `recalled`; nothing of an order that is not known.
async fn shipment(Path(order): Path<String>, database: State<Database>) -> Result<Option<String>, ServiceError> {
    database.run(move |db| state_of(db, &order)).await
}

fn state_of(db: &Connection, order: &str) -> Result<Option<String>, Failure> {
    Ok(db.query_row("SELECT state FROM shipments WHERE id = ?1", [order], |row| row.get(0)).optional()?)
}
