//! The service `members`: the people who may buy.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params as HashParams};
use node_sdk::{Created, NoContent, Node, NodeBuilder, Params, Path, ServiceError, State};
use rusqlite::{ErrorCode, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::database::Database;

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL
)";

/// A member as others may see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Member {
    /// The number that the database has given it.
    pub id: i64,
    /// Chosen by the member; no two are alike.
    pub username: String,
}

/// The service, ready to be told where to listen.
pub fn node(database: Database) -> NodeBuilder {
    Node::builder("members")
        .state(database)
        .public_routes()
        .route("POST/members", join)
        .route("POST/members/login", log_in)
        .route("GET/members", list)
        .route("GET/members/{id}", find)
        .route("DELETE/members/{id}", leave)
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

async fn join(Params(new): Params<Credentials>, database: State<Database>) -> Result<Created<Member>, ServiceError> {
    let Credentials { username, password } = new;
    if username.trim().is_empty() || password.is_empty() {
        return Err(ServiceError::bad_request("empty", "username and password must not be empty"));
    }
    database
        .run(move |db| {
            let password = hasher()
                .hash_password(password.as_bytes())
                .map_err(|error| ServiceError::internal(format!("the password cannot be hashed: {error}")))?;
            let insert = "INSERT INTO members (username, password) VALUES (?1, ?2) RETURNING id, username";
            match db.query_row(insert, params![username, password.to_string()], member) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    Err(ServiceError::conflict("username_taken", format!("'{username}' is a member already")).into())
                }
                joined => Ok(Created(joined?)),
            }
        })
        .await
}

async fn log_in(Params(given): Params<Credentials>, database: State<Database>) -> Result<Member, ServiceError> {
    database
        .run(move |db| {
            let query = "SELECT id, username, password FROM members WHERE username = ?1";
            let found = db
                .query_row(query, [&given.username], |row| Ok((member(row)?, row.get::<_, String>("password")?)))
                .optional()?;
            let right = |hash: &str| {
                let hash = PasswordHash::new(hash).ok()?;
                hasher().verify_password(given.password.as_bytes(), &hash).ok()
            };
            match found {
                Some((member, hash)) if right(&hash).is_some() => Ok(member),
                _ => Err(ServiceError::new(401, "wrong_credentials", "no member has this name and password").into()),
            }
        })
        .await
}

async fn list(database: State<Database>) -> Result<Vec<Member>, ServiceError> {
    database
        .run(|db| {
            let mut query = db.prepare("SELECT id, username FROM members ORDER BY id LIMIT 100")?;
            let members = query.query_map([], member)?.collect::<Result<_, _>>()?;
            Ok(members)
        })
        .await
}

async fn find(Path(id): Path<i64>, database: State<Database>) -> Result<Member, ServiceError> {
    database
        .run(move |db| {
            let found = db.query_row("SELECT id, username FROM members WHERE id = ?1", [id], member).optional()?;
            Ok(found.ok_or_else(|| no_member(id))?)
        })
        .await
}

async fn leave(Path(id): Path<i64>, database: State<Database>) -> Result<NoContent, ServiceError> {
    database
        .run(move |db| match db.execute("DELETE FROM members WHERE id = ?1", [id])? {
            0 => Err(no_member(id).into()),
            _ => Ok(NoContent),
        })
        .await
}

fn no_member(id: i64) -> ServiceError {
    ServiceError::not_found("no_member", format!("there is no member {id}"))
}

fn member(row: &Row<'_>) -> rusqlite::Result<Member> {
    Ok(Member { id: row.get("id")?, username: row.get("username")? })
}

/// Argon2id with the least memory and time that OWASP's password storage advice names: 19 MiB, two
/// passes.
fn hasher() -> Argon2<'static> {
    let params = HashParams::new(19 * 1024, 2, 1, None).expect("these are within Argon2's bounds");
    Argon2::from(params)
}
