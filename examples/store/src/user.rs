//! Who makes a request: an argument of handlers.

use std::time::{Duration, SystemTime};

use node_sdk::{AsyncFromCall, Awaited, Cookie, Cookies, Extension, Peers, ServiceError, State};

use crate::signing::Key;

/// The cookie with the token.
pub(crate) const COOKIE: &str = "store";

/// The member who is signed in.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    /// The session, which ends when the member signs out.
    pub(crate) session: String,
}

/// The token says who it is. Whether they have signed out since then is what `members` knows: that
/// call is awaited before the handler begins.
impl AsyncFromCall for User {
    type Arguments = (Cookies, State<Key>, Peers);

    async fn from_arguments((cookies, key, peers): Self::Arguments) -> Result<Self, ServiceError> {
        let refusal = || ServiceError::new(401, "sign_in", "sign in first").cookie(Cookie::removed(COOKIE));
        let claims = cookies.get(COOKIE).and_then(|token| key.claims(token, now())).ok_or_else(refusal)?;
        let is_open: bool = peers.call(&format!("GET/sessions/{}", claims.sid), &()).await?;
        is_open.then_some(Self { name: claims.sub, session: claims.sid }).ok_or_else(refusal)
    }
}

/// A guard: lets only the owner of the store through, and hands on who it is.
pub(crate) async fn owner(Awaited(user): Awaited<User>) -> Result<Extension<User>, ServiceError> {
    match &*user.name {
        "owner" => Ok(Extension(user)),
        _ => Err(ServiceError::new(403, "owner_only", "this is for the owner of the store")),
    }
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a token ends at a time of the wall clock")]
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// An id that cannot be guessed.
pub(crate) fn random_id() -> Result<String, ServiceError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| ServiceError::internal("the system has no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
