//! The service `chat`: rooms whose members talk over WebSockets.
//!
//! There may be any number of nodes and gateways. The sockets stay with the gateways, and what a
//! member says is pushed to all members of the room. A node keeps nothing, so it can be replaced
//! while they talk.

use std::time::Duration;

use node_sdk::{Html, Node, NodeBuilder, Params, Path, Peers, ServiceError, Session, Sockets, Welcome};
use serde::{Deserialize, Serialize};

/// Maximum characters of a message.
const MAX_CHARS: usize = 1000;
/// How long a member who was cut may take to come back and miss nothing.
const RESUME_TIME: Duration = Duration::from_secs(60);

/// What a member has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The room in which it was said.
    pub room: String,
    /// The name that the member gives itself.
    pub name: String,
    /// What was said.
    pub text: String,
}

/// The service, ready to be told where to listen.
pub fn node() -> NodeBuilder {
    Node::builder("chat")
        .public_routes()
        .route("GET/chat", page)
        .sockets("GET/chat/{room}", Sockets::open(enter).message(say).resume(RESUME_TIME))
        .route("GET/chat/{room}/members", members)
}

#[derive(Deserialize)]
struct Guest {
    name: String,
}

/// A page to try it with.
async fn page() -> Result<Html<&'static str>, ServiceError> {
    Ok(Html(include_str!("chat.html")))
}

/// Lets a guest into a room.
async fn enter(Path(room): Path<String>, Params(guest): Params<Guest>) -> Result<Welcome, ServiceError> {
    Ok(Welcome::new().user(guest.name).group(group(&room)))
}

/// Tells all members of the room what one of them says.
async fn say(
    Path(room): Path<String>,
    Params(text): Params<String>,
    session: Session,
    peers: Peers,
) -> Result<(), ServiceError> {
    if text.chars().count() > MAX_CHARS {
        let message = format!("a message has {MAX_CHARS} characters at most");
        return Err(ServiceError::bad_request("too_long", message));
    }
    let name = session.user().unwrap_or_default().to_owned();
    peers.push_group(&group(&room), &Message { room, name, text }).await?;
    Ok(())
}

/// The names of those who are in a room, on any gateway.
async fn members(Path(room): Path<String>, peers: Peers) -> Result<Vec<String>, ServiceError> {
    let mut names: Vec<String> = peers.present(&group(&room)).await.into_iter().filter_map(|one| one.user).collect();
    names.sort_unstable();
    Ok(names)
}

/// Groups are names of the whole mesh, so a service says that they are its own.
fn group(room: &str) -> String {
    format!("chat:{room}")
}
