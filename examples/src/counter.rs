//! The service `counter`: streams to which one side sends, or both, and an event. PROTOCOL.md
//! has what goes over the wire.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures::{Stream, TryStreamExt, stream};
use node_sdk::{
    BodyStream, ByteStream, HttpResponse, Items, Node, NodeBuilder, Params, ServiceError, State, Streaming,
};
use serde::Deserialize;

/// The texts that came by the event `notes.added`, the oldest first.
type Notes = Mutex<VecDeque<String>>;

/// How many texts are kept. The oldest goes when another comes.
const MAX_NOTES: usize = 100;

#[derive(Deserialize)]
struct Range {
    to: u64,
}

/// The service, ready to be told where to listen.
pub fn node() -> NodeBuilder {
    Node::builder("counter")
        .state(Notes::default())
        .public_routes()
        .route("GET/count", count)
        .route("POST/sums", sums)
        .route("PUT/shouted", shout)
        .route("GET/notes", notes)
        .subscribe("notes.added", add_note)
}

/// Sends the numbers up to `to`. The next one is made when the caller has read the earlier ones.
async fn count(
    Params(range): Params<Range>,
) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::iter((1..=range.to).map(Ok))))
}

/// Answers each number that the caller sends with the sum so far.
async fn sums(items: Items<u64>) -> Result<Streaming<impl Stream<Item = Result<u64, ServiceError>>>, ServiceError> {
    Ok(Streaming(stream::try_unfold((items, 0_u64), |(mut items, sum)| async move {
        let Some(number) = items.try_next().await? else { return Ok(None) };
        let sum =
            sum.checked_add(number).ok_or_else(|| ServiceError::bad_request("too_much", "the sum is beyond u64"))?;
        Ok(Some((sum, (items, sum))))
    })))
}

/// Sends back what the client sends, in capitals, piece by piece.
async fn shout(body: BodyStream) -> Result<HttpResponse<ByteStream>, ServiceError> {
    let shouted = body.map_ok(|piece| piece.to_ascii_uppercase());
    Ok(HttpResponse::new(ByteStream::new(shouted)).content_type("text/plain"))
}

async fn add_note(Params(note): Params<String>, notes: State<Notes>) -> Result<(), ServiceError> {
    let mut notes = notes.lock().map_err(|_| poisoned())?;
    if notes.len() == MAX_NOTES {
        notes.pop_front();
    }
    notes.push_back(note);
    Ok(())
}

async fn notes(notes: State<Notes>) -> Result<Vec<String>, ServiceError> {
    Ok(notes.lock().map_err(|_| poisoned())?.iter().cloned().collect())
}

fn poisoned() -> ServiceError {
    ServiceError::internal("a handler has panicked while it held the notes")
}
