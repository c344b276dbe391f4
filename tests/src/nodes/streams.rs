//! A node whose handlers take and return streams of all kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use node_sdk::{Items, Node, NodeBuilder, Params, ServiceError, State, Streaming};
use serde::Deserialize;

/// The result of a handler.
pub type HandlerResult<T> = Result<T, ServiceError>;
/// The result of a handler that answers in parts.
pub type Parts<T> = HandlerResult<Streaming<stream::BoxStream<'static, HandlerResult<T>>>>;

#[derive(Deserialize)]
struct Range {
    upto: u64,
    #[serde(default)]
    fails_at: Option<u64>,
}

async fn count(Params(Range { upto, fails_at }): Params<Range>) -> Parts<u64> {
    if upto == 0 {
        return Err(ServiceError::bad_request("nothing", "there is nothing to count"));
    }
    Ok(Streaming(
        stream::iter(1..=upto)
            .map(move |n| match fails_at {
                Some(at) if at == n => Err(ServiceError::new(507, "full", "no more fingers")),
                _ => Ok(n),
            })
            .boxed(),
    ))
}

async fn sum(items: Items<u64>) -> HandlerResult<u64> {
    items.try_fold(0, async |sum, item| Ok(sum + item)).await
}

async fn double(items: Items<u64>) -> HandlerResult<Streaming<impl Stream<Item = HandlerResult<u64>>>> {
    Ok(Streaming(items.map_ok(|item| item * 2)))
}

async fn forever(State(working): State<AtomicUsize>) -> Parts<u64> {
    Ok(Streaming(idle(working).boxed()))
}

/// One part, and never another; it is counted for as long as it is there.
fn idle(working: Arc<AtomicUsize>) -> impl Stream<Item = HandlerResult<u64>> + Send {
    struct Working(Arc<AtomicUsize>);
    impl Drop for Working {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    working.fetch_add(1, Ordering::Relaxed);
    let working = Working(working);
    stream::iter([Ok(1)]).chain(stream::pending().map(move |()| {
        let _ = &working;
        Ok(2)
    }))
}

/// A node with streams of all kinds; the idle ones count themselves in its state.
pub fn offers(name: &str) -> NodeBuilder {
    Node::builder(name)
        .public_routes()
        .route("GET/count", count)
        .route("POST/sum", sum)
        .route("POST/double", double)
        .route("GET/forever", forever)
        .route("GET/plain", async || HandlerResult::Ok(7_u64))
}
