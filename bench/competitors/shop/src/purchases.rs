//! The service `purchases`: who has bought what. It calls the other two services.

use std::collections::HashMap;

use futures::TryStreamExt;
use rusqlite::{Row, params};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::database::Database;
use crate::proto::goods_client::GoodsClient;
use crate::proto::members_client::MembersClient;
use crate::proto::purchases_server::Purchases;
use crate::proto::{Earned, Good, Id, Nothing, Order, Purchase, PurchaseFilter, PurchaseList};

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS purchases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    member INTEGER NOT NULL,
    good INTEGER NOT NULL,
    price INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

/// The service.
pub struct PurchasesService {
    pub database: Database,
    pub members: MembersClient<Channel>,
    pub goods: GoodsClient<Channel>,
}

#[tonic::async_trait]
impl Purchases for PurchasesService {
    async fn buy(&self, request: Request<Order>) -> Result<Response<Purchase>, Status> {
        let order = request.into_inner();
        let member = self
            .members
            .clone()
            .find(Id { id: order.member })
            .await
            .map_err(|status| unknown(status, "member", order.member))?
            .into_inner();
        let good = self
            .goods
            .clone()
            .find(Id { id: order.good })
            .await
            .map_err(|status| unknown(status, "good", order.good))?
            .into_inner();
        let made = self
            .database
            .run(move |db| {
                let insert = "INSERT INTO purchases (member, good, price) VALUES (?1, ?2, ?3) RETURNING *";
                Ok(db.query_row(insert, params![member.id, good.id, good.price], purchase)?)
            })
            .await?;
        Ok(Response::new(made))
    }

    /// The earnings of each category.
    async fn report(&self, _request: Request<Nothing>) -> Result<Response<Earned>, Status> {
        let earned: HashMap<i64, i64> = self
            .database
            .run(|db| {
                let mut query = db.prepare("SELECT good, SUM(price) FROM purchases GROUP BY good")?;
                let earned =
                    query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
                Ok(earned)
            })
            .await?;
        let mut report = Earned::default();
        let mut goods = self.goods.clone().export(Nothing {}).await?.into_inner();
        while let Some(Good { id, category, .. }) = goods.try_next().await? {
            *report.by_category.entry(category).or_default() += earned.get(&id).copied().unwrap_or_default();
        }
        Ok(Response::new(report))
    }

    async fn list(&self, request: Request<PurchaseFilter>) -> Result<Response<PurchaseList>, Status> {
        let filter = request.into_inner();
        let purchases = self
            .database
            .run(move |db| {
                let mut query =
                    db.prepare("SELECT * FROM purchases WHERE ?1 IS NULL OR member = ?1 ORDER BY id DESC LIMIT 100")?;
                let purchases = query.query_map([filter.member], purchase)?.collect::<Result<_, _>>()?;
                Ok(purchases)
            })
            .await?;
        Ok(Response::new(PurchaseList { purchases }))
    }
}

/// A member or good that does not exist is the caller's fault. A service that cannot be reached is
/// not.
fn unknown(status: Status, what: &str, id: i64) -> Status {
    match status.code() {
        Code::NotFound => {
            Status::failed_precondition(format!("the order names {what} {id}, which does not exist"))
        }
        _ => status,
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
