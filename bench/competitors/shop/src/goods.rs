//! The service `goods`: the things that can be bought.

use std::pin::Pin;

use futures::{Stream, TryStreamExt, stream};
use rusqlite::{OptionalExtension, Row, params};
use tonic::{Request, Response, Status};

use crate::database::Database;
use crate::proto::goods_server::Goods;
use crate::proto::{Good, GoodFilter, GoodList, Id, NewGood, Nothing};

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS goods (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price INTEGER NOT NULL,
    description TEXT NOT NULL
)";

/// The service.
pub struct GoodsService {
    pub database: Database,
}

#[tonic::async_trait]
impl Goods for GoodsService {
    async fn add(&self, request: Request<NewGood>) -> Result<Response<Good>, Status> {
        let new = request.into_inner();
        if new.name.trim().is_empty() {
            return Err(Status::invalid_argument("name must not be empty"));
        }
        let good = self
            .database
            .run(move |db| {
                let insert =
                    "INSERT INTO goods (name, category, price, description) VALUES (?1, ?2, ?3, ?4) RETURNING *";
                Ok(db.query_row(insert, params![new.name, new.category, new.price, new.description], good)?)
            })
            .await?;
        Ok(Response::new(good))
    }

    async fn list(&self, request: Request<GoodFilter>) -> Result<Response<GoodList>, Status> {
        let goods = page(&self.database, request.into_inner(), 0).await?;
        Ok(Response::new(GoodList { goods }))
    }

    type ExportStream = Pin<Box<dyn Stream<Item = Result<Good, Status>> + Send>>;

    /// All goods, read from the database as they are taken.
    async fn export(&self, _request: Request<Nothing>) -> Result<Response<Self::ExportStream>, Status> {
        let database = self.database.clone();
        let pages = stream::try_unfold(0, move |after| {
            let database = database.clone();
            async move {
                let goods = page(&database, GoodFilter::default(), after).await?;
                let last = goods.last().map(|good| good.id);
                Ok::<_, Status>(last.map(|last| (stream::iter(goods.into_iter().map(Ok)), last)))
            }
        });
        Ok(Response::new(Box::pin(pages.try_flatten())))
    }

    async fn find(&self, request: Request<Id>) -> Result<Response<Good>, Status> {
        let Id { id } = request.into_inner();
        let good = self
            .database
            .run(move |db| {
                let found = db.query_row("SELECT * FROM goods WHERE id = ?1", [id], good).optional()?;
                Ok(found.ok_or_else(|| no_good(id))?)
            })
            .await?;
        Ok(Response::new(good))
    }

    async fn remove(&self, request: Request<Id>) -> Result<Response<Nothing>, Status> {
        let Id { id } = request.into_inner();
        self.database
            .run(move |db| match db.execute("DELETE FROM goods WHERE id = ?1", [id])? {
                0 => Err(no_good(id).into()),
                _ => Ok(()),
            })
            .await?;
        Ok(Response::new(Nothing {}))
    }
}

async fn page(database: &Database, filter: GoodFilter, after: i64) -> Result<Vec<Good>, Status> {
    database
        .run(move |db| {
            let page = "WHERE (?1 IS NULL OR category = ?1) AND id > ?2 ORDER BY id LIMIT 100";
            let mut query = db.prepare(&format!("SELECT * FROM goods {page}"))?;
            let goods = query.query_map(params![filter.category, after], good)?.collect::<Result<_, _>>()?;
            Ok(goods)
        })
        .await
}

fn no_good(id: i64) -> Status {
    Status::not_found(format!("there is nothing with the number {id}"))
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
