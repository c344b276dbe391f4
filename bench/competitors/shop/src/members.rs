//! The service `members`: the people who may buy.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params as HashParams};
use rusqlite::{ErrorCode, OptionalExtension, Row, params};
use tonic::{Request, Response, Status};

use crate::database::Database;
use crate::proto::members_server::Members;
use crate::proto::{Credentials, Id, Member, MemberList, Nothing};

/// The tables of this service.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL
)";

/// The service.
pub struct MembersService {
    pub database: Database,
}

#[tonic::async_trait]
impl Members for MembersService {
    async fn join(&self, request: Request<Credentials>) -> Result<Response<Member>, Status> {
        let Credentials { username, password } = request.into_inner();
        if username.trim().is_empty() || password.is_empty() {
            return Err(Status::invalid_argument("username and password must not be empty"));
        }
        let member = self
            .database
            .run(move |db| {
                let password = hasher()
                    .hash_password(password.as_bytes())
                    .map_err(|error| Status::internal(format!("the password cannot be hashed: {error}")))?;
                let insert = "INSERT INTO members (username, password) VALUES (?1, ?2) RETURNING id, username";
                match db.query_row(insert, params![username, password.to_string()], member) {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                        Err(Status::already_exists(format!("'{username}' is a member already")).into())
                    }
                    joined => Ok(joined?),
                }
            })
            .await?;
        Ok(Response::new(member))
    }

    async fn log_in(&self, request: Request<Credentials>) -> Result<Response<Member>, Status> {
        let given = request.into_inner();
        let member = self
            .database
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
                    _ => Err(Status::unauthenticated("no member has this name and password").into()),
                }
            })
            .await?;
        Ok(Response::new(member))
    }

    async fn list(&self, _request: Request<Nothing>) -> Result<Response<MemberList>, Status> {
        let members = self
            .database
            .run(|db| {
                let mut query = db.prepare("SELECT id, username FROM members ORDER BY id LIMIT 100")?;
                let members = query.query_map([], member)?.collect::<Result<_, _>>()?;
                Ok(members)
            })
            .await?;
        Ok(Response::new(MemberList { members }))
    }

    async fn find(&self, request: Request<Id>) -> Result<Response<Member>, Status> {
        let Id { id } = request.into_inner();
        let member = self
            .database
            .run(move |db| {
                let found = db.query_row("SELECT id, username FROM members WHERE id = ?1", [id], member).optional()?;
                Ok(found.ok_or_else(|| no_member(id))?)
            })
            .await?;
        Ok(Response::new(member))
    }

    async fn leave(&self, request: Request<Id>) -> Result<Response<Nothing>, Status> {
        let Id { id } = request.into_inner();
        self.database
            .run(move |db| match db.execute("DELETE FROM members WHERE id = ?1", [id])? {
                0 => Err(no_member(id).into()),
                _ => Ok(()),
            })
            .await?;
        Ok(Response::new(Nothing {}))
    }
}

fn no_member(id: i64) -> Status {
    Status::not_found(format!("there is no member {id}"))
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
