//! The service `goods`: the things that can be bought.

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

/// Goods of a page, and bytes after which a page ends with the next good. One page is held for each
/// slow reader.
const PAGE_GOODS: u32 = 100;
const PAGE_BYTES: usize = 64 * 1024;
/// Bytes after which the list ends likewise: one answer may have 8 MiB, and every good less than
/// that.
const LIST_BYTES: usize = 512 * 1024;

/// Each good with how often it was sold.
const GOODS: &str = "SELECT goods.*, COALESCE(sold, 0) AS sold FROM goods LEFT JOIN sales ON good = id";

/// Something to buy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Good {
    /// The number that the database has given it.
    pub id: i64,
    /// The name that people read.
    pub name: String,
    /// The category by which goods are listed.
    pub category: String,
    /// The price in the smallest unit of the currency.
    pub price: u32,
    /// The text that people read.
    pub description: String,
    /// How often.
    pub sold: u32,
}

/// The service, ready to be told where to listen.
pub fn node(database: Database) -> NodeBuilder {
    Node::builder("goods")
        .state(database)
        .public_routes()
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
struct GoodsFilter {
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

async fn list(Params(filter): Params<GoodsFilter>, database: State<Database>) -> Result<Vec<Good>, ServiceError> {
    page(&database, filter, 0, LIST_BYTES).await
}

/// All goods, read from the database as they are taken.
async fn export(
    database: State<Database>,
) -> Result<Streaming<impl Stream<Item = Result<Good, ServiceError>>>, ServiceError> {
    let pages = stream::try_unfold(0, move |after| {
        let database = database.clone();
        async move {
            let goods = page(&database, GoodsFilter::default(), after, PAGE_BYTES).await?;
            let last = goods.last().map(|good| good.id);
            Ok::<_, ServiceError>(last.map(|last| (stream::iter(goods.into_iter().map(Ok)), last)))
        }
    });
    Ok(Streaming(pages.try_flatten()))
}

/// Goods after one, by their numbers. None only if there are none: the first is there however large
/// it is.
async fn page(
    database: &Database,
    filter: GoodsFilter,
    after: i64,
    max_bytes: usize,
) -> Result<Vec<Good>, ServiceError> {
    database
        .run(move |db| {
            let page = "WHERE (?1 IS NULL OR category = ?1) AND id > ?2 ORDER BY id LIMIT ?3";
            let mut query = db.prepare(&format!("{GOODS} {page}"))?;
            let mut rows = query.query(params![filter.category, after, PAGE_GOODS])?;
            let (mut goods, mut bytes) = (Vec::new(), 0);
            while bytes < max_bytes
                && let Some(row) = rows.next()?
            {
                let good = good(row)?;
                bytes += good.name.len() + good.category.len() + good.description.len();
                goods.push(good);
            }
            Ok(goods)
        })
        .await
}

/// Counts an event of `purchases`, which need not know who wants to know.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// How many goods each page has, when their descriptions have this many bytes.
    async fn check(descriptions: &[usize], max_bytes: usize, pages: &[usize]) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("goods"), TABLES).unwrap();
        for bytes in descriptions {
            let description = "x".repeat(*bytes);
            let new = NewGood { name: "n".to_owned(), category: String::new(), price: 1, description };
            add(Params(new), State(Arc::new(database.clone()))).await.unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let goods = page(&database, GoodsFilter::default(), after, max_bytes).await.unwrap();
            let Some(last) = goods.last() else { break };
            after = last.id;
            seen.push(goods.len());
        }
        assert_eq!(seen, pages);
        let all: Vec<Good> = export(State(Arc::new(database))).await.unwrap().0.try_collect().await.unwrap();
        assert!(all.iter().map(|good| good.description.len()).eq(descriptions.iter().copied()));
    }

    #[tokio::test]
    async fn a_page_ends_by_its_bytes() {
        check(&[], PAGE_BYTES, &[]).await;
        check(&[10; 250], PAGE_BYTES, &[100, 100, 50]).await;
        check(&[PAGE_BYTES / 2; 5], PAGE_BYTES, &[2, 2, 1]).await;
        check(&[1 << 20; 3], PAGE_BYTES, &[1, 1, 1]).await;
        check(&[10, 1 << 20, 10], PAGE_BYTES, &[2, 1]).await;
    }
}
