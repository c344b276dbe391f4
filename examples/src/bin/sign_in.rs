//! A person signs in, and a cookie says so from then on. With a Distributor and a gateway:
//!
//! ```sh
//! cargo run --release --bin sign_in &
//! json='Content-Type: application/json'
//! curl -i -c jar -H "$json" -d '{"name":"ann","password":"secret"}' 127.0.0.1:8000/session
//! curl -b jar 127.0.0.1:8000/me
//! curl -b jar -c jar -X DELETE 127.0.0.1:8000/session
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use node_sdk::{
    Cookie, Cookies, FromCall, HttpResponse, IncomingCall, NoContent, Node, Params, Redirect, ServiceError, StartError,
    State, Wants,
};

/// The cookie with the id of the session.
const COOKIE: &str = "session";
/// How long a browser stays signed in.
const SESSION_TIME: Duration = Duration::from_secs(8 * 3600);
/// Maximum number of people who are signed in. A service of your own keeps them in a database.
const MAX_SESSIONS: usize = 10_000;

/// Who is signed in, by the ids of sessions.
#[derive(Default)]
struct Sessions(Mutex<HashMap<String, String>>);

impl Sessions {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, String>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The person who makes the request: an argument of handlers, made of others.
struct User {
    name: String,
    session: String,
}

impl FromCall for User {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let (cookies, State(sessions)) = (Cookies::from_call(call)?, State::<Sessions>::from_call(call)?);
        let session = cookies.get(COOKIE).unwrap_or_default().to_owned();
        let name = sessions.with(|sessions| sessions.get(&session).cloned());
        let refused = || ServiceError::new(401, "sign_in", "sign in first").cookie(Cookie::removed(COOKIE));
        name.map(|name| Self { name, session }).ok_or_else(refused)
    }

    fn wants(wants: &mut Wants) {
        Cookies::wants(wants);
    }
}

#[derive(serde::Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

async fn sign_in(
    Params(Credentials { name, password }): Params<Credentials>,
    sessions: State<Sessions>,
) -> Result<HttpResponse<Redirect>, ServiceError> {
    // A service of your own compares with a hash: see the service `members`.
    if password != "secret" {
        return Err(ServiceError::new(401, "wrong_password", "the name or the password is wrong"));
    }
    let session = random_id()?;
    let has_room = sessions.0.with(|sessions| {
        let has_room = sessions.len() < MAX_SESSIONS;
        has_room.then(|| sessions.insert(session.clone(), name)).is_some()
    });
    if !has_room {
        return Err(ServiceError::new(503, "full", "too many people are signed in"));
    }
    let cookie = Cookie::new(COOKIE, session).max_age(SESSION_TIME);
    Ok(HttpResponse::new(Redirect::to("/me")).cookie(cookie))
}

/// An id that cannot be guessed.
fn random_id() -> Result<String, ServiceError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| ServiceError::internal("the system has no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn me(user: User) -> Result<String, ServiceError> {
    Ok(user.name)
}

async fn sign_out(user: User, sessions: State<Sessions>) -> Result<HttpResponse<NoContent>, ServiceError> {
    sessions.0.with(|sessions| sessions.remove(&user.session));
    Ok(HttpResponse::new(NoContent).cookie(Cookie::removed(COOKIE)))
}

#[tokio::main]
async fn main() -> Result<(), StartError> {
    Node::builder("accounts")
        .public_routes()
        .state(Sessions::default())
        .route("POST/session", sign_in)
        .route("GET/me", me)
        .route("DELETE/session", sign_out)
        .serve()
        .await
}
