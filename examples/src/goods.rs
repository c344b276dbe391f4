//! What can be bought: `goods`.

use futures::{Stream, TryStreamExt, stream};
use node_sdk::{Created, NoContent, Node, NodeBuilder, Params, Path, ServiceError, State, Streaming};
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::database::Database;
use crate::purchases::Purchase;

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS goods (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price INTEGER NOT NULL,
    description TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sales (
    good INTEGER PRIMARY KEY,
    sold INTEGER NOT NULL
)";

/// Each good with how often it was sold.
const GOODS: &str = "SELECT goods.*, COALESCE(sold, 0) AS sold FROM goods LEFT JOIN sales ON good = id";

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
    /// How often.
    pub sold: u32,
}

/// The service, ready to be told where to listen.
pub fn node(database: Database) -> NodeBuilder {
    Node::builder("goods")
        .state(database)
        .route("POST/goods", add)
        .route("GET/goods", list)
        .route("GET/goods/{id}", find)
        .route("DELETE/goods/{id}", remove)
        .route("GET/goods/export", export)
        .subscribe("purchases.made", count)
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

#[derive(Default, Deserialize)]
struct Filter {
    category: Option<String>,
}

async fn add(Params(new): Params<NewGood>, database: State<Database>) -> Result<Created<Good>, ServiceError> {
    if new.name.trim().is_empty() {
        return Err(ServiceError::bad_request("empty", "name must not be empty"));
    }
    database
        .run(move |db| {
            let insert =
                "INSERT INTO goods (name, category, price, description) VALUES (?1, ?2, ?3, ?4) RETURNING *, 0 AS sold";
            Ok(Created(db.query_row(insert, params![new.name, new.category, new.price, new.description], good)?))
        })
        .await
}

async fn list(Params(filter): Params<Filter>, database: State<Database>) -> Result<Vec<Good>, ServiceError> {
    page(&database, filter, 0).await
}

/// All goods, read from the database as they are taken.
async fn export(
    database: State<Database>,
) -> Result<Streaming<impl Stream<Item = Result<Good, ServiceError>>>, ServiceError> {
    let pages = stream::try_unfold(0, move |after| {
        let database = database.clone();
        async move {
            let goods = page(&database, Filter::default(), after).await?;
            let last = goods.last().map(|good| good.id);
            Ok::<_, ServiceError>(last.map(|last| (stream::iter(goods.into_iter().map(Ok)), last)))
        }
    });
    Ok(Streaming(pages.try_flatten()))
}

async fn page(database: &Database, filter: Filter, after: i64) -> Result<Vec<Good>, ServiceError> {
    database
        .run(move |db| {
            let page = "WHERE (?1 IS NULL OR category = ?1) AND id > ?2 ORDER BY id LIMIT 100";
            let mut query = db.prepare(&format!("{GOODS} {page}"))?;
            let goods = query.query_map(params![filter.category, after], good)?.collect::<Result<_, _>>()?;
            Ok(goods)
        })
        .await
}

/// Told by `purchases`, which need not know who wants to know.
async fn count(Params(purchase): Params<Purchase>, database: State<Database>) -> Result<(), ServiceError> {
    database
        .run(move |db| {
            let sold = "INSERT INTO sales VALUES (?1, 1) ON CONFLICT DO UPDATE SET sold = sold + 1";
            db.execute(sold, [purchase.good])?;
            Ok(())
        })
        .await
}

async fn find(Path(id): Path<i64>, database: State<Database>) -> Result<Good, ServiceError> {
    database
        .run(move |db| {
            let found = db.query_row(&format!("{GOODS} WHERE id = ?1"), [id], good).optional()?;
            Ok(found.ok_or_else(|| no_good(id))?)
        })
        .await
}

async fn remove(Path(id): Path<i64>, database: State<Database>) -> Result<NoContent, ServiceError> {
    database
        .run(move |db| match db.execute("DELETE FROM goods WHERE id = ?1", [id])? {
            0 => Err(no_good(id).into()),
            _ => Ok(NoContent),
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
        sold: row.get("sold")?,
    })
}
