//! What can be bought: `goods`.

use node_sdk::{Node, NodeBuilder, Params, Path, ServiceError, State};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::database::Database;

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS goods (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price INTEGER NOT NULL,
    description TEXT NOT NULL
)";

/// Something to buy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Good {
    /// Given by the database.
    pub id: i64,
    /// For people.
    pub name: String,
    /// To list by.
    pub category: String,
    /// In the smallest unit of the currency.
    pub price: u32,
    /// For people.
    pub description: String,
}

/// The service, ready to be told where to listen.
pub fn node(database: Database) -> NodeBuilder {
    Node::builder("goods")
        .state(database)
        .route("POST/goods", add)
        .route("GET/goods", list)
        .route("GET/goods/{id}", find)
        .route("DELETE/goods/{id}", remove)
}

#[derive(Deserialize)]
struct NewGood {
    name: String,
    #[serde(default)]
    category: String,
    price: u32,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Filter {
    category: Option<String>,
}

async fn add(Params(new): Params<NewGood>, database: State<Database>) -> Result<Good, ServiceError> {
    if new.name.trim().is_empty() {
        return Err(ServiceError::bad_request("empty", "name must not be empty"));
    }
    database
        .run(move |db| {
            let insert = "INSERT INTO goods (name, category, price, description) VALUES (?1, ?2, ?3, ?4) RETURNING *";
            Ok(db.query_row(insert, params![new.name, new.category, new.price, new.description], good)?)
        })
        .await
}

async fn list(Params(filter): Params<Filter>, database: State<Database>) -> Result<Vec<Good>, ServiceError> {
    database
        .run(move |db| {
            let mut query =
                db.prepare("SELECT * FROM goods WHERE ?1 IS NULL OR category = ?1 ORDER BY id LIMIT 100")?;
            let goods = query.query_map([filter.category], good)?.collect::<Result<_, _>>()?;
            Ok(goods)
        })
        .await
}

async fn find(Path(id): Path<i64>, database: State<Database>) -> Result<Good, ServiceError> {
    database
        .run(move |db| {
            let found = db.query_row("SELECT * FROM goods WHERE id = ?1", [id], good).optional()?;
            Ok(found.ok_or_else(|| no_good(id))?)
        })
        .await
}

async fn remove(Path(id): Path<i64>, database: State<Database>) -> Result<(), ServiceError> {
    database
        .run(move |db| match db.execute("DELETE FROM goods WHERE id = ?1", [id])? {
            0 => Err(no_good(id).into()),
            _ => Ok(()),
        })
        .await
}

fn no_good(id: i64) -> ServiceError {
    ServiceError::not_found("no_good", format!("there is nothing with the number {id}"))
}

fn good(row: &Row<'_>) -> rusqlite::Result<Good> {
    Ok(Good {
        id: row.get("id")?,
        name: row.get("name")?,
        category: row.get("category")?,
        price: row.get("price")?,
        description: row.get("description")?,
    })
}
