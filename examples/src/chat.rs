//! The service `chat`: rooms whose members talk over WebSockets.
//!
//! There may be any number of nodes and gateways: what a member says goes as an event to all nodes
//! of the service, and each node tells the members whose sockets it has. Nothing else is shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, TryStreamExt, stream};
use node_sdk::{Html, Items, Node, NodeBuilder, Params, Path, Peers, ServiceError, State, Streaming};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// The event by which all nodes of the service learn what was said.
const SAID: &str = "chat.said";
/// Messages that wait for a member who does not read. One who misses some is told to come again.
const MAX_BEHIND: usize = 64;
/// Maximum number of rooms that have members on one node.
const MAX_ROOMS: usize = 10_000;
/// Maximum characters of a message.
const MAX_CHARS: usize = 1000;

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
        .state(Rooms::default())
        .public_routes()
        .route("GET/chat", page)
        .route("GET/chat/{room}", join)
        .subscribe(SAID, tell)
}

/// The rooms that have members on this node.
#[derive(Default)]
struct Rooms(Mutex<HashMap<String, broadcast::Sender<Message>>>);

impl Rooms {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, broadcast::Sender<Message>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A member of a room, until it is dropped.
struct Member {
    room: String,
    name: String,
    messages: broadcast::Receiver<Message>,
    rooms: Arc<Rooms>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.rooms.with(|rooms| {
            // The receiver of this member still counts.
            if rooms.get(&self.room).is_some_and(|room| room.receiver_count() <= 1) {
                rooms.remove(&self.room);
            }
        });
    }
}

#[derive(Deserialize)]
struct Guest {
    name: String,
}

/// A page to try it with.
async fn page() -> Result<Html<&'static str>, ServiceError> {
    Ok(Html(include_str!("chat.html")))
}

/// Takes what the member says, and tells the member what all in the room say.
async fn join(
    Path(room): Path<String>,
    Params(guest): Params<Guest>,
    State(rooms): State<Rooms>,
    peers: Peers,
    said: Items<String>,
) -> Result<Streaming<impl Stream<Item = Result<Message, ServiceError>>>, ServiceError> {
    let messages = rooms.with(|rooms| match rooms.get(&room) {
        Some(known) => Ok(known.subscribe()),
        None if rooms.len() < MAX_ROOMS => {
            let (sender, messages) = broadcast::channel(MAX_BEHIND);
            rooms.insert(room.clone(), sender);
            Ok(messages)
        }
        None => Err(ServiceError::new(503, "full", "there are too many rooms; try again later")),
    })?;
    let member = Member { room, name: guest.name, messages, rooms };
    Ok(Streaming(stream::try_unfold((member, said), move |(mut member, mut said)| {
        let peers = peers.clone();
        async move {
            let next = member.next(&mut said, &peers).await?;
            Ok(next.map(|message| (message, (member, said))))
        }
    })))
}

impl Member {
    /// The next message for this member; `None` when it leaves. Meanwhile, what it says goes to
    /// all.
    async fn next(&mut self, said: &mut Items<String>, peers: &Peers) -> Result<Option<Message>, ServiceError> {
        loop {
            tokio::select! {
                text = said.try_next() => {
                    let Some(text) = text? else { return Ok(None) };
                    if text.chars().count() > MAX_CHARS {
                        let message = format!("a message has {MAX_CHARS} characters at most");
                        return Err(ServiceError::bad_request("too_long", message));
                    }
                    peers.broadcast(SAID, &Message { room: self.room.clone(), name: self.name.clone(), text })?;
                }
                message = self.messages.recv() => match message {
                    Ok(message) => return Ok(Some(message)),
                    Err(RecvError::Lagged(_)) => {
                        return Err(ServiceError::new(429, "behind", "messages were missed; join again"));
                    }
                    Err(RecvError::Closed) => return Ok(None),
                },
            }
        }
    }
}

/// Tells the members on this node what somebody has said on any node.
async fn tell(Params(message): Params<Message>, rooms: State<Rooms>) -> Result<(), ServiceError> {
    rooms.with(|rooms| {
        if let Some(room) = rooms.get(&message.room) {
            // A room without receivers is about to go.
            let _ = room.send(message);
        }
    });
    Ok(())
}
