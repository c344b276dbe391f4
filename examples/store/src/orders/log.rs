//! The orders, as they are written down.

use node_sdk::ServiceError;
use rusqlite::{OptionalExtension, Row, params};

use crate::database::Database;
use crate::orders::saga::State;
use crate::orders::{NewOrder, Order};
use crate::user::random_id;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, member TEXT NOT NULL, key TEXT NOT NULL,
    good INTEGER NOT NULL, count INTEGER NOT NULL, card TEXT NOT NULL, address TEXT NOT NULL,
    total INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, is_settled INTEGER NOT NULL,
    UNIQUE (member, key)
)";

/// The orders of all members.
#[derive(Clone)]
pub(crate) struct OrderLog(Database);

impl OrderLog {
    pub(crate) fn open() -> Result<Self, String> {
        Database::open("orders", TABLES).map(Self)
    }

    /// Writes a new order down. If the member has sent one with this key before, it is that one.
    pub(crate) async fn add(&self, member: String, key: String, new: NewOrder) -> Result<Order, ServiceError> {
        let id = random_id()?;
        let insert = "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, NULL, 0) ON CONFLICT DO NOTHING";
        let select = "SELECT * FROM orders WHERE member = ?1 AND key = ?2";
        self.0
            .run(move |db| {
                let NewOrder { good, count, card, address } = new;
                db.execute(insert, params![id, member, key, good, count, card, address, State::Begun])?;
                Ok(db.query_row(select, params![member, key], order)?)
            })
            .await
    }

    pub(crate) async fn find(&self, id: &str) -> Result<Option<Order>, ServiceError> {
        let id = id.to_owned();
        self.0.run(move |db| Ok(db.query_row("SELECT * FROM orders WHERE id = ?1", [id], order).optional()?)).await
    }

    /// Writes down how far an order is. Whether it was in the state `from` until now, and so was
    /// not written by others.
    pub(crate) async fn save(&self, order: &Order, from: State) -> Result<bool, ServiceError> {
        let Order { id, total, state, reason, .. } = order.clone();
        let update = "UPDATE orders SET total = ?3, state = ?4, reason = ?5 WHERE id = ?1 AND state = ?2";
        self.0.run(move |db| Ok(db.execute(update, params![id, from, total, state, reason])? == 1)).await
    }

    /// Writes down that the money of an order has come.
    pub(crate) async fn settle(&self, id: String) -> Result<Option<Order>, ServiceError> {
        let update = "UPDATE orders SET is_settled = 1 WHERE id = ?1 RETURNING *";
        self.0.run(move |db| Ok(db.query_row(update, [id], order).optional()?)).await
    }

    /// The newest orders of a member.
    pub(crate) async fn of_member(&self, member: String) -> Result<Vec<Order>, ServiceError> {
        let select = "SELECT * FROM orders WHERE member = ?1 ORDER BY rowid DESC LIMIT 100";
        self.0
            .run(move |db| {
                let orders = db.prepare(select)?.query_map([member], order)?.collect::<Result<_, _>>()?;
                Ok(orders)
            })
            .await
    }

    /// The ids of all orders that have not come to an end.
    pub(crate) async fn unfinished(&self) -> Result<Vec<String>, ServiceError> {
        let select = "SELECT id FROM orders WHERE state NOT IN ('shipped', 'cancelled') ORDER BY rowid";
        self.0
            .run(move |db| {
                let ids = db.prepare(select)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
                Ok(ids)
            })
            .await
    }
}

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get("id")?,
        member: row.get("member")?,
        good: row.get("good")?,
        count: row.get("count")?,
        card: row.get("card")?,
        address: row.get("address")?,
        total: row.get("total")?,
        state: row.get("state")?,
        reason: row.get("reason")?,
        is_settled: row.get("is_settled")?,
    })
}
