//! The service `members`: people join, sign in and sign out.

use std::num::NonZeroU32;
use std::time::Duration;

use node_sdk::{Awaited, Cookie, Created, HttpResponse, NoContent, NodeBuilder, Params, Path, ServiceError, State};
use ring::pbkdf2;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::database::Database;
use crate::signing::{Claims, Key};
use crate::user::{COOKIE, User, now, random_id};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS members (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, member TEXT NOT NULL, ends INTEGER NOT NULL)";

/// How long a browser stays signed in.
const SESSION_SECONDS: u32 = 8 * 3600;
/// OWASP's advice for PBKDF2 with SHA-256.
const HASH_ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();
/// How many passwords are hashed at a time: that is work, and all sign-ins share the processor.
const MAX_SIGN_INS: usize = 4;

pub(crate) fn add_routes(node: NodeBuilder) -> Result<NodeBuilder, String> {
    Ok(node
        .state(Database::open("members", TABLES)?)
        .route("GET/sessions/{id}", is_open)
        .public_routes()
        .route("POST/members", join)
        .max_concurrency(MAX_SIGN_INS)
        .route("POST/session", sign_in)
        .max_concurrency(MAX_SIGN_INS)
        .route("GET/session", who)
        .route("DELETE/session", sign_out))
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

#[derive(Serialize)]
struct Member {
    name: String,
}

async fn join(Params(new): Params<Credentials>, database: State<Database>) -> Result<Created<Member>, ServiceError> {
    if new.name.trim().is_empty() || new.password.len() < 8 {
        return Err(ServiceError::bad_request("too_short", "a name is not empty, and a password has 8 bytes or more"));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| ServiceError::internal("the system has no random numbers"))?;
    let password = new.password;
    let hash = blocking(move || {
        let mut hash = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, HASH_ROUNDS, &salt, password.as_bytes(), &mut hash);
        hash
    })
    .await?;
    database
        .run(move |db| {
            let insert = "INSERT INTO members (name, salt, hash) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            match db.execute(insert, params![new.name, salt, hash])? {
                0 => Err(ServiceError::conflict("name_taken", "another member has this name").into()),
                _ => Ok(Created(Member { name: new.name })),
            }
        })
        .await
}

async fn sign_in(
    Params(given): Params<Credentials>,
    database: State<Database>,
    key: State<Key>,
) -> Result<HttpResponse<Created<Member>>, ServiceError> {
    let claims = Claims { sub: given.name, sid: random_id()?, exp: now() + i64::from(SESSION_SECONDS) };
    let name = claims.sub.clone();
    let (salt, hash): (Vec<u8>, Vec<u8>) = database
        .run(move |db| {
            let select = "SELECT salt, hash FROM members WHERE name = ?1";
            // An unknown name takes as long as a known one.
            Ok(db.query_row(select, [name], |row| Ok((row.get(0)?, row.get(1)?))).optional()?.unwrap_or_default())
        })
        .await?;
    blocking(move || pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, HASH_ROUNDS, &salt, given.password.as_bytes(), &hash))
        .await?
        .map_err(|_| ServiceError::new(401, "wrong_credentials", "the name or the password is wrong"))?;
    let claims = database
        .run(move |db| {
            db.execute("DELETE FROM sessions WHERE ends <= ?1", [now()])?;
            db.execute("INSERT INTO sessions VALUES (?1, ?2, ?3)", params![claims.sid, claims.sub, claims.exp])?;
            Ok(claims)
        })
        .await?;
    let cookie = Cookie::new(COOKIE, key.token(&claims)).max_age(Duration::from_secs(SESSION_SECONDS.into()));
    Ok(HttpResponse::new(Created(Member { name: claims.sub })).cookie(cookie))
}

async fn who(Awaited(user): Awaited<User>) -> Result<Member, ServiceError> {
    Ok(Member { name: user.name })
}

async fn sign_out(
    Awaited(user): Awaited<User>,
    database: State<Database>,
) -> Result<HttpResponse<NoContent>, ServiceError> {
    database.run(move |db| Ok(db.execute("DELETE FROM sessions WHERE id = ?1", [user.session])?)).await?;
    Ok(HttpResponse::new(NoContent).cookie(Cookie::removed(COOKIE)))
}

/// Whether the session has neither ended nor been signed out. For the other services.
async fn is_open(Path(id): Path<String>, database: State<Database>) -> Result<bool, ServiceError> {
    let select = "SELECT 1 FROM sessions WHERE id = ?1 AND ends > ?2";
    database.run(move |db| Ok(db.query_row(select, params![id, now()], |_| Ok(())).optional()?.is_some())).await
}

/// Hashes a password where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ServiceError::internal("hashing failed"))
}
