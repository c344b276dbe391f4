//! The service `goods`: what is sold, with an image each, and what is reserved for orders.

use bytes::Bytes;
use node_sdk::{
    Binary, Created, Extension, Headers, HttpResponse, NoContent, NodeBuilder, Params, Path, RawBody, ServiceError,
    State,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::breakpoint;
use crate::database::{Database, Failure};
use crate::orders::Reserve;
use crate::user::{User, owner};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS goods (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, stock INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS images (good INTEGER PRIMARY KEY, type TEXT NOT NULL, bytes BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS reservations (
        id TEXT PRIMARY KEY, good INTEGER NOT NULL, count INTEGER NOT NULL, total INTEGER NOT NULL,
        state TEXT NOT NULL
    )";

/// The state of a reservation that holds goods.
const HELD: &str = "held";
/// Maximum bytes of an image: a response has 8 MiB with its head.
const MAX_IMAGE_BYTES: u64 = 8_000_000;
/// What browsers show in an `<img>`. An image of SVG could run a script.
const IMAGE_TYPES: [&str; 3] = ["image/jpeg", "image/png", "image/webp"];

pub(crate) fn add_routes(node: NodeBuilder) -> Result<NodeBuilder, String> {
    Ok(node
        .state(Database::open("goods", TABLES)?)
        .route("PUT/reservations/{order}", reserve)
        .to_the_end()
        .route("DELETE/reservations/{order}", release)
        .to_the_end()
        .route("GET/reservations/{order}", reservation)
        .public_routes()
        .route("GET/goods", list)
        .route("GET/goods/{id}/image", image)
        .headers(["if-none-match"])
        .group(|group| {
            let group = group.guard(owner).route("POST/goods", add);
            group.route("PUT/goods/{id}/image", set_image).headers(["content-type"]).max_body(MAX_IMAGE_BYTES)
        }))
}

#[derive(Serialize)]
struct Good {
    id: i64,
    name: String,
    price: u32,
    stock: u32,
}

#[derive(Deserialize)]
struct NewGood {
    name: String,
    price: u32,
    stock: u32,
}

async fn list(database: State<Database>) -> Result<Vec<Good>, ServiceError> {
    database
        .run(|db| {
            let mut select = db.prepare("SELECT id, name, price, stock FROM goods ORDER BY id LIMIT 100")?;
            let goods = select.query_map([], |row| {
                Ok(Good { id: row.get(0)?, name: row.get(1)?, price: row.get(2)?, stock: row.get(3)? })
            })?;
            Ok(goods.collect::<Result<_, _>>()?)
        })
        .await
}

async fn add(
    Params(new): Params<NewGood>,
    Extension(user): Extension<User>,
    database: State<Database>,
) -> Result<Created<i64>, ServiceError> {
    tracing::info!(by = user.name, good = new.name, "a good is added");
    let insert = "INSERT INTO goods (name, price, stock) VALUES (?1, ?2, ?3) RETURNING id";
    database
        .run(move |db| {
            let id = db.query_row(insert, params![new.name, new.price, new.stock], |row| row.get(0))?;
            Ok(Created(id))
        })
        .await
}

async fn set_image(
    Path(good): Path<i64>,
    headers: Headers,
    RawBody(bytes): RawBody,
    database: State<Database>,
) -> Result<NoContent, ServiceError> {
    let given = headers.get("content-type").unwrap_or_default();
    let Some(media_type) = IMAGE_TYPES.iter().find(|known| given.eq_ignore_ascii_case(known)) else {
        return Err(ServiceError::new(415, "image_type", format!("an image is one of {}", IMAGE_TYPES.join(", "))));
    };
    database
        .run(move |db| {
            let is_known = db.query_row("SELECT 1 FROM goods WHERE id = ?1", [good], |_| Ok(())).optional()?;
            is_known.ok_or_else(|| no_good(good))?;
            db.execute("INSERT OR REPLACE INTO images VALUES (?1, ?2, ?3)", params![good, media_type, &*bytes])?;
            Ok(NoContent)
        })
        .await
}

async fn image(
    Path(good): Path<i64>,
    headers: Headers,
    database: State<Database>,
) -> Result<HttpResponse<Binary>, ServiceError> {
    let select = "SELECT type, bytes FROM images WHERE good = ?1";
    let (media_type, bytes): (String, Vec<u8>) = database
        .run(move |db| {
            let found = db.query_row(select, [good], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            Ok(found.ok_or_else(|| ServiceError::not_found("no_image", "this good has no image"))?)
        })
        .await?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let tag: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let is_known = headers.get("if-none-match") == Some(&*tag);
    let body = if is_known { Bytes::new() } else { bytes.into() };
    let response = HttpResponse::new(Binary(body)).content_type(media_type).header("etag", tag);
    let response = response.header("cache-control", "max-age=60").header("x-content-type-options", "nosniff");
    Ok(if is_known { response.status(304) } else { response })
}

/// Takes the goods of an order out of the stock, and returns their price. Doing it twice does it
/// once; after a release it is refused, so that a call that comes late does no harm.
async fn reserve(
    Path(order): Path<String>,
    Params(wanted): Params<Reserve>,
    database: State<Database>,
) -> Result<i64, ServiceError> {
    breakpoint::pass("reserve.before").await;
    let total = database
        .run(move |db| {
            if let Some((state, total)) = reservation_of(db, &order)? {
                let is_held = state == HELD;
                return is_held
                    .then_some(total)
                    .ok_or_else(|| ServiceError::conflict("released", "it was released").into());
            }
            let Reserve { good, count } = wanted;
            let select = "SELECT price FROM goods WHERE id = ?1";
            let price: Option<u32> = db.query_row(select, [good], |row| row.get(0)).optional()?;
            let total = i64::from(price.ok_or_else(|| no_good(good))?) * i64::from(count);
            let take = "UPDATE goods SET stock = stock - ?2 WHERE id = ?1 AND stock >= ?2";
            if db.execute(take, params![good, count])? == 0 {
                return Err(ServiceError::conflict("sold_out", "there are not that many").into());
            }
            let insert = "INSERT INTO reservations VALUES (?1, ?2, ?3, ?4, ?5)";
            db.execute(insert, params![order, good, count, total, HELD])?;
            Ok(total)
        })
        .await?;
    breakpoint::pass("reserve.after").await;
    Ok(total)
}

/// Puts the goods of an order back. An order that is not known cannot be reserved any more.
async fn release(Path(order): Path<String>, database: State<Database>) -> Result<(), ServiceError> {
    breakpoint::pass("release.before").await;
    database
        .run(move |db| {
            if reservation_of(db, &order)?.is_some_and(|(state, _)| state == HELD) {
                let put_back = "UPDATE goods SET stock = stock + count FROM reservations
                                WHERE goods.id = reservations.good AND reservations.id = ?1";
                db.execute(put_back, [&order])?;
            }
            let upsert = "INSERT INTO reservations VALUES (?1, 0, 0, 0, 'released')
                          ON CONFLICT (id) DO UPDATE SET state = 'released'";
            db.execute(upsert, [order])?;
            Ok(())
        })
        .await?;
    breakpoint::pass("release.after").await;
    Ok(())
}

/// `held` or `released`; nothing of an order that is not known.
async fn reservation(Path(order): Path<String>, database: State<Database>) -> Result<Option<String>, ServiceError> {
    database.run(move |db| Ok(reservation_of(db, &order)?.map(|(state, _)| state))).await
}

/// The state and the price.
fn reservation_of(db: &Connection, order: &str) -> Result<Option<(String, i64)>, Failure> {
    let select = "SELECT state, total FROM reservations WHERE id = ?1";
    Ok(db.query_row(select, [order], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

fn no_good(id: i64) -> ServiceError {
    ServiceError::not_found("no_good", format!("there is no good {id}"))
}
